"""Space after changes of model: used again by the next one, and given back by `kb maintain --repack`, under load.

`python -m evals.bench.migration_repack [--rows 10000] [--rate 50]`. A tenant changes from 256 to 768 dims and back,
twice, while documents change; then its partition is made anew while it is searched and a nightly run writes. What is
compared with is a new tenant, loaded with the same documents.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from evals.bench.common import header, ratio, skip, table
from evals.bench.corpora import data_folder, missing_data
from evals.bench.large import questions, write_records
from evals.bench.migration_load import Load
from evals.bench.models import PROJECTED
from evals.bench.workspace import Workspace, workspace

TENANT = "default"
TOML = """
[embedder]
{embedder}
[index]
exact_below = 0
[eval]
queries = 50
recall_floor = 0.0
latency_tolerance = 100.0
[promotion]
soak = "0d"
[maintenance]
orphan_grace = "0d"
[tenants.default]
source = "{source}"
"""
SIZES = (
    "SELECT pg_table_size(p), pg_indexes_size(p), (SELECT sum(pg_relation_size(indexrelid))::bigint FROM pg_index i "
    "JOIN pg_class c ON c.oid = i.indexrelid WHERE indrelid = p AND relname LIKE 'kb_build%') FROM (SELECT "
    "inhrelid::regclass p FROM pg_inherits WHERE inhparent = 'kb.contents'::regclass) x "
    "ORDER BY pg_total_relation_size(p) DESC LIMIT 1"
)
LOCAL = 'provider = "local"'
OTHER = f'provider = "{PROJECTED}"\nmodel = "p768"\ndims = 768'


def main() -> None:
    """The whole history once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--rate", type=float, default=50.0, help="searches a second")
    parser.add_argument("--smoke", action="store_true", help="1,500 rows")
    args = parser.parse_args()
    data = data_folder()
    if data is None:
        skip(missing_data())
    rows = 1_500 if args.smoke else args.rows
    header(f"Repack of {rows:,} contents under {args.rate:g} searches/s")
    with workspace() as space, TemporaryDirectory() as scratch:
        records = space.folder / "records.jsonl"
        write_records(records, rows, Path(scratch), data)
        _history(space, records, rows, args.rate)


def _history(space: Workspace, records: Path, rows: int, rate: float) -> None:
    from kb_pipeline.search.retriever import Retriever
    from kb_pipeline.session import open_session
    from kb_pipeline.store.database import Database

    lines = records.read_text(encoding="utf-8").splitlines(keepends=True)
    found: list[tuple[str, int, int, int]] = []

    def note(name: str) -> None:
        found.append((name, *space.query(SIZES)[0]))
        print(f"{name}: {found[-1][1:]}", flush=True)

    def configure(embedder: str) -> None:
        space.configure(TOML.format(embedder=embedder, source=records))

    def change(at: int) -> None:
        """A twentieth of the records is another text."""
        records.write_text(
            "".join(
                line.replace('"text": "', f'"text": "Edition {at}: ', 1) if number % 20 == at else line
                for number, line in enumerate(lines)
            ),
            encoding="utf-8",
        )

    configure(LOCAL)
    space.kb("run")
    note("first load, 256 d")
    for at in (1, 2):
        configure(OTHER)
        change(at)
        space.kb("migrate")
        space.kb("maintain")
        configure(LOCAL)
        space.kb("migrate")
        space.kb("maintain")
        note(f"after a change to 768 d and back, {at}")
    with Retriever(Database(space.dsn()), open_session(space.folder / "kb.toml").settings) as retriever:
        load = Load(
            lambda text: [hit.text for hit in retriever.search(text, tenant=TENANT, k=10)], questions(100), rate
        )
        with load.running():
            time.sleep(2)
            change(3)
            run = space.start("run")
            started = time.monotonic()
            said = space.kb("maintain", "--repack").stdout
            seconds = time.monotonic() - started
            if run.wait():
                raise SystemExit(f"the nightly run beside it ended with {run.returncode}")
    print(said)
    note("after the repack")
    space.kb("maintain", "--repack")
    note("after another")
    with workspace() as other:
        other.configure(TOML.format(embedder=LOCAL, source=records))
        other.kb("run")
        found.append(("the same documents in a new tenant", *other.query(SIZES)[0]))
    mb = [(name, *(size / 2**20 for size in sizes)) for name, *sizes in found]
    table(("", "table MB", "all indexes MB", "search index MB"), mb)
    failed = [one for one in load.done if one.failed]
    short = [one for one in load.done if not one.failed and len(one.texts) < 10]
    worst = max(one.ms for one in load.done)
    print(f"searches: {len(load.done):,} in {seconds:.1f} s, the slowest took {worst:.0f} ms")
    for one in failed[:3]:
        print(f"failed: {one.failed}")
    ratio("failed searches", len(failed), limit=0)
    ratio("short results", len(short), limit=0)
    ratio("size after the second change / after the first", sum(found[2][1:3]) / sum(found[1][1:3]), limit=1.02)
    ratio("table after the repack / fresh load", found[-2][1] / found[-1][1], limit=1.1)
    ratio("indexes after the repack / fresh load", found[-2][2] / found[-1][2], limit=1.1)


if __name__ == "__main__":
    main()
