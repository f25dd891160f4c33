"""reStructuredText: sections by their underlines, blocks by blank lines, a directive with its indented content.

docutils gives no character offsets; chunks need the section rules only, which are these:
https://docutils.sourceforge.io/docs/ref/rst/restructuredtext.html#sections
"""

from __future__ import annotations

import re

from kb_pipeline.chunking.blocks import Block
from kb_pipeline.chunking.outline import outline
from kb_pipeline.chunking.parse import heading_text

ADORNMENT = re.compile(r"([!-/:-@\[-`{-~])\1*[ \t]*$")
LIST_ITEM = re.compile(r"(?:[-*+•‣⁃]|#\.|\(?(?:\d+|[A-Za-z])[.)])[ \t]")
TABLE = re.compile(r"\+[-=+]+|=+[ \t]+=")


def parse_rst(text: str, start: int, end: int) -> list[Block]:
    """Sections nested by the order in which their kinds of underline first appear."""
    flat: list[Block] = []
    levels: dict[int, int] = {}
    styles: list[str] = []
    lines = _lines(text, start, end)
    at = 0
    while at < len(lines):
        if not lines[at][2]:
            at += 1
            continue
        style, height = _heading(lines, at)
        if style:
            title_line = lines[at + (height == 3)]
            block = Block(lines[at][0], lines[at + height - 1][1], "heading", title=heading_text(title_line[2]))
            if style not in styles:
                styles.append(style)
            levels[id(block)] = styles.index(style) + 1
            at += height
        else:
            first = at
            at = _block_end(lines, at)
            block = Block(lines[first][0], lines[at - 1][1], _kind(lines[first][2]))
        flat.append(block)
    return outline(flat, end, levels)


def _lines(text: str, start: int, end: int) -> list[tuple[int, int, str]]:
    """(start, end, text without white space at its end) of each line."""
    out: list[tuple[int, int, str]] = []
    at = start
    while at < end:
        newline = text.find("\n", at, end)
        stop = end if newline < 0 else newline
        out.append((at, stop, text[at:stop].rstrip()))
        at = stop + 1
    return out


def _heading(lines: list[tuple[int, int, str]], at: int) -> tuple[str, int]:
    """The style of the heading that begins here and its number of lines; an empty style where none does."""
    here = lines[at][2]
    below = lines[at + 1][2] if at + 1 < len(lines) else ""
    if _is_adornment(here) and below and not _is_adornment(below) and at + 2 < len(lines):
        under = lines[at + 2][2]
        if under == here and len(here) >= len(below.strip()):
            return here[0] * 2, 3
    if _is_adornment(below) and not here[0].isspace() and not _is_adornment(here) and len(below) >= len(here):
        return below[0], 2
    return "", 0


def _is_adornment(line: str) -> bool:
    return len(line) >= 2 and len(line) < 500 and ADORNMENT.match(line) is not None


def _block_end(lines: list[tuple[int, int, str]], at: int) -> int:
    """Index after the block's last line: at a blank line that no indented line follows, or before a heading."""
    last = at
    at += 1
    while at < len(lines):
        line = lines[at][2]
        if not line:
            at += 1
            continue
        if lines[at - 1][2] == "" and not line[0].isspace():
            break
        if _heading(lines, at)[0] and lines[at - 1][2] == "":
            break
        last = at
        at += 1
    return last + 1


def _kind(line: str) -> str:
    line = line.lstrip()
    if line.startswith((".. code", ".. sourcecode", ".. literalinclude", ">>> ")) or line.endswith("::"):
        return "code"
    if TABLE.match(line):
        return "table"
    return "list" if LIST_ITEM.match(line) else "paragraph"
