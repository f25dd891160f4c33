"""Documents in, chunks out: parse, measure, pack, and count what will be embedded."""

from __future__ import annotations

import gc
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from kb_pipeline.chunking.measure import Budget, finer, measured
from kb_pipeline.chunking.model import Chunk, TokenCounter
from kb_pipeline.chunking.overlap import with_overlap
from kb_pipeline.chunking.pack import Packer, Piece
from kb_pipeline.chunking.parse import parse
from kb_pipeline.chunking.split import FRAGMENT
from kb_pipeline.config.schema import ChunkingConfig
from kb_pipeline.errors import DocumentRefused
from kb_pipeline.fingerprint import embedded_text, fingerprint
from kb_pipeline.sources.model import SourceDocument

VERSION = 1
"""Of the rules in this folder. Raise it when they give other chunks for the same text: every document is re-chunked."""

WINDOW_CHARS = 2_000_000
"""Text of documents that share batches of token counts; also what bounds the memory of `chunk_documents`."""


Draft = tuple[int, int, tuple[str, ...], str, str]
"""Start, end, heading path, context and body of a chunk to be."""


def chunker_id(counter: TokenCounter, config: ChunkingConfig) -> str:
    """Rules, tokenizer and settings that chunks depend on: `version:tokenizer:max_tokens:overlap_tokens`."""
    return f"{VERSION}:{counter.name}:{config.max_tokens}:{config.overlap_tokens}"


def chunk_document(document: SourceDocument, *, counter: TokenCounter, config: ChunkingConfig) -> list[Chunk]:
    """The document's chunks in source order; none for a text without visible characters.

    Every visible character of the body is in a chunk, and `document.text[chunk.start:chunk.end] == chunk.text`.
    Raises `DocumentRefused` for a text that its format's parser cannot take at all.
    """
    work = _chunks(document, config)
    counts: list[int] | None = None
    while True:
        try:
            texts = next(work) if counts is None else work.send(counts)
        except StopIteration as done:
            return done.value
        counts = counter.count(texts)


@dataclass(slots=True)
class _Open:
    document: SourceDocument
    work: Generator[list[str], list[int], list[Chunk]]
    asked: list[str]
    result: list[Chunk] | DocumentRefused | None = None


def chunk_documents(
    documents: Iterable[SourceDocument], *, counter: TokenCounter, config: ChunkingConfig
) -> Iterator[tuple[SourceDocument, list[Chunk] | DocumentRefused]]:
    """Each document, in order, with its chunks as `chunk_document` gives them, or why it was refused.

    Several times faster than one call a document, since some `WINDOW_CHARS` of text share each batch of counts.
    """
    window: list[SourceDocument] = []
    chars = 0
    for document in documents:
        window.append(document)
        chars += len(document.text)
        if chars >= WINDOW_CHARS:
            yield from _window(window, counter, config)
            window, chars = [], 0
    yield from _window(window, counter, config)


def _window(
    documents: list[SourceDocument], counter: TokenCounter, config: ChunkingConfig
) -> Iterator[tuple[SourceDocument, list[Chunk] | DocumentRefused]]:
    everything = [_Open(document, _chunks(document, config), []) for document in documents]
    with _no_collection():
        for one in everything:
            _advance(one, None)
        while going := [one for one in everything if one.result is None]:
            counts = counter.count([text for one in going for text in one.asked])
            at = 0
            for one in going:
                here, at = at, at + len(one.asked)
                _advance(one, counts[here:at])
    for one in everything:
        assert one.result is not None
        yield one.document, one.result


@contextmanager
def _no_collection() -> Generator[None]:
    """No search for cycles meanwhile: a window makes a million objects but no cycle; a fifth of the time went there."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _advance(one: _Open, counts: list[int] | None) -> None:
    try:
        one.asked = next(one.work) if counts is None else one.work.send(counts)
    except StopIteration as done:
        one.result = done.value
    except DocumentRefused as refused:
        one.result = refused


def _chunks(document: SourceDocument, config: ChunkingConfig) -> Generator[list[str], list[int], list[Chunk]]:
    text = document.text
    root = parse(document)
    if root.start >= root.end:
        return []
    budget = Budget(config.max_tokens)
    yield from measured(text, root, budget)
    pieces = Packer(text, budget, config.overlap_tokens).pack(root)
    if config.overlap_tokens:
        pieces = yield from with_overlap(text, pieces, budget, config.overlap_tokens)
    return (yield from _counted(text, pieces, budget))


def _counted(text: str, pieces: list[Piece], budget: Budget) -> Generator[list[str], list[int], list[Chunk]]:
    """The chunks with their real token counts; a piece whose estimate was too low gives up its last block."""
    done: dict[int, tuple[Piece, Draft, int]] = {}
    todo = pieces
    while todo:
        drafts = [_draft(text, piece, budget) for piece in todo]
        counts = yield [embedded_text(context, body) for _, _, _, context, body in drafts]
        again: list[Piece] = []
        for piece, draft, count in zip(todo, drafts, counts, strict=True):
            if count > budget.max_tokens:
                again.extend((yield from _smaller(text, piece, budget)))
                continue
            done[piece.blocks[0].start] = (piece, draft, count)
        todo = again or _out_of_order(done)
    chunks: list[Chunk] = []
    for ordinal, at in enumerate(sorted(done)):
        piece, (start, end, path, context, body), count = done[at]
        digest = fingerprint(context, body)
        chunks.append(Chunk(ordinal, start, end, body, context, path, _kind(piece), count, digest))
    return chunks


def _out_of_order(done: dict[int, tuple[Piece, Draft, int]]) -> list[Piece]:
    """Pieces whose overlap reaches back beyond the piece before, since that was divided: they go without."""
    last = -1
    found: list[Piece] = []
    for at in sorted(done):
        piece, draft, _ = done[at]
        if piece.overlap and draft[0] <= last:
            found.append(Piece(piece.blocks))
        last = max(last, draft[0])
    return found


def _draft(text: str, piece: Piece, budget: Budget) -> Draft:
    blocks = piece.overlap or piece.blocks
    path, context, _ = budget.context(blocks[0])
    start, end = blocks[0].start, piece.blocks[-1].end
    return start, end, path, context, text[start:end]


def _smaller(text: str, piece: Piece, budget: Budget) -> Generator[list[str], list[int], list[Piece]]:
    if piece.overlap:
        return [Piece(piece.blocks)]
    blocks = piece.blocks
    while len(blocks) == 1:
        blocks = blocks[0].opened or finer(text, blocks[0], 0, budget.max_tokens)
        yield from budget.learn(blocks)
    if not blocks:
        raise DocumentRefused("too-long", f"one character at offset {piece.blocks[0].start} is over the token limit")
    return [Piece(blocks[:-1]), Piece(blocks[-1:])]


def _kind(piece: Piece) -> str:
    """The kind of all its blocks, headings aside, or `mixed`; `fragment` when a word had to be cut."""
    kinds: set[str] = set()
    todo = list(piece.blocks)
    while todo:
        block = todo.pop()
        if block.grain == FRAGMENT:
            return "fragment"
        if block.kind in ("document", "section", "source"):
            todo.extend(block.opened or block.open())
            if block.parts is None and not block.opened:
                kinds.add("paragraph")
        else:
            kinds.add(block.kind)
    kinds = kinds - {"heading"} or kinds
    return kinds.pop() if len(kinds) == 1 else "mixed" if kinds else "paragraph"
