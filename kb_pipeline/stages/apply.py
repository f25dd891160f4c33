"""Putting a change set into the tables, document by document whole, once its texts have their vectors."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kb_pipeline.errors import MissingChunks
from kb_pipeline.stages.context import StageContext
from kb_pipeline.stages.quarantine import tried_with
from kb_pipeline.stages.staged import StagedBatch, from_arrow
from kb_pipeline.store.contents import lacking
from kb_pipeline.store.dead_letters import DeadLetter, put_dead_letters
from kb_pipeline.store.documents import ChunkRows, DocumentRow, apply_documents, standing_equally
from kb_pipeline.store.stage_outputs import StageOutput

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.rows import TupleRow

log = logging.getLogger(__name__)

Refusals = Mapping[bytes, tuple[str, str]]
"""Fingerprint -> reason and detail of a text the provider refused."""


@dataclass(slots=True)
class ApplyReport:
    """What came of a change set."""

    written: int = 0
    deleted: int = 0
    waiting: int = 0
    """Documents that keep their old form."""
    came: int = 0
    gone: int = 0


def apply_change_set(
    ctx: StageContext,
    conn: Connection[TupleRow],
    change_set: StageOutput,
    required: Sequence[int],
    refused: Refusals,
    *,
    whole: bool,
) -> ApplyReport:
    """Replace every document whose contents have all `required` vectors, a transaction for some hundreds; then delete.

    A document with a refused text keeps its old form and goes into quarantine. Repeatable: what stands there equally
    is not written. `whole=False` (embedding was stopped) deletes nothing, because what replaces it may still be
    waiting. Raises `MissingChunks` when a text lacks a vector and nobody refused it, after everything else was applied.
    """
    report = ApplyReport()
    unexplained: list[str] = []
    task = ctx.progress.task("documents to the index", change_set.rows, "documents")
    try:
        for arrow in ctx.staging.read(change_set.url):
            batch = from_arrow(arrow)
            unexplained += _apply(ctx, conn, batch, required, refused, report, whole=whole)
            task.advance(len(batch.documents) + len(batch.gone))
    finally:
        task.done()
    if whole and unexplained:
        raise MissingChunks(
            f"{len(unexplained)} documents have texts without a vector although embedding ended well, among them "
            f"{', '.join(unexplained[:5])}: run again"
        )
    return report


def _apply(
    ctx: StageContext,
    conn: Connection[TupleRow],
    batch: StagedBatch,
    required: Sequence[int],
    refused: Refusals,
    report: ApplyReport,
    *,
    whole: bool,
) -> list[str]:
    """Apply one batch; documents that wait though nothing of theirs was refused."""
    lacks = lacking(conn, ctx.tenant_id, list(set(batch.chunks.fingerprint)), required)
    standing = standing_equally(conn, ctx.tenant_id, batch.documents)
    ready: list[tuple[DocumentRow, int, int]] = []
    letters: list[DeadLetter] = []
    unexplained: list[str] = []
    for document, _, first, last in batch.spans():
        bad = [at for at in range(first, last) if batch.chunks.fingerprint[at] in lacks]
        if not bad:
            if document.doc_id not in standing:
                ready.append((document, first, last))
            continue
        report.waiting += 1
        of_document = [
            _letter(ctx, document, batch, at, refused) for at in bad if batch.chunks.fingerprint[at] in refused
        ]
        letters += of_document
        if not of_document:
            unexplained.append(document.doc_id)
    deleted = batch.gone if whole else []
    if ready or deleted:
        done = apply_documents(
            conn, ctx.tenant_id, [document for document, _, _ in ready], chunk_rows(batch, ready), deleted
        )
        report.written += done.written
        report.deleted += done.deleted
        report.came += done.came
        report.gone += done.gone
    put_dead_letters(conn, ctx.tenant_id, ctx.run_id, letters)
    return unexplained


def chunk_rows(batch: StagedBatch, documents: Sequence[tuple[DocumentRow, int, int]]) -> ChunkRows:
    """The chunks of some documents of a batch."""
    doc_ids: list[str] = []
    places: list[int] = []
    for document, first, last in documents:
        doc_ids += [document.doc_id] * (last - first)
        places += range(first, last)
    chunks = batch.chunks
    return ChunkRows(
        doc_ids=doc_ids,
        ordinals=[chunks.ordinal[at] for at in places],
        fingerprints=[chunks.fingerprint[at] for at in places],
        starts=[chunks.start[at] for at in places],
        ends=[chunks.end[at] for at in places],
        heading_paths=[chunks.heading_path[at] for at in places],
        kinds=[chunks.kind[at] for at in places],
    )


def _letter(ctx: StageContext, document: DocumentRow, batch: StagedBatch, at: int, refused: Refusals) -> DeadLetter:
    fingerprint = batch.chunks.fingerprint[at]
    reason, detail = refused[fingerprint]
    return DeadLetter(
        "embeddings",
        document.doc_id,
        reason,
        detail,
        uri=document.uri,
        ordinal=batch.chunks.ordinal[at],
        fingerprint=fingerprint,
        content_sha256=document.content_sha256,
        tried_with=tried_with(ctx),
    )
