"""Erasing for good: one document's texts, or everything of a tenant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import Connection
from psycopg.rows import TupleRow

from kb_pipeline.staging import Staging
from kb_pipeline.store.tenants import count_contents


@dataclass(frozen=True, slots=True)
class Erased:
    """What was erased."""

    documents: int
    chunks: int
    contents: int
    waiting: int = 0
    """Texts of a form that was not in the tables yet."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """Staged texts that may have vectors before they have contents."""

    texts: int = 0
    """Of the document."""
    keys: Sequence[bytes] = ()
    """What the bank may hold of the texts that only this document has: fingerprints, and keys by text."""
    others: Sequence[bytes] = ()
    """Fingerprints that other staged documents need."""


def purge_document(
    conn: Connection[TupleRow], tenant_id: str, doc_id: str, staging: Staging, *, waiting: Waiting | None = None
) -> Erased:
    """Erase a document at once: its rows, dead letters, contents no other document refers to (orphans of its earlier
    forms too), and everything staged.

    Hold the tenant's lock. Staged outputs go first, as a whole: they are made anew by the next run, and none of them
    may bring the document back. While it is in the source, the next run indexes it again.

    Vectors of batch jobs that nobody is known to need go too, and what an open job still brings for them is not kept.
    """
    waiting = waiting or Waiting()
    with conn.transaction():
        conn.execute("DELETE FROM kb.stage_outputs WHERE tenant_id = %s", (tenant_id,))
    staging.delete_tenant(tenant_id)
    with conn.transaction():
        rows = conn.execute(
            "DELETE FROM kb.chunks WHERE tenant_id = %s AND doc_id = %s RETURNING fingerprint", (tenant_id, doc_id)
        ).fetchall()
        documents = conn.execute(
            "DELETE FROM kb.documents WHERE tenant_id = %s AND doc_id = %s", (tenant_id, doc_id)
        ).rowcount
        conn.execute("DELETE FROM kb.dead_letters WHERE tenant_id = %s AND doc_id = %s", (tenant_id, doc_id))
        gone = conn.execute(
            "SELECT count(*) FROM unnest(%b::bytea[]) AS u (f) WHERE NOT EXISTS "
            "(SELECT FROM kb.chunks p WHERE p.tenant_id = %s AND p.fingerprint = u.f)",
            (list({row[0] for row in rows}), tenant_id),
        ).fetchone()
        # Vectors that wait for these texts in the bank: an embedding tells much of its text.
        conn.execute(
            "DELETE FROM kb.vector_bank b USING kb.contents c WHERE b.tenant_id = %s AND c.tenant_id = b.tenant_id "
            "AND NOT EXISTS (SELECT FROM kb.chunks p WHERE p.tenant_id = c.tenant_id "
            "AND p.fingerprint = c.fingerprint) AND b.key IN (c.fingerprint, "
            "sha256(convert_to(CASE WHEN c.context = '' THEN c.body "
            "ELSE c.context || E'\\n\\n' || c.body END, 'UTF8')))",
            (tenant_id,),
        )
        # Eval runs ask sentences of the documents: those of this one cannot be told from the others.
        conn.execute(
            "UPDATE kb.eval_runs SET measurements = measurements - 'asked' WHERE tenant_id = %s "
            "AND measurements ? 'asked'",
            (tenant_id,),
        )
        conn.execute("DELETE FROM kb.question_vectors WHERE tenant_id = %s", (tenant_id,))
        conn.execute(
            "DELETE FROM kb.vector_bank b WHERE b.tenant_id = %s AND (b.key = ANY(%b) OR b.origin = 'batch' "
            "AND b.key <> ALL(%b) AND NOT EXISTS (SELECT FROM kb.chunks p WHERE p.tenant_id = b.tenant_id "
            "AND p.fingerprint = b.key))",
            (tenant_id, list(waiting.keys), list(waiting.others)),
        )
        conn.execute(
            "UPDATE kb.batch_items b SET forgotten = true WHERE b.tenant_id = %s AND b.fingerprint <> ALL(%b) "
            "AND NOT EXISTS (SELECT FROM kb.chunks p WHERE p.tenant_id = b.tenant_id "
            "AND p.fingerprint = b.fingerprint)",
            (tenant_id, list(waiting.others)),
        )
        # All that no chunk refers to: which of the orphans stood in earlier forms of this document is not known.
        contents = conn.execute(
            "DELETE FROM kb.contents c WHERE tenant_id = %s AND NOT EXISTS "
            "(SELECT FROM kb.chunks p WHERE p.tenant_id = c.tenant_id AND p.fingerprint = c.fingerprint)",
            (tenant_id,),
        ).rowcount
        count_contents(conn, tenant_id, came=0, gone=gone[0] if gone else 0)
    return Erased(documents, len(rows), contents, waiting.texts)


def drop_tenant(conn: Connection[TupleRow], tenant_id: str, staging: Staging) -> Erased:
    """Erase a tenant: rows of every table, dead letters, figures and staged files. `conn` is the owner's.

    Hold the tenant's lock, and drop its indexes before: what they index goes here.
    """
    with conn.transaction():
        deleted = {
            table: conn.execute(f"DELETE FROM kb.{table} WHERE tenant_id = %s".encode(), (tenant_id,)).rowcount
            for table in _TABLES
        }
    staging.delete_tenant(tenant_id)
    return Erased(deleted["documents"], deleted["chunks"], deleted["contents"])


_TABLES = (
    "stage_outputs",
    "trigger_attempts",
    "dead_letters",
    "breakers",
    "endpoint_limits",
    "in_flight",
    "vector_bank",
    "batch_items",
    "batch_jobs",
    "spend",
    "live",
    "migrations",
    "bridges",
    "repack_changes",
    "reviews",
    "golden_sets",
    "question_vectors",
    "eval_runs",
    "builds",
    "tenant_versions",
    "chunks",
    "documents",
    "contents",
    "tenants",
)
"""In the order of their references. A migration that adds a table of a tenant's rows adds it here (a test compares)."""
