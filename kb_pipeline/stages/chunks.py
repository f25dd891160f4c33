"""The second stage: changed documents in pieces."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from kb_pipeline.chunking.model import Chunk
from kb_pipeline.sources.model import SourceItem
from kb_pipeline.stages.chunk_units import SAMPLES, SIZE_STEP, Changed, Tally, chunk_units
from kb_pipeline.stages.context import StageContext
from kb_pipeline.stages.staged import GONE, chunks_schema, with_gone
from kb_pipeline.staging import OutputWriter, Staging
from kb_pipeline.store.dead_letters import DeadLetter, put_dead_letters
from kb_pipeline.store.stage_outputs import register, usable

if TYPE_CHECKING:
    import pyarrow as pa

ASSET = "chunks"


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
    task = ctx.progress.task("chunks", None, "documents")
    last: pa.RecordBatch | None = None
    try:
        for done in chunk_units(ctx.tenant, _to_chunk(ctx.staging, manifest_url), processes=ctx.processes):
            tally.add(done.tally)
            task.advance(done.tally.documents, chunks=tally.chunks)
            for batch in done.batches:
                if last is not None:
                    writer.write(last)
                last = batch
        for gone in _gone(ctx.staging, manifest_url):
            # Beside the last documents, so that a small change set (a rename, say) is one transaction.
            writer.write(with_gone(last, gone))
            last = None
        if last is not None:
            writer.write(last)
    finally:
        task.done()
    return _summary(tally, time.perf_counter() - started), tally.letters


def _summary(tally: Tally, seconds: float) -> ChunksSummary:
    """The figures, for a person."""
    shown = [*tally.samples.items()]
    picked = shown[:1] + shown[1:][-(SAMPLES - 1) :]
    return ChunksSummary(
        documents=tally.documents,
        chunks=tally.chunks,
        tokens=tally.tokens,
        characters=tally.characters,
        refused=len(tally.letters),
        refused_reasons=dict(Counter(letter.reason for letter in tally.letters)),
        changed_meanwhile=tally.meanwhile,
        kinds=dict(tally.kinds.most_common()),
        sizes={f"{at * SIZE_STEP}-{at * SIZE_STEP + SIZE_STEP - 1}": tally.sizes[at] for at in sorted(tally.sizes)},
        samples=[_sample(doc_id, chunk) for doc_id, chunk in picked],
        seconds=seconds,
    )


def _to_chunk(staging: Staging, manifest_url: str) -> Iterator[Changed]:
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


def _sample(doc_id: str, chunk: Chunk) -> dict[str, Any]:
    return {
        "doc_id": doc_id,
        "ordinal": chunk.ordinal,
        "kind": chunk.kind,
        "heading_path": list(chunk.heading_path),
        "tokens": chunk.tokens,
        "text": chunk.text,
    }
