"""Puts measured blocks together into pieces of at most the allowed size that never cross a section's border untruly."""

from __future__ import annotations

from dataclasses import dataclass, field

from kb_pipeline.chunking.blocks import Block
from kb_pipeline.chunking.measure import Budget

FULL_ENOUGH = 0.5
"""Share of the maximum from which on a piece takes in no further section, only what belongs to its own."""

TOO_LITTLE = 0.125
"""Share of the maximum below which a piece also takes in the beginning of a section that does not fit as a whole."""
SLACK = 2
"""Tokens by which blocks together may come to more than their sum (a word at a start is counted a little otherwise)."""


@dataclass(slots=True, eq=False)
class Piece:
    """Blocks that make up one chunk, in order."""

    blocks: list[Block]
    follows_on: bool = False
    """The piece before ends in the same section, so an overlap into it keeps the heading path true."""
    overlap: list[Block] = field(default_factory=list[Block])


@dataclass(slots=True)
class Packer:
    """Greedy and local: a change in one section leaves the pieces of the others as they are."""

    text: str
    budget: Budget
    reserve: int = 0
    """Tokens kept free for the overlap, where a piece has more than one block."""
    pieces: list[Piece] = field(default_factory=list[Piece])
    _blocks: list[Block] = field(default_factory=list[Block])
    _tokens: int = 0
    _same_section: bool = False

    def pack(self, root: Block) -> list[Piece]:
        """The pieces of the measured tree, in order, holding all of its blocks."""
        enough = FULL_ENOUGH * self.budget.max_tokens
        stack: list[Block | None] = [root]
        while stack:
            block = stack.pop()
            if block is None:
                self._close(same_section=False)
                continue
            if not block.opened or (block.tokens <= self.budget.left(block) and block.grain == 0):
                if block.title is not None and self._tokens >= enough:
                    self._close(same_section=True)
                self._add(block)
                continue
            if block.title is not None or block.repeats:
                if block.title is not None and not self._belongs_to_next():
                    self._close(same_section=True)
                stack.append(None)
            stack.extend(reversed(block.opened))
        self._close(same_section=False)
        return self.pieces

    def _belongs_to_next(self) -> bool:
        """Whether what is held says too little by itself: headings, an import, a line of introduction."""
        return self._tokens < TOO_LITTLE * self.budget.max_tokens or all(b.kind == "heading" for b in self._blocks)

    def _add(self, block: Block) -> None:
        if self._blocks:
            more = block.tokens + self.text.count("\n", self._blocks[-1].end, block.start)
            if self._tokens + more + self.reserve + SLACK <= self.budget.left(self._blocks[0]):
                self._blocks.append(block)
                self._tokens += more
                return
            self._close(same_section=True)
        self._blocks = [block]
        self._tokens = block.tokens

    def _close(self, *, same_section: bool) -> None:
        if self._blocks:
            self.pieces.append(Piece(self._blocks, self._same_section))
            self._blocks = []
            self._tokens = 0
        self._same_section = same_section
