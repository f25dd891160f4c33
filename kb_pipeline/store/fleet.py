"""All tenants at once: which of them are over the threshold of a trigger, in one statement."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from psycopg import Connection
from psycopg.rows import TupleRow

from kb_pipeline.embed.protocol import EmbedderSpec
from kb_pipeline.planner.model import Actual, BuildFacts, Desired, IndexParams, LiveFacts, VersionFacts
from kb_pipeline.planner.triggers import BAD_RUNS, CHURN_PERCENT, GROWTH_PERCENT, SLOWER
from kb_pipeline.store.actual import neighbours, quality_facts

_OVER = """
WITH over AS (
    SELECT t.tenant_id, t.contents, t.inserted_total, t.deleted_total, l.version, l.build_id, l.previous_version,
           l.previous_build_id, l.eval_id, l.promoted_at, b.detail, w.embedder_hash
      FROM unnest(%(ids)b::text[], %(kinds)b::int[]) AS i (tenant_id, kind)
      JOIN unnest(%(hash)s::bytea[], %(m)s::int[], %(ef)s::int[], %(storage)s::text[], %(exact)s::bigint[],
                  %(floor)s::float8[]) WITH ORDINALITY
           AS w (embedder_hash, m, ef, storage, exact_below, floor, kind) ON w.kind = i.kind
      JOIN kb.tenants t ON t.tenant_id = i.tenant_id AND t.state = 'active'
      JOIN kb.live l ON l.tenant_id = t.tenant_id
      JOIN kb.builds b ON b.build_id = l.build_id
      JOIN kb.embedding_versions v ON v.version = l.version
      LEFT JOIN kb.eval_runs p ON p.eval_id = l.eval_id
     WHERE ('model' = ANY(%(triggers)s) AND v.embedder_hash <> w.embedder_hash)
        OR ('parameters' = ANY(%(triggers)s) AND b.method = 'hnsw'
            AND (b.params ->> 'm', b.params ->> 'ef_construction', b.params ->> 'storage')
                IS DISTINCT FROM (w.m::text, w.ef::text, w.storage))
        OR ('growth' = ANY(%(triggers)s) AND CASE b.method WHEN 'exact' THEN t.contents >= w.exact_below
            ELSE t.contents * 2 < w.exact_below
                 OR t.contents * 100 >= b.rows_at_build * %(growth)s AND t.contents <> b.rows_at_build END)
        OR ('churn' = ANY(%(triggers)s) AND b.method = 'hnsw'
            AND (t.deleted_total - b.deleted_at_build) * 100 > b.rows_at_build * %(churn)s)
        OR ('quality' = ANY(%(triggers)s) AND EXISTS (
            SELECT FROM (SELECT e.recall, e.p95_ms FROM kb.eval_runs e WHERE e.tenant_id = l.tenant_id
                            AND e.build_id = l.build_id AND e.created_at >= l.promoted_at
                            AND e.eval_id > coalesce(l.eval_id, 0) ORDER BY e.eval_id DESC LIMIT %(runs)s) r
            HAVING count(*) = %(runs)s
               AND (count(*) FILTER (WHERE r.recall < w.floor) = %(runs)s
                    OR count(*) FILTER (WHERE r.p95_ms > p.p95_ms * %(slower)s) = %(runs)s)))
)
SELECT o.tenant_id, o.contents, o.inserted_total, o.deleted_total, o.version, o.build_id, o.previous_version,
       o.previous_build_id, o.detail ->> 'trigger', o.detail -> 'numbers', p.recall, p.p95_ms,
       ARRAY(SELECT ARRAY[e.recall, e.p95_ms] FROM kb.eval_runs e WHERE e.tenant_id = o.tenant_id
              AND e.build_id = o.build_id AND e.created_at >= o.promoted_at AND e.eval_id > coalesce(o.eval_id, 0)
              ORDER BY e.eval_id DESC LIMIT %(runs)s),
       (SELECT v.embedder FROM kb.embedding_versions v WHERE v.version = o.version),
       (SELECT v.version FROM kb.embedding_versions v WHERE v.embedder_hash = o.embedder_hash
           AND v.column_state = 'present'),
       (SELECT coalesce(jsonb_agg(jsonb_build_object('build_id', b.build_id, 'version', b.version, 'method', b.method,
               'slot', b.slot, 'params', b.params, 'rows_at_build', b.rows_at_build, 'state', b.state,
               'deleted_at_build', b.deleted_at_build, 'verdict', b.verdict) ORDER BY b.build_id), '[]')
          FROM (SELECT x.*, CASE WHEN (SELECT r.decision FROM kb.reviews r WHERE r.tenant_id = x.tenant_id
                                           AND r.build_id = x.build_id ORDER BY r.review_id DESC LIMIT 1) = 'rejected'
                            THEN 'fail'
                            ELSE (SELECT e.verdict FROM kb.eval_runs e WHERE e.tenant_id = x.tenant_id
                                     AND e.build_id = x.build_id ORDER BY e.eval_id DESC LIMIT 1) END AS verdict
                  FROM kb.builds x WHERE x.tenant_id = o.tenant_id
                   AND (x.state IN ('building', 'candidate', 'live', 'previous')
                        OR x.state = 'dropped' AND NOT x.detail ? 'asked_again' AND x.build_id > o.build_id)) b
         WHERE b.state <> 'dropped' OR b.verdict IS NOT NULL)
  FROM over o LEFT JOIN kb.eval_runs p ON p.eval_id = o.eval_id
 ORDER BY o.tenant_id
