"""HNSW beside IVFFlat and a scan: time and size of the index, recall and latency of searches.

`python -m evals.bench.methods [--rows 100000]`: on a copy of the tenant's vectors in a temporary table, one index at a
time, built without parallel workers; held-out vectors are the queries. IVFFlat is only compared: its lists are
trained once, so an index that grows gets worse without a sign of it, and the product builds HNSW.
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

from evals.bench.common import header, ratio, table
from evals.bench.large import TENANT, large_tenant

if TYPE_CHECKING:
    from kb_pipeline.store.tuning import Scratch

K = 10
WIDTHS = (20, 40, 80, 160)
PROBES = (4, 8, 16, 32, 64)


def main() -> None:
    """Build and ask each method."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--smoke", action="store_true", help="8,000 rows")
    args = parser.parse_args()
    rows = 8_000 if args.smoke else args.rows
    header(f"HNSW, IVFFlat and a scan on {rows:,} contents")
    from kb_pipeline.store.database import Database
    from kb_pipeline.store.tuning import scratch
    from kb_pipeline.store.versions import read_version

    with large_tenant(rows) as (space, _):
        db = Database(space.dsn())
        with db.connect("owner") as conn:
            version = read_version(conn, 1)
        with scratch(db, TENANT, version, rows=rows, queries=200) as made:
            lines = measured(made)
    table(("method", "build s", "MB", "setting", f"recall@{K}", "p50 ms", "p95 ms"), lines)
    fast = {name: min((line[6] for line in lines if line[0] == name and line[4] >= 0.95), default=float("inf"))
            for name in ("hnsw", "ivfflat")}  # fmt: skip
    if fast["hnsw"] < float("inf") and fast["ivfflat"] < float("inf"):
        ratio("p95 at recall 0.95, HNSW / IVFFlat", fast["hnsw"] / fast["ivfflat"])


def measured(made: Scratch) -> list[tuple[Any, ...]]:
    """A line for each method and setting."""
    import numpy as np

    from kb_pipeline.index.exact import nearest_distances
    from kb_pipeline.index.memory import needed_mb
    from kb_pipeline.index.params import PRESETS
    from kb_pipeline.index.tune import asked
    from kb_pipeline.planner.model import IndexParams

    exact = nearest_distances(made.blocks(), made.queries, K)
    params = IndexParams(*PRESETS["balanced"], "vector")
    lines: list[tuple[Any, ...]] = []

    def ask(method: str, build_s: float, size: int, setting: str, search: Any) -> None:
        recall, times = asked(made.queries, exact, search)
        p50, p95 = (float(value) * 1000 for value in np.percentile(times, (50, 95)))
        lines.append((method, build_s, size / 2**20, setting, recall, p50, p95))

    ask("scan", 0.0, 0, "", lambda query: made.scan(query, K, made.rows))
    build_s, size = made.build(params, memory_mb=needed_mb(made.rows, params, made.dims))
    for width in WIDTHS:
        ask("hnsw", build_s, size, f"ef_search {width}", lambda query, ef=width: made.search(query, params, K, ef))
    made.drop()
    build_s, size = ivfflat(made, lists=max(10, round(made.rows**0.5)))
    for probes in PROBES:
        made.conn.execute("SELECT set_config('ivfflat.probes', %s, false)", (str(probes),))
        ask("ivfflat", build_s, size, f"probes {probes}", lambda query: made.search(query, params, K, 40))
    return lines


def ivfflat(made: Scratch, *, lists: int) -> tuple[float, int]:
    """(seconds, bytes) of an IVFFlat index with so many lists, the root of the rows as pgvector's README advises."""
    began = time.perf_counter()
    made.conn.execute(
        f"CREATE INDEX ON pg_temp.tuned USING ivfflat (v vector_cosine_ops) WITH (lists = {int(lists)})".encode()
    )
    seconds = time.perf_counter() - began
    row = made.conn.execute(
        "SELECT pg_relation_size(indexrelid) FROM pg_index WHERE indrelid = 'pg_temp.tuned'::regclass AND NOT "
        "indisprimary"
    ).fetchone()
    return seconds, row[0] if row else 0


if __name__ == "__main__":
    main()
