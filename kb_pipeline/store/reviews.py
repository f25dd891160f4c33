"""What people decided about builds, and which build waits for a decision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from psycopg import Connection
from psycopg.rows import TupleRow, class_row

Made = Literal["approved", "forced", "rejected"]


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision, who made it, when and why."""

    build_id: int
    eval_id: int | None
    """The newest eval run of the build at that time."""
    decision: Made
    """`forced`: made live although its verdict was not a pass."""
    by: str
    why: str | None
    at: str
    """ISO 8601, UTC."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A candidate that passed, newer than what is live, on which nobody decided yet."""

    tenant_id: str
    build_id: int
    eval_id: int
    since: str
    """When it was first measured with a pass, ISO 8601, UTC."""
    hours: float
    report: str | None


def add_decision(
    conn: Connection[TupleRow],
    tenant_id: str,
    build_id: int,
    *,
    eval_id: int | None,
    decision: Made,
    by: str,
    why: str | None,
) -> None:
    """Stores a decision; none is ever changed."""
    conn.execute(
        "INSERT INTO kb.reviews (tenant_id, build_id, eval_id, decision, by, why) VALUES (%s, %s, %s, %s, %s, %s)",
        (tenant_id, build_id, eval_id, decision, by, why),
    )


def decisions(conn: Connection[TupleRow], tenant_id: str, build_ids: Sequence[int] | None = None) -> list[Decision]:
    """The tenant's decisions, on these builds or on all, oldest first."""
    with conn.cursor(row_factory=class_row(Decision)) as cursor:
        return cursor.execute(
            "SELECT build_id, eval_id, decision, by, why, "
            "to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') AS at FROM kb.reviews "
            "WHERE tenant_id = %s AND (%s::bigint[] IS NULL OR build_id = ANY(%s::bigint[])) ORDER BY review_id",
            (tenant_id, None if build_ids is None else list(build_ids), list(build_ids or ())),
        ).fetchall()


def newest_decision(conn: Connection[TupleRow], tenant_id: str, build_id: int) -> Decision | None:
    """The last word on a build."""
    made = decisions(conn, tenant_id, [build_id])
    return made[-1] if made else None


def waiting_builds(conn: Connection[TupleRow], tenant_id: str | None = None) -> list[Waiting]:
    """The waiting candidate of each tenant, or of one: newest of the tenant, newest verdict a pass, newer than what is
    live, not decided on. In `auto` mode the next run promotes it."""
    query = """
        SELECT b.tenant_id, b.build_id, e.eval_id,
               to_char(f.first_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS since,
               (extract(epoch FROM clock_timestamp() - f.first_at) / 3600)::float8 AS hours, e.report_url AS report
        FROM (SELECT tenant_id, max(build_id) AS build_id FROM kb.builds c WHERE state = 'candidate'
              AND build_id > coalesce((SELECT max(build_id) FROM kb.builds s WHERE s.tenant_id = c.tenant_id
                                       AND s.state IN ('live', 'previous')), 0)
              AND (%(t)s::text IS NULL OR tenant_id = %(t)s) GROUP BY tenant_id) b
        CROSS JOIN LATERAL (SELECT eval_id, verdict, report_url FROM kb.eval_runs r WHERE r.tenant_id = b.tenant_id
              AND r.build_id = b.build_id ORDER BY eval_id DESC LIMIT 1) e
        CROSS JOIN LATERAL (SELECT min(created_at) AS first_at FROM kb.eval_runs r WHERE r.tenant_id = b.tenant_id
              AND r.build_id = b.build_id AND r.verdict = 'pass') f
        WHERE e.verdict = 'pass' AND NOT EXISTS (
              SELECT FROM kb.reviews v WHERE v.tenant_id = b.tenant_id AND v.build_id = b.build_id)
        ORDER BY b.tenant_id
    """
    with conn.cursor(row_factory=class_row(Waiting)) as cursor:
        return cursor.execute(query, {"t": tenant_id}).fetchall()
