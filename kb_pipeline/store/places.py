"""Reading chunks back: where each stands, with its text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from psycopg import Connection
from psycopg.rows import TupleRow


@dataclass(frozen=True, slots=True)
class PlacedChunk:
    """One chunk of an indexed document, with the text of its content."""

    doc_id: str
    uri: str
    ordinal: int
    start: int
    end: int
    kind: str
    heading_path: list[str]
    fingerprint: bytes
    text: str


def list_chunks(
    conn: Connection[TupleRow], tenant_id: str, *, doc_id: str | None = None, batch_rows: int = 2000
) -> Iterator[PlacedChunk]:
    """Chunks of the tenant, or of one document, in the order of (doc_id, ordinal).

    Read in batches by key, each a statement of its own, so memory is flat and no snapshot is held while somebody reads the
    output. A document replaced between two batches may show chunks of both forms.
    """
    after: tuple[str, int] = ("", -1) if doc_id is None else (doc_id, -1)
    while True:
        rows = conn.execute(
            "SELECT p.doc_id, d.uri, p.ordinal, p.start_offset, p.end_offset, p.kind, p.heading_path, p.fingerprint, c.body "
            "FROM (SELECT * FROM kb.chunks WHERE tenant_id = %(tenant)s AND (doc_id, ordinal) > (%(doc)s, %(ordinal)s) "
            "AND (%(only)s::text IS NULL OR doc_id = %(only)s) ORDER BY doc_id, ordinal LIMIT %(rows)s) AS p "
            "JOIN kb.documents d ON d.tenant_id = %(tenant)s AND d.doc_id = p.doc_id "
            "JOIN kb.contents c ON c.tenant_id = %(tenant)s AND c.fingerprint = p.fingerprint ORDER BY p.doc_id, p.ordinal",
            {"tenant": tenant_id, "doc": after[0], "ordinal": after[1], "only": doc_id, "rows": batch_rows},
            binary=True,
        ).fetchall()
        for row in rows:
            yield PlacedChunk(*row)
        if len(rows) < batch_rows:
            return
        after = (rows[-1][0], rows[-1][2])
