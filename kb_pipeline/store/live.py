"""The one row that says what a tenant is searched through. Promotion and rollback change it in one transaction."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from psycopg import Connection
from psycopg.rows import TupleRow, class_row


@dataclass(frozen=True, slots=True)
class LiveRow:
    """What is live, since when, by whom, and what was before."""

    version: int
    build_id: int
    method: str
    model: str
    dims: int
    previous_version: int | None
    previous_build_id: int | None
    promoted_at: datetime
    promoted_by: str
    why: str | None
    eval_id: int | None


def read_live(conn: Connection[TupleRow], tenant_id: str) -> LiveRow | None:
    """The tenant's live row; None while nothing is served."""
    with conn.cursor(row_factory=class_row(LiveRow)) as cursor:
        return cursor.execute(
            "SELECT l.version, l.build_id, b.method, coalesce(v.embedder ->> 'model', '') AS model, v.dims, "
            "l.previous_version, "
            "l.previous_build_id, l.promoted_at, l.promoted_by, l.why, l.eval_id FROM kb.live l JOIN kb.builds "
            "b USING (build_id) "
            "JOIN kb.embedding_versions v ON v.version = l.version WHERE l.tenant_id = %s",
            (tenant_id,),
        ).fetchone()


def lock_builds(conn: Connection[TupleRow], tenant_id: str) -> None:
    """Until the transaction ends, nobody else changes the state of the tenant's builds. Searches do not notice."""
    conn.execute(
        "SELECT FROM kb.builds WHERE tenant_id = %s AND state IN ('candidate', 'live', 'previous') ORDER BY "
        "build_id FOR UPDATE",
        (tenant_id,),
    )


_REBUILT_IN_SOAK = (
    "excluded.version = l.version AND l.previous_version <> l.version AND l.previous_build_id IS NOT NULL"
)


def switch(
    conn: Connection[TupleRow], tenant_id: str, build_id: int, *, by: str, why: str | None, eval_id: int | None
) -> None:
    """Makes a standing build live and the live one previous. Call within a transaction that holds `lock_builds`.

    The version served before stays searchable (`previous`); the one before that is no longer kept for it. While another
    model is in soak, a rebuild of the live one leaves it there: the way back goes to that model until its soak is over.
    """
    values = {"t": tenant_id, "b": build_id, "by": by, "why": why, "eval": eval_id}
    for statement in (
        # In this order: at most one build of a tenant is live at any moment (unique index builds_live).
        "UPDATE kb.builds SET state = 'previous', changed_at = now() WHERE tenant_id = %(t)s AND state = "
        "'live' AND build_id <> %(b)s",
        "UPDATE kb.builds SET state = 'live', changed_at = now() WHERE tenant_id = %(t)s AND build_id = %(b)s",
        "INSERT INTO kb.live AS l (tenant_id, version, build_id, promoted_by, why, eval_id) "
        "SELECT tenant_id, version, build_id, %(by)s, %(why)s, %(eval)s FROM kb.builds WHERE tenant_id = %(t)s "
        "AND build_id = %(b)s "
        "ON CONFLICT (tenant_id) DO UPDATE SET "
        "previous_version = CASE WHEN " + _REBUILT_IN_SOAK + " THEN l.previous_version ELSE l.version END, "
        "previous_build_id = CASE WHEN " + _REBUILT_IN_SOAK + " THEN l.previous_build_id ELSE l.build_id END, "
        "version = excluded.version, build_id = excluded.build_id, promoted_at = now(), promoted_by = "
        "excluded.promoted_by, "
        "why = excluded.why, eval_id = excluded.eval_id",
        "UPDATE kb.tenant_versions v SET changed_at = now(), state = CASE WHEN v.version = l.version THEN 'live' "
        "WHEN v.version = l.previous_version THEN 'previous' ELSE 'retired' END FROM kb.live l "
        "WHERE v.tenant_id = %(t)s AND l.tenant_id = %(t)s AND (v.version IN (l.version, l.previous_version) "
        "OR v.state IN ('live', 'previous')) "
        "AND v.state <> CASE WHEN v.version = l.version THEN 'live' WHEN v.version = l.previous_version THEN "
        "'previous' ELSE 'retired' END",
    ):
        conn.execute(statement.encode(), values)
