"""Documents: what is indexed, and replacing, adding and deleting them with their chunks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from psycopg import Connection
from psycopg.rows import TupleRow

from kb_pipeline.planner.diff import Indexed
from kb_pipeline.store.dead_letters import drop_dead_letters
from kb_pipeline.store.tenants import count_contents


@dataclass(frozen=True, slots=True)
class DocumentRow:
    """A document as it is going to stand in `kb.documents`."""

    doc_id: str
    uri: str
    content_sha256: bytes
    text_sha256: bytes
    state: str
    """JSON object."""
    metadata: str
    """JSON object."""
    format: str
    chunker: str
    characters: int = 0
    """Of the decoded text, which offsets refer to."""


@dataclass(slots=True)
class ChunkRows:
    """Chunks of some documents, column by column."""

    doc_ids: list[str]
    ordinals: list[int]
    fingerprints: list[bytes]
    starts: list[int]
    ends: list[int]
    heading_paths: list[str]
    """Joined by the unit separator, which stands in no heading."""
    kinds: list[str]


@dataclass(frozen=True, slots=True)
class Applied:
    """What one transaction did."""

    written: int
    """Documents that were added or replaced; those that stood there equally are not written."""
    deleted: int
    came: int
    """Contents that came to be referred to."""
    gone: int
    """Contents that ceased to be."""


def state_key(uri: str, state: Mapping[str, Any]) -> bytes:
    """Digest of where a document is and the state it is listed with (16 bytes); equal means it need not be read."""
    listed = json.dumps([uri, dict(state)], sort_keys=True, separators=(",", ":"))
    return blake2b(listed.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def indexed_documents(conn: Connection[TupleRow], tenant_id: str) -> dict[str, Indexed]:
    """Every indexed document, in a few hundred bytes each."""
    with conn.transaction(), conn.cursor("indexed_documents", binary=True) as cursor:
        cursor.itersize = 5000
        cursor.execute(
            "SELECT doc_id, content_sha256, text_sha256, uri, source_state, chunker FROM kb.documents WHERE "
            "tenant_id = %s",
            (tenant_id,),
        )
        chunkers: dict[str, str] = {}
        return {
            doc_id: Indexed(sha, text_sha, state_key(uri, state), chunkers.setdefault(chunker, chunker))
            for doc_id, sha, text_sha, uri, state, chunker in cursor
        }


def count_documents(conn: Connection[TupleRow], tenant_id: str) -> int:
    """How many documents are indexed."""
    row = conn.execute("SELECT count(*) FROM kb.documents WHERE tenant_id = %s", (tenant_id,)).fetchone()
    return row[0] if row else 0


def with_other_metadata(
    conn: Connection[TupleRow], tenant_id: str, documents: Sequence[tuple[str, str, str]]
) -> set[str]:
    """Ids of those (doc_id, uri, metadata as JSON) whose row has another address or other metadata."""
    rows = conn.execute(
        "SELECT u.d FROM unnest(%s::text[], %s::text[], %s::text[]) AS u (d, uri, m) "
        "JOIN kb.documents s ON s.tenant_id = %s AND s.doc_id = u.d WHERE s.uri <> u.uri OR s.metadata <> u.m::jsonb",
        (*(list(values) for values in zip(*documents, strict=True)), tenant_id),
    )
    return {row[0] for row in rows}


def standing_equally(conn: Connection[TupleRow], tenant_id: str, documents: Sequence[DocumentRow]) -> set[str]:
    """Ids of those whose row is there with the same bytes, chunker, metadata and address: applied before."""
    rows = conn.execute(
        "SELECT u.d FROM unnest(%s::text[], %s::bytea[], %s::text[], %s::text[], %s::text[]) AS u (d, sha, "
        "chunker, m, uri) "
        "JOIN kb.documents s ON s.tenant_id = %s AND s.doc_id = u.d "
        "WHERE s.content_sha256 = u.sha AND s.chunker = u.chunker AND s.metadata = u.m::jsonb AND s.uri = u.uri",
        (
            [document.doc_id for document in documents],
            [document.content_sha256 for document in documents],
            [document.chunker for document in documents],
            [document.metadata for document in documents],
            [document.uri for document in documents],
            tenant_id,
        ),
    )
    return {row[0] for row in rows}


def places_of(conn: Connection[TupleRow], tenant_id: str, doc_ids: Sequence[str]) -> dict[str, list[bytes]]:
    """Fingerprints of the documents' present chunks, in source order."""
    found: dict[str, list[bytes]] = {}
    rows = conn.execute(
        "SELECT doc_id, fingerprint FROM kb.chunks WHERE tenant_id = %s AND doc_id = ANY(%s) ORDER BY doc_id, ordinal",
        (tenant_id, list(doc_ids)),
        binary=True,
    )
    for doc_id, fingerprint in rows:
        found.setdefault(doc_id, []).append(fingerprint)
    return found


def count_places(conn: Connection[TupleRow], tenant_id: str, fingerprints: Sequence[bytes]) -> dict[bytes, int]:
    """How many chunks refer to each of the contents; one without any is left out."""
    rows: list[Any] = conn.execute(
        "SELECT fingerprint, count(*) FROM kb.chunks WHERE tenant_id = %s AND fingerprint = ANY(%b) GROUP BY "
        "fingerprint",
        (tenant_id, list(fingerprints)),
        binary=True,
    ).fetchall()
    return dict(rows)


