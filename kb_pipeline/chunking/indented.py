"""YAML at its keys and list items, seen by indentation alone.

A real parser is not needed to find them, and the one tree-sitter has ends the process on deep nesting.
"""

from __future__ import annotations

import re
from functools import partial

from kb_pipeline.chunking.blocks import Block
from kb_pipeline.chunking.parse import heading_text

LINE = re.compile(r"^([ ]*(?:- +)*)(\S[^\n]*)$", re.MULTILINE)
KEY = re.compile(
    r"""("[^"\n]{1,200}"|'[^'\n]{1,200}'|[^\s"'#\-?:{\[&*!|>%@`][^:\n]{0,200}|-[^\s:][^:\n]{0,200}):(?:\s|$)"""
)
ITEM = re.compile(r"- |-$")


def parse_indented(text: str, start: int, end: int) -> list[Block]:
    """A block for each key or item of the outermost level, its inner levels as parts."""
    return _level(text, start, end, 0)


def _level(text: str, start: int, end: int, column: int) -> list[Block]:
    """Blocks that begin at the least indentation found from `column` on."""
    starts: list[tuple[int, int]] = []
    least = -1
    for match in LINE.finditer(text, start, end):
        at = match.start() + len(match[1]) - len(match[1].lstrip(" "))
        depth = at - text.rfind("\n", 0, at) - 1
        if match.start(2) < end and text[at] != "#" and depth >= column and (least < 0 or depth <= least):
            if depth < least:
                starts.clear()
            least = depth
            starts.append((at, depth))
    blocks: list[Block] = []
    for (at, depth), (following, _) in zip(starts, [*starts[1:], (end, 0)], strict=False):
        blocks.append(_block(text, at, following, depth))
    return blocks


def _block(text: str, start: int, end: int, column: int) -> Block:
    first = text.find("\n", start, end)
    line_end = end if first < 0 else first
    key = KEY.match(text, start, line_end)
    title = heading_text(key[1].strip("\"'")) or None if key else None
    block = Block(start, end, "element", title=title)
    if first >= 0 and text[first:end].strip():
        block.parts = partial(_parts, text, first + 1, column)
    return block


def _parts(text: str, start: int, column: int, block: Block) -> list[Block]:
    """The block's first line, then its inner level (a list may stand at its key's own column)."""
    same = ITEM.match(text, start + column) is not None and text[start : start + column].isspace()
    inner = _level(text, start, block.end, column if same or not column and ITEM.match(text, start) else column + 1)
    if not inner:
        return []
    return [Block(block.start, inner[0].start, "heading"), *inner]
