"""A fair sample of a tenant's stored vectors."""

from __future__ import annotations

import numpy as np
from psycopg import Connection, sql
from psycopg.rows import TupleRow

from kb_pipeline.embed.protocol import Vectors
from kb_pipeline.store.contents import column


def sample_vectors(conn: Connection[TupleRow], tenant_id: str, version: int, count: int) -> Vectors:
    """`(n, dims) float32`, n <= count: those with the smallest fingerprints. A SHA-256 says nothing of what the text is
    about, so they are a fair sample; the same one while the contents stay."""
    query = sql.SQL(
        "SELECT {c}::vector FROM kb.contents WHERE tenant_id = %s AND orphaned_at IS NULL AND {c} IS NOT NULL "
        "ORDER BY fingerprint LIMIT %s"
    ).format(c=column(version))
    with conn.cursor(binary=True) as cursor:
        rows = cursor.execute(query, (tenant_id, count)).fetchall()
    return np.array([np.asarray(row[0], dtype=np.float32) for row in rows], dtype=np.float32)
