"""The second stage: changed documents in pieces."""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from typing import Any

from kb_pipeline.chunking.model import Chunk
from kb_pipeline.errors import DocumentRefused
from kb_pipeline.sources.model import SourceDocument, SourceItem
from kb_pipeline.stages.context import StageContext
from kb_pipeline.stages.documents import text_sha256
from kb_pipeline.stages.staged import GONE, StagedBatch, chunks_schema, to_arrow
from kb_pipeline.staging import OutputWriter, Staging
from kb_pipeline.store.dead_letters import DeadLetter, put_dead_letters
from kb_pipeline.store.documents import DocumentRow
from kb_pipeline.store.stage_outputs import register, usable

log = logging.getLogger(__name__)

ASSET = "chunks"
SAMPLES = 3
SIZE_STEP = 64
"""Tokens a bar of the size histogram covers."""


@dataclass(frozen=True, slots=True)
class ChunksSummary:
    """What the chunks stage made."""

    documents: int = 0
    chunks: int = 0
    tokens: int = 0
    characters: int = 0
    refused: int = 0
    """Documents that could not be parsed, or not be read any more; their old form stays indexed."""
    refused_reasons: dict[str, int] = field(default_factory=dict[str, int])
    changed_meanwhile: int = 0
    """Documents that changed after `documents` looked: the newer text was taken."""
    kinds: dict[str, int] = field(default_factory=dict[str, int])
    sizes: dict[str, int] = field(default_factory=dict[str, int])
    """Chunks by tokens: `0-63`, `64-127`, ..."""
    samples: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """Three chunks from the beginning, the middle and the end, as a person reads them."""
    seconds: float = 0.0
    output_id: int | None = None


