"""Markdown and MDX: sections by headings, then blocks, lists into items, as CommonMark with tables sees them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, cast

import pyromark

from kb_pipeline.chunking.blocks import Block
from kb_pipeline.chunking.outline import outline
from kb_pipeline.chunking.parse import heading_text

OPTIONS = (
    pyromark.Options.ENABLE_TABLES
    | pyromark.Options.ENABLE_FOOTNOTES
    | pyromark.Options.ENABLE_TASKLISTS
    | pyromark.Options.ENABLE_HEADING_ATTRIBUTES
)
KINDS = {
    "Paragraph": "paragraph",
    "Heading": "heading",
    "CodeBlock": "code",
    "HtmlBlock": "html",
    "Table": "table",
    "List": "list",
    "Item": "list",
    "BlockQuote": "quote",
    "FootnoteDefinition": "footnote",
}
CONTAINERS = frozenset({"list", "quote", "footnote"})
NOT_ASCII = re.compile(r"[^\x00-\x7f]")
INLINE_MARKUP = re.compile(r"[*_`<>&\\\[\]{!]")
ATX = re.compile(r"[ \t]*#{1,6}(?:[ \t]+|$)|[ \t]+#+[ \t]*$")
SETEXT = re.compile(r"\n[ \t]*(?:=+|-+)[ \t]*$")


def parse_markdown(text: str, start: int, end: int) -> list[Block]:
    """The top-level sections and what stands before the first heading.

    The parser's ranges are UTF-8 bytes. Block structure depends on ASCII characters only, so every other one is
    replaced by a control character first, and the ranges are offsets of characters.
    """
    body = text[start:end]
    if not body.isascii():
        body = NOT_ASCII.sub("\x01", body)
    top: list[Block] = []
    stack: list[Block] = []
    inside: list[list[Block]] = []
    levels: dict[int, int] = {}
    events = cast("Iterator[tuple[Any, dict[str, int]]]", pyromark.events_with_range(body, options=OPTIONS))
    # Most events are inline text: this line is what the parser's speed hangs on.
    starts = [(event["Start"], span) for event, span in events if event.__class__ is dict and "Start" in event]
    for tag, span in starts:
        name: str = tag if tag.__class__ is str else next(iter(tag))
        kind = KINDS.get(name)
        if kind is None:
            continue
        block = Block(start + span["start"], start + span["end"], kind)
        while stack and stack[-1].end <= block.start:
            stack.pop()
            inside.pop()
        if kind == "table":
            block.repeats = _table_header(text, block)
        if stack:
            inside[-1].append(block)
        else:
            top.append(block)
            if kind == "heading":
                levels[id(block)] = int(tag["Heading"]["level"][1])
                block.title = _title(text[block.start : block.end])
        if kind in CONTAINERS:
            block.parts = parts = list[Block]()
            stack.append(block)
            inside.append(parts)
    return outline(top, end, levels)


def _table_header(text: str, table: Block) -> str:
    """The header row and the row of dashes below it."""
    lines = text[table.start : table.end].split("\n", 2)[:2]
    return "\n".join(line.strip() for line in lines)


@lru_cache(maxsize=10_000)
def _title(source: str) -> str:
    raw = ATX.sub("", SETEXT.sub("", source.rstrip()) if "\n" in source.rstrip() else source.rstrip())
    if INLINE_MARKUP.search(raw):
        pieces: list[str] = []
        for event in pyromark.events(source, options=OPTIONS):
            if isinstance(event, dict):
                pieces.append(str(event.get("Text") or event.get("Code") or ""))
            elif event in ("SoftBreak", "HardBreak"):
                pieces.append(" ")
        raw = "".join(pieces)
    return heading_text(raw)
