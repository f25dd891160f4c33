"""Erasing a document that may not have come to the tables yet: its texts may be staged, or with a batch job."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kb_pipeline.fingerprint import embedded_text
from kb_pipeline.stages.staged import from_arrow
from kb_pipeline.staging import Staging
from kb_pipeline.store.bank import text_key
from kb_pipeline.store.erase import Erased, Waiting, purge_document
from kb_pipeline.store.stage_outputs import newest

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.rows import TupleRow


def purge(conn: Connection[TupleRow], tenant_id: str, doc_id: str, staging: Staging) -> Erased:
    """Erase a document at once, also where its new form waits for vectors. Hold the tenant's lock; see
    `purge_document`.
    """
    return purge_document(conn, tenant_id, doc_id, staging, waiting=_waiting(conn, tenant_id, doc_id, staging))


def _waiting(conn: Connection[TupleRow], tenant_id: str, doc_id: str, staging: Staging) -> Waiting:
    """Texts of the newest change set: those of the document, and those of all others."""
    own: dict[bytes, bytes] = {}
    others: set[bytes] = set()
    change_set = newest(conn, tenant_id, "fingerprints")
    if change_set is None:
        return Waiting()
    try:
        for arrow in staging.read(change_set.url):
            batch = from_arrow(arrow)
            for document, _, first, last in batch.spans():
                chunks = batch.chunks
                if document.doc_id == doc_id:
                    for at in range(first, last):
                        own[chunks.fingerprint[at]] = text_key(embedded_text(chunks.context[at], chunks.body[at]))
                else:
                    others.update(chunks.fingerprint[first:last])
    except OSError:  # its files are gone: what nobody is known to need is erased
        return Waiting()
    alone = {fingerprint: key for fingerprint, key in own.items() if fingerprint not in others}
    return Waiting(texts=len(own), keys=[*alone, *alone.values()], others=list(others))
