"""Cold, incremental and unchanged runs over the weekly revisions of a documentation, as whole processes.

`python -m evals.bench.runs [--corpus powershell] [--weeks N] [--verify]`: every run is `kb run --until embeddings`
with the server up. `--verify` checks after each that the chunks are those of the files, and ends with 1 when they are
not.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from evals.bench.common import header, ratio, skip, table
from evals.bench.corpora import clone, data_folder, missing_data
from evals.bench.invariants import violations
from evals.bench.workspace import Workspace, workspace

TENANT_TOML = """
[tenants.default]
source = "{source}"
patterns = ["**/*.md"]
"""


def configure(space: Workspace, source: Path) -> None:
    """A kb.toml with one tenant over the Markdown files of a folder."""
    space.configure(TENANT_TOML.format(source=source))


def fingerprints(space: Workspace) -> set[str]:
    """Distinct fingerprints of all present chunks."""
    return {row["fingerprint"] for row in space.chunks()}


def main() -> None:
    """Replay the weeks, then run once more with nothing changed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", default="powershell", choices=["powershell", "opentelemetry", "prometheus"])
    parser.add_argument("--weeks", type=int, help="revisions to replay (default: all)")
    parser.add_argument("--verify", action="store_true", help="check the chunks after every run")
    parser.add_argument("--smoke", action="store_true", help="three weeks of the smallest corpus")
    args = parser.parse_args()
    name, weeks = ("prometheus", 3) if args.smoke else (args.corpus, args.weeks)
    data = data_folder()
    if data is None:
        skip(missing_data())
    header(f"Runs over the weekly revisions of {name}")
    rows: list[tuple[object, ...]] = []
    seen: set[str] = set()
    broken: list[str] = []
    with TemporaryDirectory() as folder, workspace() as space:
        corpus = clone(name, Path(folder), data=data)
        configure(space, corpus.tree)
        revisions = list(corpus.revisions[:weeks])
        for kind, revision in [
            ("cold", revisions[0]),
            *(("week", each) for each in revisions[1:]),
            ("unchanged", revisions[-1]),
        ]:
            tree = corpus.checkout(revision)
            before = space.texts_embedded() if rows else 0
            run = space.kb("run", "--until", "embeddings")
            embedded = space.texts_embedded() - before
            now = fingerprints(space)
            fresh = len(now - seen)
            seen |= now
            rows.append(
                (f"{kind} {revision.week}", revision.files, run.seconds, run.cpu_seconds, run.peak_mb, embedded, fresh)
            )
            if embedded != fresh:
                broken.append(
                    f"{kind} {revision.week}: {embedded} texts embedded, {fresh} fingerprints never seen before"
                )
            if args.verify:
                broken += [f"{kind} {revision.week}: {found}" for found in violations(tree, space.chunks())]
    table(("run", "files", "seconds", "cpu s", "peak MB", "texts embedded", "new fingerprints"), rows)
    updates = rows[1:-1]
    print(f"texts embedded over {len(updates)} updates: {sum(int(str(row[5])) for row in updates):,}")
    ratio(
        "texts embedded / fingerprints never seen before",
        sum(int(str(r[5])) for r in rows) / len(seen),
        limit=1.0,
        at_least=1.0,
    )
    ratio("unchanged run, seconds", float(str(rows[-1][2])), limit=2.5)
    ratio("peak memory of a run, MB", max(float(str(row[4])) for row in rows), limit=400)
    if broken:
        raise SystemExit("\n".join([f"{len(broken)} promises broken:", *broken[:50]]))


if __name__ == "__main__":
    main()
