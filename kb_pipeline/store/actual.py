"""A tenant as Postgres has it, for the planner."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import Connection, sql
from psycopg.rows import TupleRow

from kb_pipeline.embed.protocol import EmbedderSpec
from kb_pipeline.planner.model import Actual, BuildFacts, IndexParams, LiveFacts, Measure, QualityFacts, VersionFacts
from kb_pipeline.store.contents import column
from kb_pipeline.store.index_ddl import INDEX_PREFIX, leaf_partition


def actual_state(conn: Connection[TupleRow], tenant_id: str) -> Actual:
    """What the tenant has. `conn` is the owner's or the tenant's; zeros and nothing for a tenant that has never run.

    Missing vectors are counted in one pass over the tenant's contents, only for versions it has a part in: of the
    others everything is missing.
    """
    with conn.transaction():
        counters = conn.execute(
            "SELECT contents, inserted_total, deleted_total FROM kb.tenants WHERE tenant_id = %s", (tenant_id,)
        ).fetchone()
        contents, inserted, deleted = counters or (0, 0, 0)
        return Actual(
            tenant_id=tenant_id,
            contents=contents,
            inserted_total=inserted,
            deleted_total=deleted,
            versions=_versions(conn, tenant_id, contents),
            builds=_builds(conn, tenant_id),
            live=_live(conn, tenant_id),
            quality=_quality(conn, tenant_id),
            neighbours=_neighbours(conn, tenant_id),
        )


def _versions(conn: Connection[TupleRow], tenant_id: str, contents: int) -> tuple[VersionFacts, ...]:
    rows = conn.execute(
        "SELECT version, embedder, state FROM kb.embedding_versions v LEFT JOIN kb.tenant_versions t "
        "USING (version) WHERE column_state = 'present' AND t.tenant_id = %(id)s "
        "UNION ALL SELECT version, embedder, NULL FROM kb.embedding_versions v WHERE column_state = 'present' "
        "AND NOT EXISTS (SELECT FROM kb.tenant_versions t WHERE t.tenant_id = %(id)s AND t.version = v.version) "
        "ORDER BY 1",
        {"id": tenant_id},
    ).fetchall()
    taken = [version for version, _, state in rows if state not in (None, "retired")]
    missing = dict(zip(taken, _missing(conn, tenant_id, taken), strict=True))
    return tuple(
        VersionFacts(version, EmbedderSpec(**embedder), state, missing.get(version, contents))
        for version, embedder, state in rows
    )


def _missing(conn: Connection[TupleRow], tenant_id: str, versions: list[int]) -> list[int]:
    if not versions:
        return []
    counts = sql.SQL(", ").join(sql.SQL("count(*) FILTER (WHERE {} IS NULL)").format(column(v)) for v in versions)
    row = conn.execute(
        sql.SQL("SELECT {} FROM kb.contents WHERE tenant_id = %s AND orphaned_at IS NULL").format(counts), (tenant_id,)
    ).fetchone()
    assert row is not None
    return list(row)


def _builds(conn: Connection[TupleRow], tenant_id: str) -> tuple[BuildFacts, ...]:
    rows = conn.execute(
        "SELECT build_id, version, method, slot, params, rows_at_build, deleted_at_build, state, "
        "CASE WHEN (SELECT decision FROM kb.reviews r WHERE r.tenant_id = b.tenant_id AND r.build_id = b.build_id "
        "ORDER BY review_id DESC LIMIT 1) = 'rejected' THEN 'fail' ELSE "
        "(SELECT verdict FROM kb.eval_runs e WHERE e.tenant_id = b.tenant_id AND e.build_id = b.build_id "
        "ORDER BY eval_id DESC LIMIT 1) END, index_name FROM kb.builds b "
        "WHERE tenant_id = %s AND (state IN ('building', 'candidate', 'live', 'previous') OR state = 'dropped' "
        "AND NOT b.detail ? 'asked_again' AND build_id > (SELECT l.build_id FROM kb.live l "
        "WHERE l.tenant_id = b.tenant_id) AND EXISTS "
        "(SELECT FROM kb.eval_runs e WHERE e.tenant_id = b.tenant_id AND e.build_id = b.build_id)) ORDER BY build_id",
        (tenant_id,),
    )
    return tuple(
        BuildFacts(
            build_id=build_id,
            version=version,
            method=method,
            slot=slot,
            params=IndexParams(params["m"], params["ef_construction"], params["storage"]) if method == "hnsw" else None,
            rows_at_build=rows_at_build,
            deleted_at_build=deleted_at_build,
            state=state,
            verdict=verdict,
            index_name=index_name,
        )
        for build_id, version, method, slot, params, rows_at_build, deleted_at_build, state, verdict, index_name in rows
    )


def _live(conn: Connection[TupleRow], tenant_id: str) -> LiveFacts | None:
    row = conn.execute(
        "SELECT version, build_id, previous_version, previous_build_id FROM kb.live WHERE tenant_id = %s", (tenant_id,)
    ).fetchone()
    return LiveFacts(*row) if row else None


def _quality(conn: Connection[TupleRow], tenant_id: str) -> QualityFacts | None:
    row = conn.execute(
        "SELECT b.detail ->> 'trigger', b.detail -> 'numbers', p.recall, p.p95_ms, ARRAY(SELECT "
        "ARRAY[e.recall, e.p95_ms] FROM kb.eval_runs e WHERE e.tenant_id = l.tenant_id AND e.build_id = l.build_id "
        "AND e.created_at >= l.promoted_at AND e.eval_id > coalesce(l.eval_id, 0) ORDER BY e.eval_id DESC LIMIT 3) "
        "FROM kb.live l JOIN kb.builds b USING (build_id) LEFT JOIN kb.eval_runs p ON p.eval_id = l.eval_id "
        "WHERE l.tenant_id = %s",
        (tenant_id,),
    ).fetchone()
    return quality_facts(*row) if row else None


def quality_facts(
    made_for: str | None,
    numbers: dict[str, float] | None,
    recall: float | None,
    p95_ms: float | None,
    since: Sequence[tuple[float | None, float | None]],
) -> QualityFacts:
    """The facts from what a statement gives: the live build's trigger and its numbers, its measure at promotion, and
    (recall, p95) of the eval runs since, newest first."""
    before = Measure(numbers.get("recall"), numbers.get("p95_ms")) if numbers and made_for == "quality" else None
    return QualityFacts(Measure(recall, p95_ms), tuple(Measure(*run) for run in since), made_for or "", before)


def _neighbours(conn: Connection[TupleRow], tenant_id: str) -> int:
    """From the catalog, because a writer does not see the builds of other tenants."""
    row = conn.execute(
        "SELECT count(*) - (SELECT count(*) FROM kb.builds WHERE tenant_id = %(t)s AND method = 'hnsw' "
        "AND state IN ('building', 'candidate', 'live', 'previous')) FROM pg_index i "
        "JOIN pg_class c ON c.oid = i.indexrelid WHERE starts_with(c.relname, %(prefix)s) AND i.indrelid = "
        "to_regclass(%(leaf)s)",
        {"t": tenant_id, "prefix": INDEX_PREFIX, "leaf": f"kb.{leaf_partition(conn, tenant_id)}"},
    ).fetchone()
    return max(0, row[0]) if row else 0