def apply_documents(
    conn: Connection[TupleRow],
    tenant_id: str,
    documents: Sequence[DocumentRow],
    chunks: ChunkRows,
    deleted: Sequence[str] = (),
) -> Applied:
    """Replace or add these documents and delete those, in one transaction, with orphans and counters.

    The contents of the chunks must be there. A reader sees a document's old chunks until the new ones are complete.
    """
    with conn.transaction():
        _upsert(conn, tenant_id, documents)
        replaced = [document.doc_id for document in documents]
        before = _delete_chunks(conn, tenant_id, [*replaced, *deleted])
        after = set(chunks.fingerprints)
        # The documents' own old chunks are out of the table here, so what was theirs was referred to before.
        came = _unreferred(conn, tenant_id, after - before)
        _insert_chunks(conn, tenant_id, chunks)
        removed = _delete_documents(conn, tenant_id, deleted)
        gone = _unreferred(conn, tenant_id, before - after)
        _orphan(conn, tenant_id, gone)
        _adopt(conn, tenant_id, came)
        count_contents(conn, tenant_id, came=len(came), gone=len(gone))
        drop_dead_letters(conn, tenant_id, replaced)
        drop_dead_letters(conn, tenant_id, deleted, indexed_texts=True)
    return Applied(len(replaced), removed, len(came), len(gone))


def _upsert(conn: Connection[TupleRow], tenant_id: str, documents: Sequence[DocumentRow]) -> None:
    if not documents:
        return
    conn.execute(
        "INSERT INTO kb.documents (tenant_id, doc_id, uri, content_sha256, text_sha256, source_state, metadata, "
        "format, chunker, characters) "
        "SELECT %s, u.d, u.uri, u.sha, u.text_sha, u.state::jsonb, u.metadata::jsonb, u.format, u.chunker, u.n "
        "FROM unnest(%s::text[], %s::text[], %s::bytea[], %s::bytea[], %s::text[], %s::text[], %s::text[], %s::text[], "
        "%s::bigint[]) AS u (d, uri, sha, text_sha, state, metadata, format, chunker, n) "
        "ON CONFLICT (tenant_id, doc_id) DO UPDATE SET uri = excluded.uri, content_sha256 = excluded.content_sha256, "
        "text_sha256 = excluded.text_sha256, source_state = excluded.source_state, metadata = excluded.metadata, "
        "format = excluded.format, chunker = excluded.chunker, characters = excluded.characters, updated_at = now()",
        (
            tenant_id,
            [document.doc_id for document in documents],
            [document.uri for document in documents],
            [document.content_sha256 for document in documents],
            [document.text_sha256 for document in documents],
            [document.state for document in documents],
            [document.metadata for document in documents],
            [document.format for document in documents],
            [document.chunker for document in documents],
            [document.characters for document in documents],
        ),
    )


def _delete_chunks(conn: Connection[TupleRow], tenant_id: str, doc_ids: Sequence[str]) -> set[bytes]:
    if not doc_ids:
        return set()
    rows = conn.execute(
        "DELETE FROM kb.chunks WHERE tenant_id = %s AND doc_id = ANY(%s) RETURNING fingerprint",
        (tenant_id, list(doc_ids)),
        binary=True,
    )
    return {row[0] for row in rows}


def _insert_chunks(conn: Connection[TupleRow], tenant_id: str, chunks: ChunkRows) -> None:
    if not chunks.doc_ids:
        return
    conn.execute(
        "INSERT INTO kb.chunks (tenant_id, doc_id, ordinal, fingerprint, start_offset, end_offset, heading_path, kind) "
        "SELECT %s, u.d, u.o, u.f, u.s, u.e, string_to_array(u.h, E'\\x1f'), u.k "
        "FROM unnest(%b::text[], %b::integer[], %b::bytea[], %b::bigint[], %b::bigint[], %b::text[], %b::text[]) "
        "AS u (d, o, f, s, e, h, k)",
        (
            tenant_id,
            chunks.doc_ids,
            chunks.ordinals,
            chunks.fingerprints,
            chunks.starts,
            chunks.ends,
            chunks.heading_paths,
            chunks.kinds,
        ),
    )


def _delete_documents(conn: Connection[TupleRow], tenant_id: str, doc_ids: Sequence[str]) -> int:
    if not doc_ids:
        return 0
    return conn.execute(
        "DELETE FROM kb.documents WHERE tenant_id = %s AND doc_id = ANY(%s)", (tenant_id, list(doc_ids))
    ).rowcount


def _unreferred(conn: Connection[TupleRow], tenant_id: str, fingerprints: set[bytes]) -> list[bytes]:
    """Those that no chunk refers to, in order, so that concurrent transactions lock rows in one order."""
    if not fingerprints:
        return []
    rows = conn.execute(
        "SELECT u.f FROM unnest(%b::bytea[]) AS u (f) WHERE NOT EXISTS "
        "(SELECT FROM kb.chunks p WHERE p.tenant_id = %s AND p.fingerprint = u.f)",
        (sorted(fingerprints), tenant_id),
        binary=True,
    )
    return sorted(row[0] for row in rows)


def _orphan(conn: Connection[TupleRow], tenant_id: str, fingerprints: Sequence[bytes]) -> None:
    if fingerprints:
        conn.execute(
            "UPDATE kb.contents SET orphaned_at = now() WHERE tenant_id = %s AND fingerprint = ANY(%b) AND "
            "orphaned_at IS NULL",
            (tenant_id, list(fingerprints)),
        )


def _adopt(conn: Connection[TupleRow], tenant_id: str, fingerprints: Sequence[bytes]) -> None:
    if fingerprints:
        conn.execute(
            "UPDATE kb.contents SET orphaned_at = NULL WHERE tenant_id = %s AND fingerprint = ANY(%b) "
            "AND orphaned_at IS NOT NULL",
            (tenant_id, list(fingerprints)),
        )
