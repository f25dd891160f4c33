"""Where a text that does not fit is cut: at lines or sentences, then between words, and only then inside a word."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain

from kb_pipeline.chunking.blocks import Block, trimmed, with_indent

BY_LINE = frozenset({"code", "table", "html", "element", "function", "class", "record"})
"""Kinds whose first cut is the line; all others are cut at sentences first."""
SENTENCE_END = re.compile(r"[.!?…][\"')\]»”’*_`]{0,3}\s+|[。！？]")
GAP = re.compile(r"\s+")
SOFT_IN_WORD = re.compile(r"[^\w\s](?=\w)")
LINE, WORD, FRAGMENT = 1, 2, 3
"""Grains: whole lines or sentences, runs of words, runs of characters."""


def split(text: str, block: Block, limit: int) -> list[Block]:
    """The leaf cut one grain finer, in small runs that the packer joins again up to `limit` tokens.

    A run of words or characters is far below the limit, so that pieces fill up well. Linear in the leaf's length.
    """
    grain = block.grain
    while grain < FRAGMENT:
        grain += 1
        spans = list(_SPANS[grain](text, block, limit))
        if len(spans) > 1:
            break
    else:
        return []
    parts: list[Block] = []
    for start, end in spans:
        first, last = trimmed(text, start, end)
        if first < last:
            first = with_indent(text, first, start)
            later = first > block.start
            header = block.header or (block.repeats if later else "")
            path = (*block.path, block.title) if block.title and later else block.path
            parts.append(Block(first, last, block.kind, header=header, repeats=block.repeats, grain=grain, path=path))
    return parts


def _lines(text: str, block: Block, limit: int) -> Iterator[tuple[int, int]]:
    if block.kind not in BY_LINE:
        yield from _cuts((match.end() for match in SENTENCE_END.finditer(text, block.start, block.end)), block)
        return
    quoted = block.kind == "record"
    start = block.start
    inside = False
    while start < block.end:
        end = start
        while end < block.end:
            newline = text.find("\n", end, block.end)
            line_end = block.end if newline < 0 else newline + 1
            inside ^= quoted and text.count('"', end, line_end) % 2 == 1
            end = line_end
            if not inside:
                break
        yield start, end
        start = end


def _words(text: str, block: Block, limit: int) -> Iterator[tuple[int, int]]:
    """Runs of whole words of about `limit / 4` characters (some 6 % of the limit in tokens)."""
    run = max(8, limit // 4)
    start = at = block.start
    ends = (match.span() for match in GAP.finditer(text, block.start, block.end))
    for word_end, after in chain(ends, [(block.end, block.end)]):
        if word_end - start > run and at > start:
            yield start, at
            start = at
        if word_end - start > run:
            yield start, after
            start = after
        at = after
    if start < block.end:
        yield start, block.end


def _characters(text: str, block: Block, limit: int) -> Iterator[tuple[int, int]]:
    """Runs of at most `limit / 8` characters (byte tokens: at most half the limit), cut after a sign if one is near."""
    run = max(1, limit // 8)
    start = block.start
    while start < block.end:
        end = min(start + run, block.end)
        if end < block.end:
            soft = [match.end() for match in SOFT_IN_WORD.finditer(text, start + run // 2, end)]
            end = soft[-1] if soft else end
        yield start, end
        start = end


def _cuts(at: Iterator[int], block: Block) -> Iterator[tuple[int, int]]:
    start = block.start
    for cut in at:
        if start < cut < block.end:
            yield start, cut
            start = cut
    yield start, block.end


_SPANS = {LINE: _lines, WORD: _words, FRAGMENT: _characters}
