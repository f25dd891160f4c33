"""Circuit breakers as the last runs saw them."""

from __future__ import annotations

from typing import Any

from psycopg import Connection
from psycopg.rows import TupleRow, dict_row


def put_breaker(conn: Connection[TupleRow], tenant_id: str, run_id: str, endpoint: str, state: str) -> None:
    """Note that a breaker changed: `closed`, `open` or `half-open`."""
    conn.execute(
        "INSERT INTO kb.breakers AS b (tenant_id, endpoint, state, opened, run_id) VALUES (%s, %s, %s, %s, %s) "
        "ON CONFLICT (tenant_id, endpoint) DO UPDATE SET state = excluded.state, run_id = excluded.run_id, "
        "opened = b.opened + excluded.opened, changed_at = now()",
        (tenant_id, endpoint, state, int(state == "open"), run_id),
    )


def close_breakers(conn: Connection[TupleRow], tenant_id: str, run_id: str) -> None:
    """Note that a run of the lane ended well: whatever was open answers again."""
    conn.execute(
        "UPDATE kb.breakers SET state = 'closed', run_id = %s, changed_at = now() "
        "WHERE tenant_id = %s AND state <> 'closed'",
        (run_id, tenant_id),
    )


def breaker_rows(conn: Connection[TupleRow], tenant_id: str) -> list[dict[str, Any]]:
    """Every endpoint whose breaker ever changed: state, how often it opened, since when."""
    with conn.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(
            "SELECT endpoint, state, opened, changed_at, run_id FROM kb.breakers WHERE tenant_id = %s ORDER BY 1",
            (tenant_id,),
        ).fetchall()
