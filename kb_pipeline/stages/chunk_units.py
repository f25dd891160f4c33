"""Reading and chunking of changed documents in units of half a megabyte, on as many processes as a stage may use."""

from __future__ import annotations

import json
import logging
import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

from kb_pipeline.chunking.model import Chunk, TokenCounter
from kb_pipeline.config.schema import TenantConfig
from kb_pipeline.errors import DocumentRefused
from kb_pipeline.sources.model import Source, SourceDocument, SourceItem
from kb_pipeline.stages.documents import text_sha256
from kb_pipeline.stages.staged import StagedBatch, to_arrow
from kb_pipeline.store.dead_letters import DeadLetter
from kb_pipeline.store.documents import DocumentRow

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger(__name__)

UNIT_BYTES = 500_000
"""Text of a unit, and what each process holds at a time: larger ones are no faster and take more memory."""
UNIT_DOCUMENTS = 500
SAMPLES = 3
SIZE_STEP = 64
"""Tokens a bar of the size histogram covers."""
MOST_PROCESSES = 4

Changed = tuple[SourceItem, str, bytes]
"""What has to be chunked, why (`new`, `changed`, ...), and the digest of its bytes when it was listed."""


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
    units: int = 0

    def count(self, document: SourceDocument, chunks: list[Chunk]) -> None:
        """One more document."""
        self.documents += 1
        self.chunks += len(chunks)
        for chunk in chunks:
            self.tokens += chunk.tokens
            self.characters += len(chunk.text)
            self.kinds[chunk.kind] += 1
            self.sizes[chunk.tokens // SIZE_STEP] += 1
        if chunks and len(self.samples) < SAMPLES:
            self.samples[document.doc_id] = chunks[len(chunks) // 2]

    def refuse(self, item: SourceItem, refused: DocumentRefused, content_sha256: bytes | None) -> None:
        """One more document that cannot be chunked."""
        self.letters.append(
            DeadLetter(
                "chunks", item.doc_id, refused.reason, refused.detail, uri=item.uri, content_sha256=content_sha256
            )
        )
        log.warning("%s refused: %s", item.doc_id, refused)

    def add(self, other: Tally) -> None:
        """What the next unit came to."""
        self.units += 1
        self.documents += other.documents
        self.chunks += other.chunks
        self.tokens += other.tokens
        self.characters += other.characters
        self.meanwhile += other.meanwhile
        self.letters += other.letters
        self.kinds += other.kinds
        self.sizes += other.sizes
        # Of the first unit, then of each whose number is a power of two: the beginning, the middle, the end.
        if len(self.samples) < SAMPLES or self.units.bit_count() == 1:
            self.samples |= other.samples


@dataclass(slots=True)
class Done:
    """A unit's chunks as they are staged, and its figures."""

    tally: Tally
    batches: list[pa.RecordBatch]


class UnitChunker:
    """Chunks units of one tenant; source and tokenizer are opened once."""

    def __init__(self, tenant: TenantConfig, counter: TokenCounter | None = None) -> None:
        self._tenant = tenant
        if counter is not None:
            self.counter = counter

    @cached_property
    def _source(self) -> Source:
        from kb_pipeline.sources.open import open_source

        return open_source(self._tenant)

    @cached_property
    def counter(self) -> TokenCounter:
        """The embedder's tokenizer."""
        from kb_pipeline.chunking.tokens import make_counter

        return make_counter(self._tenant.embedder)

    def loaded(self) -> TokenCounter:
        """The tokenizer, with parsers imported too: to be called before a fork, so that their memory is shared."""
        assert self._chunker
        return self.counter

    def chunked(self, unit: Sequence[Changed]) -> Done:
        """Read and chunk the documents, in order."""
        tally = Tally()
        batches: list[pa.RecordBatch] = []
        batch = StagedBatch()
        waiting: dict[str, tuple[SourceItem, str]] = {}
        for document, chunks in self._chunks(self._read(unit, tally, waiting)):
            item, kind = waiting.pop(document.doc_id)
            if isinstance(chunks, DocumentRefused):
                tally.refuse(item, chunks, document.content_sha256)
                continue
            batch.add(_document_row(document, document.state or item.state, self._chunker), kind, chunks)
            tally.count(document, chunks)
            if batch.full:
                batches.append(to_arrow(batch, with_status=False))
                batch = StagedBatch()
        if batch.documents:
            batches.append(to_arrow(batch, with_status=False))
        return Done(tally, batches)

    def _read(
        self, unit: Sequence[Changed], tally: Tally, waiting: dict[str, tuple[SourceItem, str]]
    ) -> Iterator[SourceDocument]:
        for item, kind, content_sha256 in unit:
            try:
                document = self._source.read(item)
            except DocumentRefused as refused:
                tally.refuse(item, refused, content_sha256)
                continue
            if document.content_sha256 != content_sha256:
                tally.meanwhile += 1
                log.info("%s changed after the source was listed: its newer text is taken", item.doc_id)
            waiting[item.doc_id] = (item, kind)
            yield document

    def _chunks(
        self, documents: Iterator[SourceDocument]
    ) -> Iterator[tuple[SourceDocument, list[Chunk] | DocumentRefused]]:
        """As `chunk_documents`; tokenizer and parsers are imported only when there is a document."""
        first = next(documents, None)
        if first is None:
            return
        from kb_pipeline.chunking.chunker import chunk_documents

        yield from chunk_documents(chain([first], documents), counter=self.counter, config=self._tenant.chunking)

    @cached_property
    def _chunker(self) -> str:
        from kb_pipeline.chunking.chunker import chunker_id

        return chunker_id(self.counter, self._tenant.chunking)


def chunk_units(tenant: TenantConfig, changed: Iterable[Changed], *, processes: int) -> Iterator[Done]:
    """The units' results in the order of their documents; this process works too.

    Other processes are forked, and only when there is more than one unit: the caller must own all threads that hold
    locks. At most two units a process are under way or waiting to be taken, so memory does not grow with the corpus.
    """
    units = _units(changed)
    here = UnitChunker(tenant)
    first, second = next(units, None), next(units, None)
    if first is None:
        return
    if second is None or processes < 2:
        for unit in chain([first], [second] if second else [], units):
            yield here.chunked(unit)
        return
    units = chain([first, second], units)
    initargs = (tenant, here.loaded())
    with ProcessPoolExecutor(processes - 1, get_context("fork"), initializer=_begin, initargs=initargs) as pool:
        under_way: deque[Future[Done] | Done] = deque()
        while True:
            while sum(isinstance(one, Future) for one in under_way) < processes and (unit := next(units, None)):
                under_way.append(pool.submit(_there, unit))
            if unit := next(units, None):
                under_way.append(here.chunked(unit))
            if not under_way:
                return
            while under_way and (len(under_way) > 2 * processes or unit is None or _ended(under_way[0])):
                one = under_way.popleft()
                yield one.result() if isinstance(one, Future) else one


def cores() -> int:
    """Processes worth having on this machine: one for each core this one may use, at most `MOST_PROCESSES`."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(allowed, MOST_PROCESSES)


def _ended(one: Future[Done] | Done) -> bool:
    return not isinstance(one, Future) or one.done()


def _units(changed: Iterable[Changed]) -> Iterator[list[Changed]]:
    unit: list[Changed] = []
    size = 0
    for one in changed:
        unit.append(one)
        size += int(one[0].state.get("size") or UNIT_BYTES // UNIT_DOCUMENTS)
        if size >= UNIT_BYTES or len(unit) >= UNIT_DOCUMENTS:
            yield unit
            unit, size = [], 0
    if unit:
        yield unit


_worker: UnitChunker | None = None
"""Of a forked process."""


def _begin(tenant: TenantConfig, counter: TokenCounter) -> None:
    from kb_pipeline.processes import end_with_parent

    end_with_parent()
    global _worker
    _worker = UnitChunker(tenant, counter)


def _there(unit: list[Changed]) -> Done:
    assert _worker is not None
    return _worker.chunked(unit)


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
