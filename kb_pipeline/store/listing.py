"""The indexed chunks in reading order, streamed: for `kb chunks`, and for headings to ask about."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from psycopg import Connection
from psycopg.rows import TupleRow, dict_row

BATCH = 2_000


def chunk_rows(conn: Connection[TupleRow], tenant_id: str, *, doc_id: str | None = None) -> Iterator[dict[str, Any]]:
    """Every chunk, by document and ordinal, in one snapshot and never all in memory: the shape of `kb chunks`."""
    with conn.transaction(), conn.cursor("chunk_rows", row_factory=dict_row) as cursor:
        cursor.itersize = BATCH
        cursor.execute(
            'SELECT c.doc_id, d.uri, c.ordinal, c.start_offset AS start, c.end_offset AS "end", c.kind, c.heading_path,'
            " encode(c.fingerprint, 'hex') AS fingerprint, t.body AS text"
            " FROM kb.chunks c JOIN kb.documents d USING (tenant_id, doc_id)"
            " JOIN kb.contents t USING (tenant_id, fingerprint)"
            " WHERE c.tenant_id = %(tenant)s AND (%(doc)s::text IS NULL OR c.doc_id = %(doc)s)"
            " ORDER BY c.doc_id, c.ordinal",
            {"tenant": tenant_id, "doc": doc_id},
        )
        yield from cursor


def some_headings(conn: Connection[TupleRow], tenant_id: str, *, count: int) -> list[str]:
    """Headings of several words, spread evenly over the documents, always the same ones."""
    rows = conn.execute(
        "SELECT heading FROM (SELECT DISTINCT ON (doc_id) doc_id, heading_path[cardinality(heading_path)] AS heading"
        " FROM kb.chunks WHERE tenant_id = %s AND cardinality(heading_path) > 0 ORDER BY doc_id, ordinal DESC) AS last"
        " WHERE heading ~ '[[:alpha:]]+ [[:alpha:]]+ [[:alpha:]]+' ORDER BY md5(doc_id) LIMIT %s",
        (tenant_id, count),
    )
    return [row[0] for row in rows]
