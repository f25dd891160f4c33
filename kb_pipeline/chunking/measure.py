"""Divides a document's tree until every leaf fits, asking for token counts in rounds that documents share."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field

from kb_pipeline.chunking.blocks import Block, divided
from kb_pipeline.chunking.split import split

Asking = Generator[list[str], list[int], None]
"""Yields texts, is sent their token counts."""
Place = tuple[tuple[str, ...], str]
"""Heading path and table header, as parsed."""

SURELY_TOO_LONG = 50
"""Characters per token no prose, code or table reaches; a longer span is divided without being counted."""
TAKEN_WHOLE = 3
"""Characters per allowed token up to which a section or list is first tried as a whole (prose has 3.7, code 3.2)."""
DEEPEST = 60
"""Levels of nesting that are followed; what is deeper is split by its text."""


@dataclass(slots=True)
class Budget:
    """What the context of each place costs, and what is left for a body there."""

    max_tokens: int
    contexts: dict[Place, tuple[tuple[str, ...], str, int]] = field(
        default_factory=dict[Place, tuple[tuple[str, ...], str, int]]
    )
    """Path as kept, context, and its tokens with the blank line, of each place."""

    def context(self, block: Block) -> tuple[tuple[str, ...], str, int]:
        """Kept path, context and its tokens at the block's start."""
        return self.contexts[block.path, block.header]

    def left(self, block: Block) -> int:
        """Tokens a body that starts with this block may have."""
        return self.max_tokens - self.contexts[block.path, block.header][2]

    def learn(self, blocks: list[Block]) -> Asking:
        """Count the contexts of the blocks' places; too long ones lose outer headings, or the table's header.

        A heading path may take a quarter of the maximum, with a table's header half of it.
        """
        open_ = {(b.path, b.header): (b.path, b.header) for b in blocks if (b.path, b.header) not in self.contexts}
        while open_:
            texts = [context_text(path, header) for path, header in open_.values()]
            counts = yield texts
            still: dict[Place, Place] = {}
            for (key, (path, header)), context, count in zip(open_.items(), texts, counts, strict=True):
                tokens = count + 2 if context else 0
                if tokens * (2 if header else 4) <= self.max_tokens:
                    self.contexts[key] = (path, context, tokens)
                elif header and 2 * len(header) > len(context):
                    still[key] = (path, "")
                else:
                    still[key] = (path[1:], header)
            open_ = still


def context_text(path: tuple[str, ...], header: str) -> str:
    """The heading path joined by ` > `, then a table's header on lines of its own."""
    line = " > ".join(path)
    return f"{line}\n{header}" if line and header else line or header


def measured(text: str, root: Block, budget: Budget) -> Asking:
    """Divide `root` until every undivided block has its tokens and fits where it stands; sums go up the tree."""
    whole = TAKEN_WHOLE * budget.max_tokens
    order: list[Block] = [root]
    fresh = [(root, 0)]
    while fresh:
        ask: list[tuple[Block, int]] = []
        seen: list[Block] = []
        while fresh:
            block, depth = fresh.pop()
            seen.append(block)
            if block.end - block.start > whole and block.parts is not None and depth < DEEPEST:
                block.opened = divided(text, block)
                order.extend(block.opened)
                fresh.extend((part, depth + 1) for part in block.opened)
            else:
                ask.append((block, depth))
        yield from budget.learn(seen)
        small = [(b, d) for b, d in ask if b.end - b.start <= SURELY_TOO_LONG * budget.max_tokens]
        counts = yield [text[b.start : b.end] for b, _ in small]
        for (block, _), count in zip(small, counts, strict=True):
            block.tokens = count
        for block, depth in ask:
            if block.tokens < 0 or block.tokens > budget.left(block):
                block.opened = finer(text, block, depth, budget.max_tokens)
                block.tokens = -1
                order.extend(block.opened)
                fresh.extend((part, depth + 1) for part in block.opened)
    for block in reversed(order):
        if block.opened:
            block.tokens = joined(text, block.opened)


def finer(text: str, block: Block, depth: int, limit: int) -> list[Block]:
    """The block's parts, or its text cut one grain finer; empty when it is a single character."""
    if block.parts is not None and depth < DEEPEST:
        parts = divided(text, block)
        if len(parts) > 1 or (parts and parts[0].parts is not None):
            return parts
    return split(text, block, limit)


def joined(text: str, blocks: list[Block]) -> int:
    """Tokens of the blocks together, estimated as their sum and the line ends between them."""
    total = 0
    end = blocks[0].start
    for block in blocks:
        total += block.tokens + text.count("\n", end, block.start)
        end = block.end
    return total
