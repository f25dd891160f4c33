"""Many tenants: the sensors' statement over 10,000 of them, and searches of small and large ones beside 2,000 others.

`python -m evals.bench.fleet [--tenants 10000] [--small 1900 --middle 95 --large 5]`: tenants are written straight into
the tables, with random vectors around centres. The planning pass is `kb_pipeline.due` for each tenant, with a folder as
source, as the nightly schedule does it.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from collections.abc import Callable
from typing import Any

from evals.bench.common import header, ratio, table
from evals.bench.workspace import Workspace, workspace

DIMS = 256
MIDDLE_ROWS, LARGE_ROWS = 5_000, 50_000


def main() -> None:
    """Both parts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tenants", type=int, default=10_000, help="of the sensors' statement")
    parser.add_argument("--small", type=int, default=1_900, help="tenants of 50 to 500 contents")
    parser.add_argument("--middle", type=int, default=95, help=f"tenants of {MIDDLE_ROWS:,}")
    parser.add_argument("--large", type=int, default=5, help=f"tenants of {LARGE_ROWS:,}; 0: no searches")
    parser.add_argument("--smoke", action="store_true", help="1,000 tenants in the statement; 40, 4 and 1 searched")
    args = parser.parse_args()
    tenants, small, middle, large = (
        (1_000, 40, 4, 1) if args.smoke else (args.tenants, args.small, args.middle, args.large)
    )
    header(f"A fleet: the sensors' statement over {tenants:,} tenants; {small:,}, {middle} and {large} searched")
    with workspace() as space:
        sensors(space, tenants)
    if not large:
        return
    with workspace() as space:
        searches(space, small=small, middle=middle, large=large)


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


def searches(space: Workspace, *, small: int, middle: int, large: int) -> None:
    """p95 of a large tenant alone and in the fleet, of small ones, and the time of planning."""
    import numpy as np

    from kb_pipeline.config.schema import EmbedderConfig
    from kb_pipeline.embed.registry import resolve_spec

    source = random.Random(2)
    random_vectors = np.random.default_rng(2)
    centres = random_vectors.standard_normal((200, DIMS)).astype("f4")

    def vectors(rows: int) -> Any:
        made = centres[random_vectors.integers(0, 200, rows)] + 0.7 * random_vectors.standard_normal(
            (rows, DIMS)
        ).astype("f4")
        return made / np.linalg.norm(made, axis=1, keepdims=True)

    db = database(space)
    spec = resolve_spec(EmbedderConfig())
    add_version(db, spec)
    big = [f"large{number}" for number in range(large)]
    add_tenant(db, big[0], vectors(LARGE_ROWS))
    serve(db, big[0], spec)
    queries = vectors(300)
    alone = p95(db, big[0], queries)
    sizes = {name: LARGE_ROWS for name in big[1:]}
    sizes |= {f"middle{number}": MIDDLE_ROWS for number in range(middle)}
    sizes |= {f"small{number}": source.randint(50, 500) for number in range(small)}
    for name, rows in sizes.items():
        add_tenant(db, name, vectors(rows))
        serve(db, name, spec)
    beside = p95(db, big[0], queries)
    few = [p95(db, f"small{number}", queries[:100]) for number in range(min(small, 5))]
    with db.connect("owner") as conn:
        conn.execute("ANALYZE kb.contents (tenant_id, fingerprint, orphaned_at)")
        planning = planning_ms(conn, big[0], queries[0])
    seconds, runs = nightly_pass(space, list(sizes) + big[:1])
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
        [(len(sizes) + 1, large + middle, alone, beside, max(few, default=0.0), planning, seconds, runs)],
    )
    ratio("large tenant in the fleet / alone", beside / alone, limit=1.2)
    ratio("p95 of a small tenant, ms", max(few, default=0.0), limit=5.0)
    ratio("planner, ms", planning, limit=2.0)
    ratio("nightly planning pass, s", seconds, limit=30.0)


def nightly_pass(space: Workspace, tenants: list[str]) -> tuple[float, int]:
    """(seconds of the look at every tenant's source and plan, tenants with something to do): one source has changed."""
    from dataclasses import replace

    from kb_pipeline.due import due
    from kb_pipeline.session import open_session

    lines: list[str] = []
    for name in tenants:
        folder = space.folder / "sources" / name
        folder.mkdir(parents=True)
        lines.append(f'[tenants.{name}]\nsource = "{folder}"')
    space.configure("\n".join(lines) + "\n[sources]\nmax_delete_fraction = 1.0\n")
    (space.folder / "sources" / tenants[3] / "new.md").write_text("# New\n\nA document.\n")
    os.environ.update({"KB_HOME": str(space.home), "KB_CONFIG": str(space.folder / "kb.toml")})
    session = replace(open_session())
    with session.db.connect("owner") as conn:  # documents that no source lists would be a change of every tenant
        conn.execute("DELETE FROM kb.documents")
    began = time.perf_counter()
    changed = sum(1 for name in tenants if due(session, name).source)
    return time.perf_counter() - began, changed


