"""Tenants as Postgres has them, for the planner: one, or all of them with as many statements."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from psycopg import Connection, sql
from psycopg.rows import TupleRow

from kb_pipeline.embed.protocol import EmbedderSpec
from kb_pipeline.planner.model import Actual, BuildFacts, IndexParams, LiveFacts, Measure, QualityFacts, VersionFacts
from kb_pipeline.store.contents import column
from kb_pipeline.store.index_ddl import INDEX_PREFIX, PARTITIONS

RETIRED = (None, "retired")


def actual_state(conn: Connection[TupleRow], tenant_id: str) -> Actual:
    """What the tenant has. `conn` is the owner's or the tenant's; zeros and nothing for a tenant that has never run.

    Missing vectors are counted in one pass over the tenant's contents, only for versions it has a part in: of the
    others everything is missing.
    """
    return actual_states(conn, [tenant_id])[tenant_id]


def actual_states(conn: Connection[TupleRow], tenant_ids: Sequence[str]) -> dict[str, Actual]:
    """`actual_state` of each of these tenants, in one snapshot. `conn` is the owner's."""
    ids = list(tenant_ids)
    with conn.transaction():
        counters = {
            row[0]: row[1:]
            for row in conn.execute(
                "SELECT tenant_id, contents, inserted_total, deleted_total FROM kb.tenants WHERE tenant_id = ANY(%s)",
                (ids,),
            )
        }
        versions = _versions(conn, ids, {name: counters.get(name, (0, 0, 0))[0] for name in ids})
        builds, live, quality = _builds(conn, ids), _live(conn, ids), _quality(conn, ids)
        crowd = neighbours(conn, ids)
    return {
        name: Actual(
            name,
            *counters.get(name, (0, 0, 0)),
            versions=versions[name],
            builds=tuple(builds[name]),
            live=live.get(name),
            quality=quality.get(name),
            neighbours=crowd.get(name, 0),
        )
        for name in ids
    }


def _versions(
    conn: Connection[TupleRow], ids: list[str], contents: dict[str, int]
) -> dict[str, tuple[VersionFacts, ...]]:
    present = [
        (version, EmbedderSpec(**embedder))
        for version, embedder in conn.execute(
            "SELECT version, embedder FROM kb.embedding_versions WHERE column_state = 'present' ORDER BY version"
        )
    ]
    states = {
        (name, version): state
        for name, version, state in conn.execute(
            "SELECT tenant_id, version, state FROM kb.tenant_versions WHERE tenant_id = ANY(%s)", (ids,)
        )
    }
    taken = sorted({version for (_, version), state in states.items() if state not in RETIRED})
    missing = _missing(conn, ids, [version for version, _ in present if version in taken])

    def facts(name: str, version: int, spec: EmbedderSpec) -> VersionFacts:
        state = states.get((name, version))
        lacking = contents[name] if state in RETIRED else missing.get((name, version), 0)
        return VersionFacts(version, spec, state, lacking)

    return {name: tuple(facts(name, version, spec) for version, spec in present) for name in ids}


def _missing(conn: Connection[TupleRow], ids: list[str], versions: list[int]) -> dict[tuple[str, int], int]:
    if not versions:
        return {}
    counts = sql.SQL(", ").join(sql.SQL("count(*) FILTER (WHERE {} IS NULL)").format(column(v)) for v in versions)
    some = sql.SQL(" OR ").join(sql.SQL("{} IS NULL").format(column(v)) for v in versions)
    query = sql.SQL(
        "SELECT tenant_id, {} FROM kb.contents WHERE tenant_id = ANY(%s) AND orphaned_at IS NULL AND ({}) GROUP BY 1"
    )
    return {
        (name, version): count
        for name, *found in conn.execute(query.format(counts, some), (ids,))
        for version, count in zip(versions, found, strict=True)
    }


