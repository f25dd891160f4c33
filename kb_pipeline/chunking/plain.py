"""Plain text by blank lines, and tables of comma- or tab-separated values by rows."""

from __future__ import annotations

import re
from collections.abc import Iterator

from kb_pipeline.chunking.blocks import Block

BLANK_LINES = re.compile(r"\n(?:[^\S\n]*\n)+")


def parse_plain(text: str, start: int, end: int) -> list[Block]:
    """Paragraphs: what stands between blank lines."""
    return [Block(a, b, "paragraph") for a, b in paragraphs(text, start, end)]


def paragraphs(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Spans between blank lines."""
    at = start
    for gap in BLANK_LINES.finditer(text, start, end):
        if gap.start() > at:
            yield at, gap.start()
        at = gap.end()
    if at < end:
        yield at, end


def parse_csv(text: str, start: int, end: int) -> list[Block]:
    """One block for all rows; when it is split, the first row goes with every piece as context."""
    newline = text.find("\n", start, end)
    header = text[start:newline].strip() if newline > 0 else ""
    return [Block(start, end, "record", repeats=header)]