@dataclass(slots=True)
class Tally:
    """What gathers while documents are chunked."""

    documents: int = 0
    chunks: int = 0
    tokens: int = 0
    characters: int = 0
    meanwhile: int = 0
    letters: list[DeadLetter] = field(default_factory=list[DeadLetter])
    kinds: Counter[str] = field(default_factory=Counter[str])
    sizes: Counter[int] = field(default_factory=Counter[int])
    samples: dict[str, Chunk] = field(default_factory=dict[str, Chunk])

    def count(self, document: SourceDocument, chunks: list[Chunk]) -> None:
        """One more document."""
        self.documents += 1
        self.chunks += len(chunks)
        for chunk in chunks:
            self.tokens += chunk.tokens
            self.characters += len(chunk.text)
            self.kinds[chunk.kind] += 1
            self.sizes[chunk.tokens // SIZE_STEP] += 1
        # The first document's, then those of every document whose number is a power of two: the beginning, the middle,
        # the end.
        if chunks and (len(self.samples) < SAMPLES or self.documents.bit_count() == 1):
            self.samples[document.doc_id] = chunks[len(chunks) // 2]

    def refuse(self, item: SourceItem, refused: DocumentRefused, content_sha256: bytes | None) -> None:
        """One more document that cannot be chunked."""
        self.letters.append(
            DeadLetter(ASSET, item.doc_id, refused.reason, refused.detail, uri=item.uri, content_sha256=content_sha256)
        )
        log.warning("%s refused: %s", item.doc_id, refused)

    def summary(self, seconds: float) -> ChunksSummary:
        """The figures, for a person."""
        shown = [*self.samples.items()]
        picked = shown[:1] + shown[1:][-(SAMPLES - 1) :]
        return ChunksSummary(
            documents=self.documents,
            chunks=self.chunks,
            tokens=self.tokens,
            characters=self.characters,
            refused=len(self.letters),
            refused_reasons=dict(Counter(letter.reason for letter in self.letters)),
            changed_meanwhile=self.meanwhile,
            kinds=dict(self.kinds.most_common()),
            sizes={f"{at * SIZE_STEP}-{at * SIZE_STEP + SIZE_STEP - 1}": self.sizes[at] for at in sorted(self.sizes)},
            samples=[_sample(doc_id, chunk) for doc_id, chunk in picked],
            seconds=seconds,
        )


def run(ctx: StageContext) -> ChunksSummary:
    """Read and chunk what the newest manifest names. Raises `StaleStage` when it does not follow from the present
    state.
    """
    with ctx.db.connect("writer", ctx.tenant_id, autocommit=True) as conn:
        manifest = usable(conn, ctx.tenant_id, "documents")
        url = ctx.staging.output_url(ctx.tenant_id, ASSET, ctx.run_id)
        with ctx.staging.writer(url, chunks_schema(with_status=False)) as writer:
            summary, letters = chunk_manifest(ctx, manifest.url, writer)
        with conn.transaction():
            output = register(
                conn,
                ctx.tenant_id,
                asset=ASSET,
                run_id=ctx.run_id,
                url=url,
                rows=writer.rows,
                summary=asdict(summary),
                parent=manifest,
            )
            put_dead_letters(conn, ctx.tenant_id, ctx.run_id, letters)
    return replace(summary, output_id=output.output_id)


def chunk_manifest(
    ctx: StageContext, manifest_url: str, writer: OutputWriter
) -> tuple[ChunksSummary, list[DeadLetter]]:
    """Write a row for each changed document, and one for each that leaves. Changes nothing in Postgres."""
    started = time.perf_counter()
    tally = Tally()
    batch = StagedBatch()
    task = ctx.progress.task("chunks", None, "documents")
    try:
        for document, kind, state, chunker, chunks in _chunked(ctx, manifest_url, tally):
            batch.add(_document_row(document, state, chunker), kind, chunks)
            tally.count(document, chunks)
            task.advance(1, chunks=tally.chunks)
            if batch.full:
                writer.write(to_arrow(batch, with_status=False))
                batch = StagedBatch()
        for gone in _gone(ctx.staging, manifest_url):
            # Beside the last documents, so that a small change set (a rename, say) is one transaction.
            batch.gone = gone
            writer.write(to_arrow(batch, with_status=False))
            batch = StagedBatch()
        if batch.documents:
            writer.write(to_arrow(batch, with_status=False))
    finally:
        task.done()
    return tally.summary(time.perf_counter() - started), tally.letters


def _chunked(
    ctx: StageContext, manifest_url: str, tally: Tally
) -> Iterator[tuple[SourceDocument, str, Mapping[str, Any], str, list[Chunk]]]:
    """Each changed document, why it is chunked, the state it was read in, the chunker's id and its chunks."""
    waiting: dict[str, tuple[SourceItem, str]] = {}

    def documents() -> Iterator[SourceDocument]:
        from kb_pipeline.sources.open import open_source

        source = open_source(ctx.tenant)
        for item, kind, content_sha256 in _to_chunk(ctx.staging, manifest_url):
            try:
                document = source.read(item)
            except DocumentRefused as refused:
                tally.refuse(item, refused, content_sha256)
                continue
            if document.content_sha256 != content_sha256:
                tally.meanwhile += 1
                log.info("%s changed after the source was listed: its newer text is taken", item.doc_id)
            waiting[item.doc_id] = (item, kind)
            yield document

    first = next(reading := documents(), None)
    if first is None:
        return
    from kb_pipeline.chunking.chunker import chunk_documents, chunker_id
    from kb_pipeline.chunking.tokens import make_counter

    counter = make_counter(ctx.tenant.embedder)
    chunker = chunker_id(counter, ctx.tenant.chunking)
    for document, chunks in chunk_documents(chain([first], reading), counter=counter, config=ctx.tenant.chunking):
        item, kind = waiting.pop(document.doc_id)
        if isinstance(chunks, DocumentRefused):
            tally.refuse(item, chunks, document.content_sha256)
        else:
            yield document, kind, document.state or item.state, chunker, chunks


def _to_chunk(staging: Staging, manifest_url: str) -> Iterator[tuple[SourceItem, str, bytes]]:
    for batch in staging.read(manifest_url):
        for row in batch.to_pylist():
            if row["kind"] not in GONE:
                item = SourceItem(row["doc_id"], row["uri"], json.loads(row["state"]))
                yield item, row["kind"], row["content_sha256"]


def _gone(staging: Staging, manifest_url: str) -> Iterator[list[str]]:
    for batch in staging.read(manifest_url):
        gone = [row["doc_id"] for row in batch.to_pylist() if row["kind"] in GONE]
        if gone:
            yield gone


def _document_row(document: SourceDocument, state: Mapping[str, Any], chunker: str) -> DocumentRow:
    return DocumentRow(
        doc_id=document.doc_id,
        uri=document.uri,
        content_sha256=document.content_sha256,
        text_sha256=text_sha256(document),
        state=json.dumps(dict(state)),
        metadata=json.dumps(dict(document.metadata)),
        format=document.format,
        chunker=chunker,
        characters=len(document.text),
    )


def _sample(doc_id: str, chunk: Chunk) -> dict[str, Any]:
    return {
        "doc_id": doc_id,
        "ordinal": chunk.ordinal,
        "kind": chunk.kind,
        "heading_path": list(chunk.heading_path),
        "tokens": chunk.tokens,
        "text": chunk.text,
    }