def _builds(conn: Connection[TupleRow], ids: list[str]) -> dict[str, list[BuildFacts]]:
    rows = conn.execute(
        "SELECT tenant_id, build_id, version, method, slot, params, rows_at_build, deleted_at_build, state, "
        "CASE WHEN (SELECT decision FROM kb.reviews r WHERE r.tenant_id = b.tenant_id AND r.build_id = b.build_id "
        "ORDER BY review_id DESC LIMIT 1) = 'rejected' THEN 'fail' ELSE "
        "(SELECT verdict FROM kb.eval_runs e WHERE e.tenant_id = b.tenant_id AND e.build_id = b.build_id "
        "ORDER BY eval_id DESC LIMIT 1) END, index_name FROM kb.builds b "
        "WHERE tenant_id = ANY(%s) AND (state IN ('building', 'candidate', 'live', 'previous') OR state = 'dropped' "
        "AND NOT b.detail ? 'asked_again' AND build_id > (SELECT l.build_id FROM kb.live l "
        "WHERE l.tenant_id = b.tenant_id) AND EXISTS "
        "(SELECT FROM kb.eval_runs e WHERE e.tenant_id = b.tenant_id AND e.build_id = b.build_id)) ORDER BY build_id",
        (ids,),
    )
    found: dict[str, list[BuildFacts]] = defaultdict(list)
    for name, build_id, version, method, slot, params, rows_at_build, deleted, state, verdict, index_name in rows:
        found[name].append(
            BuildFacts(
                build_id=build_id,
                version=version,
                method=method,
                slot=slot,
                params=IndexParams(params["m"], params["ef_construction"], params["storage"])
                if method == "hnsw"
                else None,
                rows_at_build=rows_at_build,
                deleted_at_build=deleted,
                state=state,
                verdict=verdict,
                index_name=index_name,
            )
        )
    return found


def _live(conn: Connection[TupleRow], ids: list[str]) -> dict[str, LiveFacts]:
    rows = conn.execute(
        "SELECT tenant_id, version, build_id, previous_version, previous_build_id FROM kb.live "
        "WHERE tenant_id = ANY(%s)",
        (ids,),
    )
    return {row[0]: LiveFacts(*row[1:]) for row in rows}


def _quality(conn: Connection[TupleRow], ids: list[str]) -> dict[str, QualityFacts]:
    rows = conn.execute(
        "SELECT l.tenant_id, b.detail ->> 'trigger', b.detail -> 'numbers', p.recall, p.p95_ms, ARRAY(SELECT "
        "ARRAY[e.recall, e.p95_ms] FROM kb.eval_runs e WHERE e.tenant_id = l.tenant_id AND e.build_id = l.build_id "
        "AND e.created_at >= l.promoted_at AND e.eval_id > coalesce(l.eval_id, 0) ORDER BY e.eval_id DESC LIMIT 3) "
        "FROM kb.live l JOIN kb.builds b USING (build_id) LEFT JOIN kb.eval_runs p ON p.eval_id = l.eval_id "
        "WHERE l.tenant_id = ANY(%s)",
        (ids,),
    )
    return {row[0]: quality_facts(*row[1:]) for row in rows}


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


def neighbours(conn: Connection[TupleRow], ids: list[str]) -> dict[str, int]:
    """HNSW indexes of other tenants in each tenant's partition; nothing where there are none. From the catalog, because
    a writer does not see the builds of other tenants."""
    rows = conn.execute(
        "WITH indexes AS (SELECT i.indrelid, count(*) AS n FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
        "WHERE c.relnamespace = 'kb'::regnamespace AND starts_with(c.relname, %(prefix)s) GROUP BY 1), "
        "own AS (SELECT tenant_id, count(*) AS n FROM kb.builds WHERE tenant_id = ANY(%(ids)s) AND method = 'hnsw' "
        "AND state IN ('building', 'candidate', 'live', 'previous') GROUP BY 1) "
        "SELECT t.id, greatest(0, x.n - coalesce(o.n, 0)) FROM unnest(%(ids)s::text[]) AS t (id) "
        "JOIN generate_series(0, %(parts)s - 1) AS p (i) "
        "ON satisfies_hash_partition('kb.contents'::regclass, %(parts)s, p.i, t.id) "
        "JOIN indexes x ON x.indrelid = to_regclass('kb.contents_p' || p.i) LEFT JOIN own o ON o.tenant_id = t.id",
        {"ids": ids, "prefix": INDEX_PREFIX, "parts": PARTITIONS},
    )
    return dict(rows.fetchall())
