"""Nests a flat series of blocks under its headings."""

from __future__ import annotations

from kb_pipeline.chunking.blocks import Block


def outline(flat: list[Block], end: int, levels: dict[int, int]) -> list[Block]:
    """Sections that hold their heading, its blocks and the deeper sections; `levels` is by `id` of a heading block.

    A heading's `title` moves to its section. Blocks before the first heading stay at the top.
    """
    top: list[Block] = []
    open_: list[tuple[int, Block, list[Block]]] = []
    for block in flat:
        level = levels.get(id(block))
        if level is None:
            (open_[-1][2] if open_ else top).append(block)
            continue
        while open_ and open_[-1][0] >= level:
            open_.pop()[1].end = block.start
        inside = [block]
        section = Block(block.start, end, "section", title=block.title or None, level=level, parts=inside)
        block.title = None
        (open_[-1][2] if open_ else top).append(section)
        open_.append((level, section, inside))
    return top
