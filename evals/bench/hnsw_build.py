"""The `hnsw_index` stage against a plain CREATE INDEX with the same parameters, memory and workers on the same rows.

`python -m evals.bench.hnsw_build [--rows 100000] [--pairs 5]`: the stage builds CONCURRENTLY beside the live index,
with progress and bookkeeping; the plain one is CREATE INDEX on a copy of the vectors and nothing else.
"""

from __future__ import annotations

import argparse
from time import perf_counter

from evals.bench.common import header, median_ratio, pairs, ratio, table
from evals.bench.large import TENANT, large_tenant
from evals.bench.workspace import Workspace

PLAIN_TABLE = """
CREATE SCHEMA IF NOT EXISTS bench;
DROP TABLE IF EXISTS bench.plain;
CREATE TABLE bench.plain AS SELECT fingerprint, embedding_v1 FROM kb.contents
 WHERE tenant_id = '{tenant}' AND orphaned_at IS NULL;
ALTER TABLE bench.plain SET (parallel_workers = {workers})
"""


def main() -> None:
    """Build in turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--smoke", action="store_true", help="8,000 rows, one pair")
    args = parser.parse_args()
    rows, count = (8_000, 1) if args.smoke else (args.rows, args.pairs)
    header(f"HNSW build of {rows:,} rows against a plain CREATE INDEX")
    with large_tenant(rows) as (space, _):
        found = measured(space, count)
    table(
        ("pair", "hnsw_index stage s", "of it CREATE INDEX s", "plain s"),
        [(n + 1, *line) for n, line in enumerate(found)],
    )
    ratio(
        "stage / plain CREATE INDEX (median of pairs)",
        median_ratio([(stage, plain) for stage, _, plain in found]),
        limit=1.15,
    )
    ratio("its CREATE INDEX CONCURRENTLY / plain", median_ratio([(own, plain) for _, own, plain in found]))


def measured(space: Workspace, count: int) -> list[tuple[float, float, float]]:
    """Seconds of the stage, of its CREATE INDEX, and of the plain one, by pair."""
    import psycopg

    from kb_pipeline.config.schema import Settings
    from kb_pipeline.stages import hnsw_index
    from kb_pipeline.stages.context import NullProgress, StageContext
    from kb_pipeline.staging import open_staging
    from kb_pipeline.store.database import Database

    db = Database(space.dsn())
    settings = Settings.model_validate({"index": {"exact_below": 0}})
    ctx = StageContext(
        settings=settings,
        tenant=settings.tenant(TENANT),
        db=db,
        staging=open_staging(str(space.home / "staging")),
        run_id="bench",
        progress=NullProgress(),
    )
    first = hnsw_index.run(ctx, rebuild=True)
    own: list[float] = []

    def stage() -> float:
        started = perf_counter()
        own.append(hnsw_index.run(ctx, rebuild=True).seconds)
        return perf_counter() - started

    with psycopg.connect(space.dsn(), autocommit=True) as conn:
        conn.execute(PLAIN_TABLE.format(tenant=TENANT, workers=first.workers).encode())
        conn.execute(b"VACUUM ANALYZE bench.plain")
        conn.execute("SELECT set_config('maintenance_work_mem', %s, false)", (f"{first.memory_used_mb}MB",))
        conn.execute("SELECT set_config('max_parallel_maintenance_workers', %s, false)", (str(first.workers),))
        create = (
            "CREATE INDEX plain_hnsw ON bench.plain USING hnsw (embedding_v1 vector_cosine_ops) "
            f"WITH (m = {int(first.params['m'])}, ef_construction = {int(first.params['ef_construction'])})"
        ).encode()

        def plain() -> float:
            started = perf_counter()
            conn.execute(create)
            seconds = perf_counter() - started
            conn.execute(b"DROP INDEX bench.plain_hnsw")
            return seconds

        found = pairs(stage, plain, count)
        conn.execute(b"DROP SCHEMA bench CASCADE")
    return [(ours, create, theirs) for (ours, theirs), create in zip(found, own, strict=True)]


if __name__ == "__main__":
    main()
