"""What `kb doctor` asks the server beyond indexes and connections: versions, tables, memory, plans, stored vectors."""

from __future__ import annotations

from psycopg import Connection, sql
from psycopg.rows import TupleRow

from kb_pipeline.store.builds import BuildRow
from kb_pipeline.store.contents import column
from kb_pipeline.store.health import Finding
from kb_pipeline.store.index_ddl import leaf_partition
from kb_pipeline.store.maintenance import VACUUM_PERCENT, TableState
from kb_pipeline.store.versions import Version

KNOWN_BUGS = (("pgvector", (0, 8, 4), "VACUUM can damage an HNSW index", "ALTER EXTENSION vector UPDATE"),)
"""(software, first version without it, what happens, what mends it)."""
HOT_PERCENT = 90
NORM_ROWS = 1_000


def known_bugs(pgvector: str) -> list[Finding]:
    """Versions that are known to do harm."""
    found = tuple(int(part) for part in pgvector.split(".")[:3] if part.isdigit())
    return [
        Finding("versions", False, f"{name} {pgvector} is older than {'.'.join(map(str, good))}", harm, fix)
        for name, good, harm, fix in KNOWN_BUGS
        if found < good
    ]


def dead_rows(states: list[TableState]) -> list[Finding]:
    """Tables with more dead rows than maintenance leaves."""
    bad = [state for state in states if state.wants_vacuum]
    if not bad:
        total = sum(state.dead for state in states)
        return [Finding("dead rows", True, f"{total:,} dead rows, no table over {VACUUM_PERCENT} %")]
    return [
        Finding(
            "dead rows",
            False,
            f"{state.name}: {state.dead:,} dead rows beside {state.live:,} live ones",
            "searches step over them, in an HNSW index too, and find less for the same ef_search",
            "`kb maintain`",
        )
        for state in bad
    ]


def hot_updates(states: list[TableState], removed: int) -> Finding:
    """Whether updates of contents stay on their page: every other one writes the row into all of its HNSW indexes.

    `removed` contents were marked as removed, many on a page at once where documents change in bulk. That may leave the
    page: the rows are deleted soon, and so much churn is followed by a rebuild.
    """
    contents = [state for state in states if state.name.startswith("contents_")]
    updates, hot = sum(state.updates for state in contents), sum(state.hot_updates for state in contents)
    share = 100 * hot / updates if updates else 100.0
    words = f"{share:.0f} % of {updates:,} updates of contents were HOT"
    others = updates - removed
    cold = max(0, updates - hot - removed)
    if others < 1_000 or cold * 100 <= others * (100 - HOT_PERCENT):
        return Finding("hot", True, words)
    return Finding(
        "hot",
        False,
        words,
        "each other one inserts its row anew into every HNSW index",
        "`kb maintain` frees space on the pages; a back-fill into full pages needs a lower fillfactor of kb.contents",
    )