def database(space: Workspace) -> Any:
    """The engine's database, with its tables."""
    from kb_pipeline.store.database import open_database

    os.environ["KB_HOME"] = str(space.home)
    return open_database(space.home)


def add_version(db: Any, spec: Any) -> None:
    """Version 1, with its column."""
    from dataclasses import asdict

    from psycopg.types.json import Jsonb

    with db.connect("owner") as conn:
        conn.execute(
            "INSERT INTO kb.embedding_versions (version, embedder_hash, embedder, dims, storage) VALUES "
            "(nextval('kb.embedding_version_number'), %s, %s, %s, %s)",
            (spec.hash(), Jsonb(asdict(spec)), spec.dims, spec.storage),
        )
        conn.execute(f"ALTER TABLE kb.contents ADD COLUMN embedding_v1 vector({spec.dims})".encode())
        conn.execute(b"ALTER TABLE kb.contents ALTER COLUMN embedding_v1 SET STORAGE EXTERNAL")


def add_tenant(db: Any, name: str, vectors: Any) -> None:
    """Contents, each in a document of its own."""
    from kb_pipeline.fingerprint import fingerprint

    rows = len(vectors)
    names = [fingerprint("", f"{name} {number}") for number in range(rows)]
    with db.connect("owner") as conn:
        conn.execute("CREATE TEMP TABLE loaded (n int, fp bytea, v vector) ON COMMIT DROP")
        with conn.cursor().copy("COPY loaded FROM STDIN WITH (FORMAT BINARY)") as copy:
            copy.set_types(["int4", "bytea", "vector"])
            for number in range(rows):
                copy.write_row((number, names[number], vectors[number]))
        values = {"t": name, "n": rows}
        for statement in (
            "INSERT INTO kb.tenants (tenant_id, contents, inserted_total) VALUES (%(t)s, %(n)s, %(n)s)",
            "INSERT INTO kb.tenant_versions (tenant_id, version, state) VALUES (%(t)s, 1, 'complete')",
            "INSERT INTO kb.contents (tenant_id, fingerprint, context, body, tokens, embedding_v1) SELECT %(t)s, fp, "
            "'', 'body ' || n, 2, v FROM loaded",
            "INSERT INTO kb.documents (tenant_id, doc_id, uri, content_sha256, format, chunker) SELECT %(t)s, n::text, "
            "'file:///' || n, fp, 'md', 'bench' FROM loaded",
            "INSERT INTO kb.chunks (tenant_id, doc_id, ordinal, fingerprint, start_offset, end_offset, kind) SELECT "
            "%(t)s, n::text, 0, fp, 0, 1, 'text' FROM loaded",
        ):
            conn.execute(statement.encode(), values)


def serve(db: Any, name: str, spec: Any) -> None:
    """A build as the plan says, live."""
    from kb_pipeline.config.schema import Settings
    from kb_pipeline.index.build import build_exact, build_hnsw
    from kb_pipeline.index.desired import desired_state
    from kb_pipeline.index.promote import promote
    from kb_pipeline.planner.plan import plan
    from kb_pipeline.stages.context import NullProgress
    from kb_pipeline.store.actual import actual_state
    from kb_pipeline.store.versions import read_version

    config = Settings().tenant(name)
    with db.connect("owner") as conn:
        action = plan(desired_state(config), actual_state(conn, name)).rebuild
        version = read_version(conn, 1)
    assert action is not None and version.spec == spec
    built = (
        build_exact(db, name, action, version, run_id="bench")
        if action.method == "exact"
        else build_hnsw(db, name, action, version, config.index, run_id="bench", progress=NullProgress())
    )
    promote(db, name, built.build_id, by="bench", why="unmeasured, for a benchmark", force=True)


def p95(db: Any, name: str, queries: Any) -> float:
    """Milliseconds, one search at a time, after a round to warm up; the better of two rounds."""
    from kb_pipeline.store.search_sql import search_live

    with db.connect("reader", name, autocommit=True) as conn:

        def ask(query: Any) -> float:
            began = time.perf_counter()
            search_live(
                conn, name, 1, query, n=10, ef=None, profile="default", fallback_ef=100, at_least=20, conditions="[]"
            )
            return (time.perf_counter() - began) * 1000

        rounds = [timed(ask, queries) for _ in range(3)]
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
