"""The one tree every format is parsed into: sections, containers and leaves, each a span of the source text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class Block:
    """A span of the text. Its parts, where it has any, follow one another and hold all of its visible characters."""

    start: int
    end: int
    kind: str
    title: str | None = None
    """A section's heading (a function's name, an element's key): on the path of what follows the section's start."""
    level: int = 0
    """Of a section: 1 for a first-level heading."""
    header: str = ""
    """Header rows of the table this is a later piece of: part of its context."""
    repeats: str = ""
    """A table's header rows, which become the `header` of every piece but the first when the table is split."""
    parts: list[Block] | Callable[[Block], list[Block]] | None = None
    """What it is divided into when it does not fit; a function is asked only then. `None`: a leaf."""
    grain: int = 0
    """How fine a leaf was split already: index into the cuts of `split.py`."""
    tokens: int = -1
    """Of the text alone; -1 while not counted."""
    path: tuple[str, ...] = ()
    """Headings above its start."""
    opened: list[Block] = field(default_factory=list["Block"])
    """The parts, once the packer divided it."""

    def open(self) -> list[Block]:
        """The parts as a list, or an empty list for a leaf."""
        if self.parts is None:
            return []
        return self.parts(self) if callable(self.parts) else self.parts


def trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """The span without white space around it, but with the indentation of its first line; `(start, start)` if empty."""
    while end - start > 4096 and text[start : start + 4096].isspace():
        start += 4096
    while end - start > 4096 and text[end - 4096 : end].isspace():
        end -= 4096
    head, tail = text[start : min(end, start + 4096)], text[max(start, end - 4096) : end]
    first = start + len(head) - len(head.lstrip())
    last = end - len(tail) + len(tail.rstrip())
    return (first, last) if first < last else (start, start)


def with_indent(text: str, start: int, floor: int) -> int:
    """Start of the line when only blanks stand between it and `start` (never before `floor`), else `start`."""
    at = start
    while at > floor and text[at - 1] in " \t":
        at -= 1
    return at if at == 0 or text[at - 1] == "\n" else start


def divided(text: str, block: Block) -> list[Block]:
    """The block's parts, placed so that together they hold every visible character of it, each with its path.

    What stands between two parts (a list marker, a quote sign, a comma) goes to the next one from its line's start
    on, the rest to the one before. In a document or a section it becomes a paragraph of its own instead.
    """
    fill = block.kind in ("document", "section")
    out: list[Block] = []
    at = block.start
    for part in block.open():
        if part.end <= at or part.start >= block.end:
            continue
        part.start, part.end = max(part.start, at), min(part.end, block.end)
        gap = text[at : part.start]
        if gap and not gap.isspace():
            if fill:
                out.append(_paragraph(text, at, part.start))
            elif out:
                newline = gap.rfind("\n")
                cut = part.start if newline < 0 else at + newline + 1
                out[-1].end = trimmed(text, out[-1].start, cut)[1]
                part.start = cut
            else:
                part.start = at
        first, last = trimmed(text, part.start, part.end)
        if first == last:
            continue
        if out and first == out[-1].end and _inside_word(text, first):
            out[-1].end, out[-1].parts, at = last, None, last
            continue
        part.start, part.end = with_indent(text, first, at), last
        out.append(part)
        at = last
    if text[at : block.end].strip():
        if fill or not out:
            out.append(_paragraph(text, at, block.end))
        else:
            out[-1].end = trimmed(text, out[-1].start, block.end)[1]
    below = (*block.path, block.title) if block.title else block.path
    for part in out:
        part.path = block.path if part.start == block.start else below
    return out


def _inside_word(text: str, at: int) -> bool:
    """Whether a parser that found an error put a border between two letters or digits."""
    before, after = text[at - 1], text[at]
    return (before.isalnum() or before == "_") and (after.isalnum() or after == "_")


def _paragraph(text: str, start: int, end: int) -> Block:
    first, last = trimmed(text, start, end)
    return Block(with_indent(text, first, start), last, "paragraph")
