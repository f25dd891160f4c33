"""How many texts a server takes at once, as earlier runs found out."""

from __future__ import annotations

from collections.abc import Mapping

from psycopg import Connection
from psycopg.rows import TupleRow


def endpoint_limits(conn: Connection[TupleRow], tenant_id: str, model: str) -> Mapping[str, int]:
    """Texts of a request, by endpoint; endpoints without a known limit are left out."""
    rows = conn.execute(
        "SELECT endpoint, max_inputs FROM kb.endpoint_limits WHERE tenant_id = %s AND model = %s", (tenant_id, model)
    )
    return dict(rows.fetchall())


def put_endpoint_limit(
    conn: Connection[TupleRow], tenant_id: str, model: str, endpoint: str, max_inputs: int | None
) -> None:
    """Note what an endpoint takes; None: as much as is sent."""
    if max_inputs is None:
        conn.execute(
            "DELETE FROM kb.endpoint_limits WHERE tenant_id = %s AND model = %s AND endpoint = %s",
            (tenant_id, model, endpoint),
        )
        return
    conn.execute(
        "INSERT INTO kb.endpoint_limits (tenant_id, model, endpoint, max_inputs) VALUES (%s, %s, %s, %s) "
        "ON CONFLICT (tenant_id, model, endpoint) DO UPDATE SET max_inputs = excluded.max_inputs, changed_at = now()",
        (tenant_id, model, endpoint, max_inputs),
    )
