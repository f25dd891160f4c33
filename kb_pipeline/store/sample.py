"""A sample of a tenant's contents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import Connection, sql
from psycopg.rows import TupleRow

from kb_pipeline.fingerprint import embedded_text
from kb_pipeline.store.contents import column


@dataclass(frozen=True, slots=True)
class Sampled:
    """One content."""

    fingerprint: bytes
    body: str
    text: str
    """What is embedded."""


def sample_texts(
    conn: Connection[TupleRow], tenant_id: str, version: int, *, rows: int, documents: Sequence[str] = ()
) -> list[Sampled]:
    """At most `rows` contents in use with a vector of the version: up to half of these documents, the rest by
    fingerprint, which is as good as at random and the same every time."""
    query = sql.SQL(
        "WITH of_documents AS (SELECT DISTINCT fingerprint FROM kb.chunks WHERE tenant_id = %(t)s "
        "AND doc_id = ANY(%(d)s) ORDER BY fingerprint LIMIT %(half)s), "
        "drawn AS (SELECT fingerprint FROM kb.contents WHERE tenant_id = %(t)s AND orphaned_at IS NULL AND {column} IS "
        "NOT NULL ORDER BY fingerprint LIMIT %(n)s) "
        "SELECT c.fingerprint, c.context, c.body FROM (SELECT fingerprint, 0 AS rank FROM of_documents UNION ALL "
        "SELECT fingerprint, 1 FROM drawn WHERE fingerprint NOT IN (SELECT fingerprint FROM of_documents)) s "
        "JOIN kb.contents c ON c.tenant_id = %(t)s AND c.fingerprint = s.fingerprint AND c.{column} IS NOT NULL "
        "ORDER BY s.rank, c.fingerprint LIMIT %(n)s"
    ).format(column=column(version))
    found = conn.execute(query, {"t": tenant_id, "d": list(documents), "half": rows // 2, "n": rows}, binary=True)
    return [Sampled(name, body, embedded_text(context, body)) for name, context, body in found]
