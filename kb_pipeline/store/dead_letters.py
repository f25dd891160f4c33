"""Quarantine: documents and texts that could not be indexed, with the reason, until they change or a retry is asked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from psycopg import Connection
from psycopg.rows import TupleRow


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One refused document, or one refused chunk of a document."""

    stage: str
    """`documents`, `chunks` or `embeddings`."""
    doc_id: str
    reason: str
    detail: str
    uri: str = ""
    ordinal: int | None = None
    fingerprint: bytes | None = None
    content_sha256: bytes | None = None
    """Of the refused source; None where the document's text was indexed and a further version refused it."""
    tried_with: str = ""
    """Chunker and embedder that refused; other ones try again."""
    dead_letter_id: int = 0
    """Given by Postgres."""
    run_id: str | None = None
    created_at: datetime | None = None
    retry_asked_at: datetime | None = None


_READ = (
    "SELECT stage, doc_id, reason, detail, uri, ordinal, fingerprint, content_sha256, tried_with, "
    "dead_letter_id, run_id, "
    "created_at, retry_asked_at FROM kb.dead_letters WHERE tenant_id = %s"
)


def list_dead_letters(conn: Connection[TupleRow], tenant_id: str, *, doc_id: str | None = None) -> list[DeadLetter]:
    """The tenant's quarantine, oldest first; of one document where asked."""
    where = "" if doc_id is None else " AND doc_id = %s"
    values = (tenant_id,) if doc_id is None else (tenant_id, doc_id)
    return [DeadLetter(*row) for row in conn.execute(f"{_READ}{where} ORDER BY dead_letter_id".encode(), values)]


def count_dead_letters(conn: Connection[TupleRow], tenant_id: str) -> int:
    """How many documents and texts are in quarantine."""
    row = conn.execute("SELECT count(*) FROM kb.dead_letters WHERE tenant_id = %s", (tenant_id,)).fetchone()
    return row[0] if row else 0


def put_dead_letters(conn: Connection[TupleRow], tenant_id: str, run_id: str, letters: Iterable[DeadLetter]) -> None:
    """Quarantine, or quarantine again: a place has one letter. Writes nothing for a letter that stands there
    equally.
    """
    by_place = {(letter.stage, letter.doc_id, letter.ordinal): letter for letter in letters}
    found = list(by_place.values())
    if not found:
        return
    conn.execute(
        "INSERT INTO kb.dead_letters AS d "
        "(tenant_id, run_id, stage, doc_id, uri, ordinal, fingerprint, reason, detail, content_sha256, tried_with) "
        "SELECT %s, %s, * FROM unnest(%s::text[], %s::text[], %s::text[], %s::integer[], %s::bytea[], "
        "%s::text[], %s::text[], "
        "%s::bytea[], %s::text[]) "
        "ON CONFLICT (tenant_id, stage, md5(doc_id), coalesce(ordinal, -1)) DO UPDATE SET "
        "run_id = excluded.run_id, uri = excluded.uri, fingerprint = excluded.fingerprint, reason = excluded.reason, "
        "detail = excluded.detail, content_sha256 = excluded.content_sha256, tried_with = excluded.tried_with, "
        "created_at = now(), retry_asked_at = NULL "
        "WHERE (d.fingerprint, d.reason, d.detail, d.content_sha256, d.tried_with, d.uri) IS DISTINCT FROM "
        "(excluded.fingerprint, excluded.reason, excluded.detail, excluded.content_sha256, excluded.tried_with, "
        "excluded.uri) "
        "OR d.retry_asked_at IS NOT NULL",
        (
            tenant_id,
            run_id,
            [letter.stage for letter in found],
            [_plain(letter.doc_id) for letter in found],
            [_plain(letter.uri) for letter in found],
            [letter.ordinal for letter in found],
            [letter.fingerprint for letter in found],
            [letter.reason for letter in found],
            [_plain(letter.detail) for letter in found],
            [letter.content_sha256 for letter in found],
            [letter.tried_with for letter in found],
        ),
    )


def drop_dead_letters(
    conn: Connection[TupleRow], tenant_id: str, doc_ids: Sequence[str], *, indexed_texts: bool = False
) -> None:
    """Remove what `chunks` and `embeddings` put down about documents that succeeded or are gone.

    Letters of indexed texts that lack the vector of a further version only stay, unless `indexed_texts` (the document
    is gone).
    """
    if doc_ids:
        conn.execute(
            "DELETE FROM kb.dead_letters WHERE tenant_id = %s AND doc_id = ANY(%s) AND stage <> 'documents' "
            "AND (%s OR stage <> 'embeddings' OR content_sha256 IS NOT NULL)",
            (tenant_id, [_plain(doc_id) for doc_id in doc_ids], indexed_texts),
        )


def drop_letters_but(conn: Connection[TupleRow], tenant_id: str, stage: str, doc_ids: Sequence[str]) -> None:
    """Remove the letters of a stage that has just looked at everything, but for these documents."""
    conn.execute(
        "DELETE FROM kb.dead_letters WHERE tenant_id = %s AND stage = %s AND doc_id <> ALL(%s)",
        (tenant_id, stage, [_plain(doc_id) for doc_id in doc_ids]),
    )


def drop_letters_of_embedded_texts(conn: Connection[TupleRow], tenant_id: str, fingerprints: Sequence[bytes]) -> None:
    """Remove the letters of indexed texts that have got the vector they lacked."""
    conn.execute(
        "DELETE FROM kb.dead_letters WHERE tenant_id = %s AND stage = 'embeddings' AND content_sha256 IS NULL "
        "AND fingerprint = ANY(%s)",
        (tenant_id, list(fingerprints)),
    )


def ask_retry(conn: Connection[TupleRow], tenant_id: str, *, doc_id: str | None = None) -> int:
    """Let the next run try again what is quarantined (of one document, or all); how many letters that is."""
    where = "" if doc_id is None else " AND doc_id = %s"
    values = (tenant_id,) if doc_id is None else (tenant_id, doc_id)
    return conn.execute(
        f"UPDATE kb.dead_letters SET retry_asked_at = now() WHERE tenant_id = %s{where}".encode(), values
    ).rowcount


def _plain(text: str) -> str:
    """Text that Postgres takes: file names and provider answers may hold NUL or bytes that are not UTF-8."""
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()
