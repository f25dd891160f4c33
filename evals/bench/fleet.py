"""Many tenants: the sensors' statement over 10,000 of them, and searches of small and large ones beside 2,000 others.

`python -m evals.bench.fleet [--tenants 10000] [--small 1900 --middle 95 --large 5]`: tenants are written straight into
the tables, with random vectors around centres. The planning pass is `kb_pipeline.due` over all tenants, with folders as
sources, as the nightly schedule does it.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from evals.bench.common import header, ratio, table
from evals.bench.fleet_made import LARGE_ROWS, MIDDLE_ROWS, add_version, database, make_fleet, sizes_of, vectors_of
from evals.bench.workspace import Workspace, workspace

BIG = "large0"


def main() -> None:
    """Both parts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tenants", type=int, default=10_000, help="of the sensors' statement")
    parser.add_argument("--small", type=int, default=1_900, help="tenants of 50 to 500 contents")
    parser.add_argument("--middle", type=int, default=95, help=f"tenants of {MIDDLE_ROWS:,}")
    parser.add_argument("--large", type=int, default=5, help=f"tenants of {LARGE_ROWS:,}; 0: no searches")
    parser.add_argument("--keep", type=Path, help="folder to make the searched fleet in, or where it was made before")
    parser.add_argument("--make", action="store_true", help="only make it there")
    parser.add_argument("--smoke", action="store_true", help="1,000 tenants in the statement; 40, 4 and 1 searched")
    args = parser.parse_args()
    tenants, small, middle, large = (
        (1_000, 40, 4, 1) if args.smoke else (args.tenants, args.small, args.middle, args.large)
    )
    if args.make:
        with workspace(keep=args.keep) as space:
            make_fleet(space, small=small, middle=middle, large=large)
        return
    header(f"A fleet: the sensors' statement over {tenants:,} tenants; {small:,}, {middle} and {large} searched")
    if tenants:
        with workspace() as space:
            sensors(space, tenants)
    if not large:
        return
    with workspace() as space:
        make_fleet(space, small=0, middle=0, large=1)
        alone = p95(database(space), BIG, vectors_of(BIG, 300))
    with workspace(keep=args.keep) as space:
        make_fleet(space, small=small, middle=middle, large=large)
        searches(space, alone, small=small, middle=middle, large=large)


def sensors(space: Workspace, count: int) -> None:
    """How long a tick over all tenants takes, and that it finds exactly those that are due."""
    from kb_pipeline import fleet
    from kb_pipeline.config.schema import EmbedderConfig
    from kb_pipeline.embed.registry import resolve_spec

    ids = [f"t{number:05}" for number in range(count)]
    lines = [f'[tenants.{name}]\nsource = "/srv/{name}"' for name in ids]
    space.configure("[index]\nexact_below = 50\n" + "\n".join(lines) + "\n")
    space.kb("db", "start")
    db = database(space)
    spec = resolve_spec(EmbedderConfig())
    add_version(db, spec)
    with db.connect("owner") as conn:
        conn.execute(
            "INSERT INTO kb.tenants (tenant_id, contents, inserted_total) "
            "SELECT id, 1000, 1000 FROM unnest(%s::text[]) id",
            (ids,),
        )
        conn.execute(
            "INSERT INTO kb.builds (tenant_id, version, method, slot, params, rows_at_build, state) "
            "SELECT id, 1, 'hnsw', 'a', %s::jsonb, 1000, 'live' FROM unnest(%s::text[]) id",
            ('{"m": 16, "ef_construction": 64, "storage": "vector"}', ids),
        )
        conn.execute(
            "INSERT INTO kb.live (tenant_id, version, build_id, promoted_by) "
            "SELECT tenant_id, 1, build_id, 'bench' FROM kb.builds"
        )
        conn.execute(
            "INSERT INTO kb.eval_runs (tenant_id, build_id, measurements, verdict) SELECT tenant_id, build_id, "
            "jsonb_build_object('headline', jsonb_build_object('recall_at_10', 0.99, 'p95_ms', 2.0), 'rest', "
            "repeat(md5(tenant_id), 200)), 'pass' FROM kb.live, generate_series(1, 5)"
        )
        due = sorted(random.Random(1).sample(ids, 20))
        conn.execute("UPDATE kb.tenants SET contents = 1300 WHERE tenant_id = ANY(%s)", (due,))
        conn.execute("ANALYZE kb.tenants, kb.builds, kb.live, kb.eval_runs")
    os.environ.update({"KB_HOME": str(space.home), "KB_CONFIG": str(space.folder / "kb.toml")})
    rows: list[tuple[object, ...]] = []
    found: list[str] = []
    for name in ("first tick of the process", "later tick"):
        began = time.perf_counter()
        opened = fleet.open_fleet()
        read = time.perf_counter()
        wanted = fleet.desired_states(opened.settings, opened.tenant_ids)
        resolved = time.perf_counter()
        found = [one.tenant_id for one in fleet.due_tenants(opened.db, wanted)]
        asked = time.perf_counter()
        rows.append((name, read - began, resolved - read, asked - resolved, asked - began))
    table(("", "configuration s", "resolve s", "statement and planner s", "whole s"), rows)
    ratio(f"a tick over {count:,} tenants, s", float(str(rows[-1][-1])), limit=2.0)
    if found != due:
        raise SystemExit(f"{len(found)} tenants found due, {len(due)} are")


