"""Back-fill beside a live HNSW index: rows/s with prepared vectors, share of HOT updates, growth of the live index.

`python -m evals.bench.migration_backfill [--rows 30000] [--dims 768]`. The whole stage `embeddings` of `kb run`, in
this process, with an embedder that returns vectors it has: reading texts, the lane, writing, proving coverage.
"""

from __future__ import annotations

import argparse
import time
from time import perf_counter

from evals.bench.common import header, ratio, table
from evals.bench.large import TENANT, large_tenant
from evals.bench.models import PREPARED
from evals.bench.workspace import Workspace


def main() -> None:
    """One back-fill; the vectors are taken out again, so that a kept workspace stays as it was."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=30_000)
    parser.add_argument("--dims", type=int, default=768)
    parser.add_argument("--smoke", action="store_true", help="3,000 rows")
    args = parser.parse_args()
    rows = 8_000 if args.smoke else args.rows
    header(f"Back-fill of {rows:,} contents at {args.dims} dims")
    with large_tenant(rows) as (space, _):
        seconds, backfill, cpu, updated, hot, grown = measured(space, args.dims)
    table(
        ("contents", "back-fill s", "stage s", "CPU s of both processes", "updates", "HOT", "live index grew by bytes"),
        [(rows, backfill, seconds, cpu, updated, hot, grown)],
    )
    ratio("rows/s of the back-fill", rows / backfill, at_least=8000)
    ratio("HOT updates / updates", hot / max(updated, 1), at_least=0.99)
    ratio("bytes the live index grew by", grown, limit=0)


def measured(space: Workspace, dims: int) -> tuple[float, float, float, int, int, int]:
    """(seconds of the stage, of the back-fill in it, CPU seconds here and in Postgres, updates, HOT updates, bytes the
    live index grew by)."""
    from dataclasses import replace

    from kb_pipeline.config.load import Configuration
    from kb_pipeline.config.schema import Settings
    from kb_pipeline.session import Session
    from kb_pipeline.stages import chunks, documents, embeddings, fingerprints
    from kb_pipeline.stages.context import NullProgress
    from kb_pipeline.staging import open_staging
    from kb_pipeline.store.database import Database

    # No tokenizer has to be loaded for texts that are counted already.
    embedder = {"provider": PREPARED, "model": f"prepared-{dims}", "dims": dims}
    settings = Settings.model_validate(
        {"embedder": embedder, "tenants": {TENANT: {"source": str(space.folder / "records.jsonl")}}}
    )
    session = Session(Configuration(settings, None), Database(space.dsn()))
    ctx = replace(
        session.stage(TENANT, f"bench-{time.time_ns()}"),
        staging=open_staging(str(space.home / "staging")),
        progress=NullProgress(),
    )
    for stage in (documents, chunks, fingerprints):
        stage.run(ctx)
    updated, hot = _updates(space)
    before, cpu = _live_bytes(space), _cpu(space)
    started = perf_counter()
    embeddings.run(ctx)
    seconds = perf_counter() - started
    cpu = _cpu(space) - cpu
    rate = float(space.query("SELECT rows_per_second FROM kb.migrations")[0][0])
    rows = int(space.query("SELECT rows_total FROM kb.migrations")[0][0])
    time.sleep(1)
    now_updated, now_hot = _updates(space)
    return seconds, rows / rate, cpu, now_updated - updated, now_hot - hot, _live_bytes(space) - before


def _updates(space: Workspace) -> tuple[int, int]:
    return space.query(
        "SELECT sum(n_tup_upd)::int, sum(n_tup_hot_upd)::int FROM pg_stat_user_tables WHERE relname ~ '^contents_p'"
    )[0]  # type: ignore[return-value]


def _cpu(space: Workspace) -> float:
    """CPU seconds of this process and of the server, so that a busy machine shows."""
    import psutil

    pid = int(next(space.home.rglob("postmaster.pid")).read_text(encoding="utf-8").split()[0])
    used = 0.0
    for process in (psutil.Process(), psutil.Process(pid), *psutil.Process(pid).children()):
        used += sum(process.cpu_times()[:4])  # user, system, and those of children that have ended
    return used


def _live_bytes(space: Workspace) -> int:
    return int(
        space.query(
            "SELECT pg_relation_size(to_regclass('kb.' || b.index_name)) FROM kb.live l "
            "JOIN kb.builds b USING (build_id)"
        )[0][0]
    )


if __name__ == "__main__":
    main()