def buffers(conn: Connection[TupleRow]) -> Finding:
    """`shared_buffers` against the indexes that are searched."""
    row = conn.execute(
        "SELECT pg_size_bytes(current_setting('shared_buffers')), coalesce((SELECT sum(pg_relation_size(c.oid)) "
        "FROM kb.builds b JOIN pg_class c ON c.relname = b.index_name AND c.relnamespace = 'kb'::regnamespace "
        "WHERE b.state = 'live'), 0)::bigint"
    ).fetchone()
    shared, size = row or (0, 0)
    words = f"live indexes {size / 2**20:,.0f} MB, shared_buffers {shared / 2**20:,.0f} MB"
    if size <= shared:
        return Finding("buffers", True, words)
    wanted = -(-size * 5 // 4 // 2**20)
    return Finding(
        "buffers",
        False,
        words,
        "what does not stay in memory is read from disk in random order, a page for each step of a search",
        f"ALTER SYSTEM SET shared_buffers = '{wanted}MB', and start the server anew; or [index] storage = \"halfvec\"",
    )


def search_plan(conn: Connection[TupleRow], tenant_id: str, build: BuildRow, version: Version) -> Finding:
    """What a real search of the live build touched: its index and no whole table. `conn` is the owner's."""
    leaf = leaf_partition(conn, tenant_id)
    with conn.transaction():
        vector = conn.execute(
            sql.SQL(
                "SELECT {}::vector FROM kb.contents WHERE tenant_id = %s AND orphaned_at IS NULL AND {} IS NOT NULL "
                "LIMIT 1"
            ).format(column(version.version), column(version.version)),
            (tenant_id,),
        ).fetchone()
        if vector is None:
            return Finding("plan", True, "there is nothing to search", tenant_id=tenant_id)
        row = conn.execute(
            "SELECT pg_stat_get_xact_numscans(to_regclass(%s)), pg_stat_get_xact_numscans(to_regclass(%s)), "
            "set_config('kb.tenant', %s, true)",
            (f"kb.{leaf}", f"kb.{build.index_name}", tenant_id),
        ).fetchone()
        conn.execute("SELECT kb.search_build(%s, %s, %s, 10, NULL, '[]')", (tenant_id, build.build_id, vector[0]))
        after = conn.execute(
            "SELECT pg_stat_get_xact_numscans(to_regclass(%s)), pg_stat_get_xact_numscans(to_regclass(%s)), "
            "(SELECT n_live_tup FROM pg_stat_user_tables WHERE schemaname = 'kb' AND relname = %s)",
            (f"kb.{leaf}", f"kb.{build.index_name}", leaf),
        ).fetchone()
    assert row is not None and after is not None
    scanned, used = after[0] - row[0], (after[1] or 0) - (row[1] or 0)
    if build.method == "hnsw" and not used:
        return Finding(
            "plan",
            False,
            f"a search of build {build.build_id} did not use its index {build.index_name}",
            "every search compares all vectors",
            f"`kb rebuild --tenant {tenant_id}`",
            tenant_id,
        )
    if build.method == "hnsw" or not scanned or (after[2] or 0) < max(2_000, 4 * build.rows_at_build):
        how = f"uses {build.index_name}" if build.method == "hnsw" else "compares the tenant's contents"
        return Finding("plan", True, f"a search {how}", tenant_id=tenant_id)
    return Finding(
        "plan",
        False,
        f"a search reads all {after[2]:,} rows of {leaf}, the tenant has {build.rows_at_build:,}",
        "it takes as long as the other tenants are large",
        "`kb maintain` (statistics are old)",
        tenant_id,
    )


def norms(conn: Connection[TupleRow], tenant_id: str, version: Version) -> Finding:
    """Lengths of a sample of stored vectors: one where they are normalised, never zero.

    The sample starts anywhere among the fingerprints, which are spread evenly, and goes on from the lowest at the end.
    """
    row = conn.execute(
        sql.SQL(
            "WITH start AS MATERIALIZED (SELECT sha256(convert_to(now()::text, 'UTF8')) AS at) "
            "SELECT count(*), count(*) FILTER (WHERE n = 0), count(*) FILTER (WHERE abs(n - 1) > 0.01), min(n), max(n) "
            "FROM (SELECT vector_norm({c}::vector) AS n FROM ("
            "(SELECT {c} FROM kb.contents WHERE tenant_id = %(tenant)s AND {c} IS NOT NULL "
            "AND fingerprint >= (SELECT at FROM start) ORDER BY fingerprint LIMIT %(rows)s) UNION ALL "
            "(SELECT {c} FROM kb.contents WHERE tenant_id = %(tenant)s AND {c} IS NOT NULL "
            "AND fingerprint < (SELECT at FROM start) ORDER BY fingerprint LIMIT %(rows)s) LIMIT %(rows)s) v) s"
        ).format(c=column(version.version)),
        {"tenant": tenant_id, "rows": NORM_ROWS},
    ).fetchone()
    assert row is not None
    count, zero, off, low, high = row
    wrong = off if version.spec.normalize else zero
    if not count or not wrong:
        words = f"{count:,} vectors of v{version.version} looked at" + (f": {low:.4f} to {high:.4f}" if count else "")
        return Finding("norms", True, words, tenant_id=tenant_id)
    return Finding(
        "norms",
        False,
        f"{wrong:,} of {count:,} vectors of v{version.version} are not of length one ({low:.4f} to {high:.4f})"
        if version.spec.normalize
        else f"{zero:,} of {count:,} vectors of v{version.version} are zero",
        "a zero vector is never found by cosine distance, and another length shows that something else wrote it",
        "another model version embeds them anew: set [embedder] anew, or delete and re-add the documents",
        tenant_id,
    )
