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


OUTER = re.compile(r"\n(?:[^\S\n]*\n)+(?=[^\s)\]}])(?!end\b|else\b|elif\b|rescue\b|ensure\b|fi\b|done\b|esac\b)")
NAMED = re.compile(
    r"^(?:[\w@]+[ \t]+){0,4}?(?:def|class|module|function|func|fn|sub|object|trait|interface|struct|enum|type|proc|"
    r"macro|defmodule|defp|contract|resource|package)[ \t]+([A-Za-z_][\w.:?!-]{0,100})"
    r"|^([A-Za-z_][\w-]{0,100})[ \t]*\(\)[ \t]*\{",
    re.MULTILINE,
)


def parse_lines(text: str, start: int, end: int) -> list[Block]:
    """Code without a grammar: from each line at the margin that follows a blank line, named after what it defines."""
    blocks: list[Block] = []
    at = start
    for border in [*(match.end() for match in OUTER.finditer(text, start, end)), end]:
        if border > at:
            named = NAMED.search(text[at : min(border, at + 2_000)])
            title = (named[1] or named[2]) if named else None
            blocks.append(Block(at, border, "code", title=title))
            at = border
    return blocks


def parse_csv(text: str, start: int, end: int) -> list[Block]:
    """One block for all rows; when it is split, the first row goes with every piece as context."""
    newline = text.find("\n", start, end)
    header = text[start:newline].strip() if newline > 0 else ""
    return [Block(start, end, "record", repeats=header)]
