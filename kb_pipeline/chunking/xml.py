"""XML at its elements. The standard library's expat tells their offsets, in linear time whatever it is given."""

from __future__ import annotations

import re
from xml.parsers import expat

from kb_pipeline.chunking.blocks import Block

NOT_ASCII = re.compile(r"[^\x00-\x7f]")
DEEPEST = 20
"""Levels of elements that are followed; what lies deeper is text of the level above."""


def parse_xml(text: str, start: int, end: int) -> list[Block]:
    """The root's elements nested as they are, each with its tag as title; nothing for XML that is not well-formed.

    Characters outside ASCII are replaced by a letter first, so that the parser's bytes are characters; entities are
    not expanded (they are text here), so a billion laughs cost nothing.
    """
    body = NOT_ASCII.sub("x", text[start:end])
    declaration = re.match(r"<\?xml[^>]*\?>", body)
    if declaration is not None:
        body = " " * declaration.end() + body[declaration.end() :]
    data = body.replace("&", " ").encode()
    top: list[Block] = []
    open_: list[Block] = []
    inside: list[list[Block]] = [top]
    depth = 0

    def opened(name: str, _attributes: object) -> None:
        nonlocal depth
        depth += 1
        if depth <= DEEPEST:
            block = Block(start + parser.CurrentByteIndex, 0, "element", title=name)
            inside[-1].append(block)
            open_.append(block)
            inside.append([])

    def closed(_name: str) -> None:
        nonlocal depth
        if depth <= DEEPEST:
            block = open_.pop()
            block.end = start + data.find(b">", parser.CurrentByteIndex) + 1
            if parts := inside.pop():
                block.parts = [Block(block.start, parts[0].start, "heading"), *parts]
        depth -= 1

    parser = expat.ParserCreate()
    parser.StartElementHandler = opened
    parser.EndElementHandler = closed
    try:
        parser.Parse(data, True)
    except expat.ExpatError:
        return []
    return top
