"""Texts on their way through the sync lane, and what happened to them so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kb_pipeline.embed.asking import SPOILT_ATTEMPTS
from kb_pipeline.embed.faults import Fault, Kind
from kb_pipeline.embed.input_limit import Halved
from kb_pipeline.embed.lane import Pending


@dataclass(slots=True)
class Piece:
    """Texts that go in one request, and what happened to them so far."""

    batch: list[Pending]
    spoilt: int = 0
    """Answers in which all of these texts were unusable."""
    doubts: int = 0
    """How often these texts failed though the provider answered a plain word right after."""
    part_of: Kind | None = None
    """Half of a request that failed again and again: how."""
    halved: Halved | None = None
    """The request it is half of, where that was refused for its content."""

    def halves(self, kind: Kind) -> list[Piece]:
        """Two pieces, the first half last."""
        middle = len(self.batch) // 2
        spoilt = min(self.spoilt, SPOILT_ATTEMPTS - 1)
        return [Piece(half, spoilt, part_of=kind) for half in (self.batch[middle:], self.batch[:middle])]

    def halves_after(self, fault: Fault) -> list[Piece]:
        """The same, after a request that was answered with this."""
        found = self.halves(fault.kind)
        if fault.kind is Kind.CONTENT:
            whole = Halved(len(self.batch), fault.message)
            for half in found:
                half.halved = whole
        return found

    def cut(self, texts: int) -> list[Piece]:
        """Pieces of at most so many texts, the first ones last."""
        starts = range(0, len(self.batch), texts)
        return [Piece(self.batch[at : at + texts], self.spoilt, self.doubts, self.part_of) for at in reversed(starts)]


def tokens_of(batch: Sequence[Pending]) -> int:
    """Tokens of these texts, without a prefix."""
    return sum(one.tokens for one in batch)
