"""Vectors of the questions that eval runs asked, by text: what repeats a run when an embedder answers otherwise."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
from psycopg import Connection
from psycopg.rows import TupleRow

from kb_pipeline.embed.protocol import Vectors

KEPT_DAYS = 400
"""Days that a question is kept after the last eval run that asked it."""
_STORED = np.dtype("<f4")


def stored_questions(
    conn: Connection[TupleRow], tenant_id: str, version: int, texts: Sequence[str]
) -> dict[str, Vectors]:
    """Text -> `(dims,) float32` of those that were asked before."""
    keys = {_key(text): text for text in texts}
    rows = conn.execute(
        "SELECT question, vector FROM kb.question_vectors WHERE tenant_id = %s AND version = %s AND question = ANY(%b)",
        (tenant_id, version, list(keys)),
        binary=True,
    ).fetchall()
    return {
        keys[bytes(question)]: np.frombuffer(bytes(vector), dtype=_STORED).astype(np.float32)
        for question, vector in rows
    }


def put_questions(
    conn: Connection[TupleRow], tenant_id: str, version: int, vectors: Mapping[str, Vectors], asked: Sequence[str]
) -> None:
    """Keeps new vectors (in place of older ones of the same texts), notes that `asked` were asked today, and forgets
    what was not asked for long, or of a version that no build of the tenant has any more."""
    with conn.transaction():
        conn.execute(
            "INSERT INTO kb.question_vectors (tenant_id, version, question, vector) "
            "SELECT %s, %s, u.q, u.v FROM unnest(%b::bytea[], %b::bytea[]) AS u (q, v) ORDER BY u.q "
            "ON CONFLICT (tenant_id, version, question) DO UPDATE SET vector = excluded.vector, used_at = current_date",
            (
                tenant_id,
                version,
                [_key(text) for text in vectors],
                [np.asarray(vector, dtype=_STORED).tobytes() for vector in vectors.values()],
            ),
        )
        conn.execute(
            "UPDATE kb.question_vectors SET used_at = current_date WHERE tenant_id = %s AND version = %s "
            "AND question = ANY(%b) AND used_at < current_date",
            (tenant_id, version, [_key(text) for text in asked]),
        )
        conn.execute(
            "DELETE FROM kb.question_vectors q WHERE tenant_id = %s AND (used_at < current_date - %s::int "
            "OR NOT EXISTS (SELECT FROM kb.builds b WHERE b.tenant_id = q.tenant_id AND b.version = q.version "
            "AND b.state IN ('building', 'candidate', 'live', 'previous')))",
            (tenant_id, KEPT_DAYS),
        )


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
