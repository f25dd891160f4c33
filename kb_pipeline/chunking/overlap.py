"""Lets a piece begin with the end of the one before it, at block, line or sentence boundaries."""

from __future__ import annotations

from collections.abc import Generator

from kb_pipeline.chunking.blocks import Block
from kb_pipeline.chunking.measure import Budget, joined
from kb_pipeline.chunking.pack import Piece
from kb_pipeline.chunking.split import FRAGMENT, split


def with_overlap(
    text: str, pieces: list[Piece], budget: Budget, overlap_tokens: int
) -> Generator[list[str], list[int], list[Piece]]:
    """The pieces, each that goes on in the section of the one before beginning with up to `overlap_tokens` of its end.

    Where the last block before is longer than that, its last sentences (lines, for code) are taken. A piece that has
    no room left keeps none, and none begins inside a word.
    """
    cut: dict[int, list[Block]] = {}
    for index, piece in enumerate(pieces[1:], start=1):
        last = pieces[index - 1].blocks[-1]
        if piece.follows_on and last.tokens > overlap_tokens and not last.header:
            cut[index] = split(text, last, budget.max_tokens)
    flat = [block for blocks in cut.values() for block in blocks]
    yield from budget.learn(flat)
    counts = yield [text[block.start : block.end] for block in flat]
    for block, count in zip(flat, counts, strict=True):
        block.tokens = count
    for index, piece in enumerate(pieces[1:], start=1):
        if not piece.follows_on:
            continue
        before = pieces[index - 1].blocks
        taken: list[Block] = []
        for block in reversed(cut.get(index, before)):
            longer = [block, *taken]
            size = joined(text, longer)
            first = budget.context(block)
            room = budget.max_tokens - first[2] - 1 - joined(text, piece.blocks)
            if block.grain == FRAGMENT or size > min(overlap_tokens, room):
                break
            taken = longer
        if taken and taken[0].start > before[0].start:
            piece.overlap = [*taken, *piece.blocks]
    return pieces
