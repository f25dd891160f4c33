"""Contents that no chunk refers to: kept for a grace period, because a text that comes back then costs nothing."""

from __future__ import annotations

from datetime import timedelta

from psycopg import Connection
from psycopg.rows import TupleRow

BATCH_ROWS = 2_000


def collect_orphans(conn: Connection[TupleRow], tenant_id: str, older_than: timedelta) -> int:
    """Deletes the tenant's contents that have been orphans for longer than this, in short transactions; how many.

    One that a chunk refers to after all is kept. `conn` must be in autocommit.
    """
    total = 0
    while True:
        deleted = conn.execute(
            "DELETE FROM kb.contents c USING (SELECT fingerprint FROM kb.contents WHERE tenant_id = %(t)s "
            "AND orphaned_at < now() - %(age)s::interval LIMIT %(rows)s) o WHERE c.tenant_id = %(t)s AND "
            "c.fingerprint = o.fingerprint "
            "AND c.orphaned_at IS NOT NULL AND NOT EXISTS "
            "(SELECT FROM kb.chunks p WHERE p.tenant_id = %(t)s AND p.fingerprint = c.fingerprint)",
            {"t": tenant_id, "age": older_than, "rows": BATCH_ROWS},
        ).rowcount
        total += deleted
        if deleted < BATCH_ROWS:
            return total
