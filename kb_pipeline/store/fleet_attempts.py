"""Failed runs of each cause of a trigger: what the next run key is made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from psycopg import Connection
from psycopg.rows import TupleRow

from kb_pipeline.planner.firing import Attempts

Cause = tuple[str, str, str]
"""(tenant, trigger, cause)."""


def read_attempts(conn: Connection[TupleRow], causes: Iterable[Cause]) -> dict[Cause, Attempts]:
    """What is known of these causes; none of one that never failed."""
    asked = list(causes)
    rows = conn.execute(
        "SELECT a.tenant_id, a.trigger, a.cause, a.attempts, a.last_at FROM kb.trigger_attempts a "
        "JOIN unnest(%s::text[], %s::text[], %s::text[]) AS c (tenant_id, trigger, cause) "
        "USING (tenant_id, trigger, cause)",
        [list(column) for column in zip(*asked, strict=True)] if asked else ([], [], []),
    )
    return {(tenant, trigger, cause): Attempts(failed, at) for tenant, trigger, cause, failed, at in rows}


def keep_attempts(conn: Connection[TupleRow], changed: Mapping[Cause, tuple[Attempts, str]]) -> None:
    """Write down causes whose run failed, with the error."""
    with conn.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO kb.trigger_attempts (tenant_id, trigger, cause, attempts, last_at, last_error) "
            "VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (tenant_id, trigger, cause) DO UPDATE "
            "SET attempts = excluded.attempts, last_at = excluded.last_at, last_error = excluded.last_error",
            [(*cause, attempts.failed, attempts.last_at, error) for cause, (attempts, error) in changed.items()],
        )


def forget_causes(conn: Connection[TupleRow], days: int = 90) -> int:
    """Remove causes that nothing has asked about for so long; how many."""
    return conn.execute(
        "DELETE FROM kb.trigger_attempts WHERE last_at < now() - make_interval(days => %s)", (days,)
    ).rowcount