def searches(space: Workspace, alone: float, *, small: int, middle: int, large: int) -> None:
    """p95 of a large tenant in the fleet, of small ones, and the time of planning, and of the nightly pass."""
    db = database(space)
    queries = vectors_of("queries", 300)
    beside = p95(db, BIG, queries)
    few = [p95(db, f"small{number}", queries[:100]) for number in range(min(small, 20))]
    with db.connect("owner", autocommit=True) as conn:
        planning = max(planning_ms(conn, name, queries[0]) for name in (BIG, "middle0", "middle1", "middle2"))
    sizes = sizes_of(small=small, middle=middle, large=large)
    seconds, runs = nightly_pass(space, list(sizes))
    table(
        (
            "tenants",
            "indexes",
            "large alone p95 ms",
            "in the fleet",
            "small p95 ms",
            "planning ms",
            "nightly pass s",
            "runs",
        ),
        [(len(sizes), large + middle, alone, beside, max(few, default=0.0), planning, seconds, runs)],
    )
    ratio("large tenant in the fleet / alone", beside / alone, limit=1.2)
    ratio("p95 of a small tenant, ms", max(few, default=0.0), limit=5.0)
    ratio("planner, ms", planning, limit=2.0)
    ratio("nightly planning pass, s", seconds, limit=30.0)
    if runs != 1:
        raise SystemExit(f"{runs} runs asked for, one source has changed")


def nightly_pass(space: Workspace, tenants: list[str]) -> tuple[float, int]:
    """(seconds of the look at every tenant's source and plan, tenants with something to do): one source has changed."""
    from kb_pipeline.due import Due, due_each
    from kb_pipeline.session import open_session

    folder = space.folder / "sources"
    space.configure("\n".join(f'[tenants.{name}]\nsource = "{folder / name}"' for name in tenants) + "\n")
    (folder / tenants[3] / "new.md").write_text("# New\n\nA document.\n")
    os.environ.update({"KB_HOME": str(space.home), "KB_CONFIG": str(space.folder / "kb.toml")})
    session = open_session()
    began = time.perf_counter()
    changed = sum(1 for _, found in due_each(session, tenants) if isinstance(found, Due) and found.reasons())
    return time.perf_counter() - began, changed


def p95(db: Any, name: str, queries: Any) -> float:
    """Milliseconds, one search at a time, after a round to warm up; the best of five rounds."""
    from kb_pipeline.store.search_sql import search_live

    with db.connect("reader", name, autocommit=True) as conn:

        def ask(query: Any) -> float:
            began = time.perf_counter()
            search_live(
                conn, name, 1, query, n=10, ef=None, profile="default", fallback_ef=100, at_least=20, conditions="[]"
            )
            return (time.perf_counter() - began) * 1000

        rounds = [timed(ask, queries) for _ in range(6)]
    return min(rounds[1:])


def timed(ask: Callable[[Any], float], queries: Any) -> float:
    """p95 of one round."""
    times = sorted(ask(query) for query in queries)
    return times[int(len(times) * 0.95)]


def planning_ms(conn: Any, name: str, query: Any) -> float:
    """The planner's time for the search of one tenant, beside all indexes of its partition; median of nine."""
    times: list[float] = []
    for _ in range(9):
        text = conn.execute(
            f"EXPLAIN (SUMMARY, FORMAT JSON) SELECT fingerprint FROM kb.contents WHERE tenant_id = '{name}' AND "
            "fingerprint <> '\\x00'::bytea AND orphaned_at IS NULL ORDER BY embedding_v1 <=> %s LIMIT 10".encode(),
            (query,),
        ).fetchone()
        times.append(float(text[0][0]["Planning Time"]))
    return sorted(times)[4]


if __name__ == "__main__":
    main()
