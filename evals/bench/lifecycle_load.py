"""A rebuild with other parameters, its promotion and a rollback under a constant load of searches.

`python -m evals.bench.lifecycle_load [--rows 100000] [--rate 50]`: nobody may notice. The candidate is built and
measured by `kb rebuild` in review mode; promoted and rolled back by `kb promote` and `kb rollback`. p99 is compared
around the two switches; the build is shown beside it, because it shares the cores with the searches.
"""

from __future__ import annotations

import argparse
import time

from evals.bench.common import header, ratio, table
from evals.bench.large import TENANT, large_tenant, questions
from evals.bench.search_load import Answer, Load, percentile, search_load
from evals.bench.workspace import Workspace

TOML = """
[index]
exact_below = 0
preset = "{preset}"
[promotion]
mode = "{mode}"
[eval]
queries = 50
[tenants.{tenant}]
source = "{source}"
"""


def main() -> None:
    """Load, rebuild, promote, roll back; end with 1 when a search was harmed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rate", type=float, default=50.0, help="searches a second")
    parser.add_argument("--quiet", type=float, default=15.0, help="seconds before the rebuild and around each switch")
    parser.add_argument("--floor", type=float, default=0.95)
    parser.add_argument("--smoke", action="store_true", help="5,000 rows, 4 quiet seconds")
    args = parser.parse_args()
    rows, quiet = (5_000, 4.0) if args.smoke else (args.rows, args.quiet)
    header(f"Life-cycle under {args.rate:g} searches a second: {rows:,} rows")
    with large_tenant(rows) as (space, _):
        load, spans = measured(space, rate=args.rate, quiet=quiet)
    report(load, spans, floor=args.floor)


def measured(space: Workspace, *, rate: float, quiet: float) -> tuple[Load, dict[str, tuple[float, float]]]:
    """All answers, and when each phase was."""
    from kb_pipeline.config.schema import EmbedderConfig
    from kb_pipeline.embed.registry import make_embedder
    from kb_pipeline.index.exact import nearest_distances
    from kb_pipeline.store.database import Database
    from kb_pipeline.store.eval_vectors import vector_blocks

    def configure(preset: str, mode: str) -> None:
        space.configure(TOML.format(preset=preset, mode=mode, tenant=TENANT, source=space.folder / "records.jsonl"))

    configure("balanced", "auto")
    space.kb("run")
    db = Database(space.dsn())
    vectors = make_embedder(EmbedderConfig()).embed_queries(questions(200)).vectors
    with db.connect("owner") as conn:
        blocks = vector_blocks(conn, TENANT, 1, dims=vectors.shape[1], storage="vector", block_rows=8192)
        exact = nearest_distances((block for _, block in blocks), vectors, 10)
    spans: dict[str, tuple[float, float]] = {}

    def phase(name: str, began: float) -> None:
        spans[name] = (began, time.monotonic())

    with search_load(db, TENANT, vectors, exact, version=1, rate=rate) as load:
        time.sleep(2)
        began = time.monotonic()
        time.sleep(quiet)
        phase("before", began)
        configure("high", "review")
        began = time.monotonic()
        space.kb("rebuild")  # and not `run`: in a kept workspace a person has rolled back from such a build
        phase("build and eval", began)
        waiting = space.query("SELECT max(build_id) FROM kb.builds WHERE state = 'candidate'")[0][0]
        time.sleep(1)
        for name, switch in (("promotion", lambda: promoted(db, waiting)), ("rollback", lambda: rolled_back(db))):
            began = time.monotonic()
            time.sleep(quiet / 2)
            load.marks[name] = time.monotonic()
            switch()
            time.sleep(quiet / 2)
            phase(name, began)
    return load, spans


def promoted(db: object, build_id: int) -> None:
    """As `kb promote`, without the start of a process that takes a core."""
    from kb_pipeline.index.promote import promote

    promote(db, TENANT, build_id, by="bench", why="it passed")  # pyright: ignore[reportArgumentType]


def rolled_back(db: object) -> None:
    """As `kb rollback`."""
    from kb_pipeline.index.promote import rollback

    rollback(db, TENANT, by="bench")  # pyright: ignore[reportArgumentType]


def report(load: Load, spans: dict[str, tuple[float, float]], *, floor: float) -> None:
    """The table, the ratios, and the end."""
    lines: list[tuple[object, ...]] = []
    p99: dict[str, float] = {}
    for name, (start, end) in spans.items():
        answers = load.between(start, end)
        p99[name] = percentile(answers, 0.99)
        recalls = [one.recall for one in answers if not one.error]
        mean = sum(recalls) / len(recalls) if recalls else 0.0
        waits = [ms for at, ms in load.lock_waits if start <= at < end]
        lines.append((name, end - start, len(answers), faults(answers), percentile(answers, 0.5), p99[name], mean,
                      max(waits, default=0.0)))  # fmt: skip
    table(("phase", "seconds", "searches", "errors, short", "p50 ms", "p99 ms", "recall", "lock wait ms"), lines)
    bad = sum(faults(load.between(*span)) for span in spans.values())
    print(f"lowest recall@10 of any 10 s: {load.worst_window():.4f} (floor {floor:g})")
    for name in ("promotion", "rollback"):
        ratio(f"p99 around the {name} / before", p99[name] / p99["before"], limit=2.0)
        slowest = sorted(load.between(*spans[name]), key=lambda one: -one.ms)[:8]
        said = ", ".join(f"{one.ms:.1f} ms at {one.at - load.marks[name]:+.2f} s" for one in slowest)
        print(f"the slowest around the {name}: {said}")
    waits = [
        ms for at, ms in load.lock_waits for name in ("promotion", "rollback") if spans[name][0] <= at < spans[name][1]
    ]
    ratio("longest lock wait of a search around the switches, ms", max(waits, default=0.0), limit=100.0)
    first = next((one.error for one in load.answers if one.error), "")
    if bad or load.worst_window() < floor:
        raise SystemExit(f"{bad} searches failed or were short {first}")


def faults(answers: list[Answer]) -> int:
    """Searches that failed or gave fewer than ten results."""
    return sum(1 for one in answers if one.error or one.results < 10)


if __name__ == "__main__":
    main()