"""


def over_threshold(
    conn: Connection[TupleRow], wanted: Mapping[str, Desired], triggers: tuple[str, ...]
) -> Iterator[Actual]:
    """The tenants of `wanted` with a live build that are over the threshold of one of these triggers, as the planner
    takes them; missing vectors are not counted. `conn` is the owner's.

    Over the threshold is not yet to fire: what was refused or rolled back from is the planner's to know.
    """
    kinds: dict[tuple[EmbedderSpec, IndexParams, int, float], int] = {}
    of = [
        kinds.setdefault((one.spec, one.index, one.exact_below_rows, one.recall_floor), len(kinds) + 1)
        for one in wanted.values()
    ]
    values = {
        "triggers": list(triggers),
        "ids": list(wanted),
        "kinds": of,
        "hash": [spec.hash() for spec, *_ in kinds],
        "m": [index.m for _, index, *_ in kinds],
        "ef": [index.ef_construction for _, index, *_ in kinds],
        "storage": [index.storage for _, index, *_ in kinds],
        "exact": [exact_below for *_, exact_below, _ in kinds],
        "floor": [floor for *_, floor in kinds],
        "growth": GROWTH_PERCENT,
        "churn": CHURN_PERCENT,
        "runs": BAD_RUNS,
        "slower": SLOWER,
    }
    rows = conn.execute(_OVER.encode(), values).fetchall()
    crowd = neighbours(conn, [row[0] for row in rows]) if rows else {}
    for row in rows:
        yield _actual(row, wanted[row[0]], crowd.get(row[0], 0))


def _actual(row: TupleRow, desired: Desired, crowd: int) -> Actual:
    tenant_id, contents, inserted, deleted, version, build_id, previous_version, previous_build_id = row[:8]
    live_embedder, wanted_version, builds = row[13:]
    versions = [VersionFacts(version, EmbedderSpec(**live_embedder), "live", 0)]
    if wanted_version is not None and wanted_version != version:
        versions.append(VersionFacts(wanted_version, desired.spec, "complete", 0))
    return Actual(
        tenant_id=tenant_id,
        contents=contents,
        inserted_total=inserted,
        deleted_total=deleted,
        versions=tuple(versions),
        builds=tuple(_build(each) for each in builds),
        live=LiveFacts(version, build_id, previous_version, previous_build_id),
        quality=quality_facts(*row[8:13]),
        neighbours=crowd,
    )


def _build(facts: Mapping[str, Any]) -> BuildFacts:
    params = facts["params"]
    return BuildFacts(
        build_id=facts["build_id"],
        version=facts["version"],
        method=facts["method"],
        slot=facts["slot"],
        params=IndexParams(params["m"], params["ef_construction"], params["storage"])
        if facts["method"] == "hnsw"
        else None,
        rows_at_build=facts["rows_at_build"],
        deleted_at_build=facts["deleted_at_build"],
        state=facts["state"],
        verdict=facts["verdict"],
    )
