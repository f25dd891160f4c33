"""How many texts a server takes in one request: learned from what it refuses, kept for the next run."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

_FEWEST, _MOST = 4, 512
"""Full requests after which a limit is tried out again: at first, and after it was found again and again."""
_KNOWN = 64
"""The same for a limit that an earlier run found."""
_PROOFS = 2
"""Requests that must be refused whole and taken in parts, where the server names no number: one may be a hiccup."""


class InputLimit:
    """Some servers take 32 texts (text-embeddings-inference), some 10 (DashScope), where OpenAI takes 2,048.

    A request that is refused for its content is halved. When no half is refused it was not the content: the limit lies
    between, at the number that the refusal names, if it names one there. Servers are set up anew, so the limit is
    tried out again after some full requests.
    """

    def __init__(self, whole: int, known: int | None, tell: Callable[[int | None], None]) -> None:
        self.most = min(known or whole, whole)
        """Texts of a request."""
        self._whole = whole
        self._told = self.most
        self._tell = tell
        self._full = 0
        self._needed = _FEWEST if known is None else _KNOWN
        self._proofs = 0

    def refused(self, texts: int, *, taken: int, words: str) -> None:
        """A request of so many texts was refused with these words, and parts of at most `taken` were not."""
        named = {int(number) for number in re.findall(r"\d+", re.sub(r"^\d+: ", "", words))}
        between = [number for number in named if taken <= number < texts]
        self._proofs += 1
        limit = between[0] if len(between) == 1 else taken
        if limit < self.most and (len(between) == 1 or self._proofs >= _PROOFS):
            self._set(limit)
            self._needed = min(2 * self._needed, _MOST)
            self._note(limit)

    def answered(self, texts: int) -> None:
        """A request of so many texts was answered."""
        if self.most == self._whole or texts < self.most:
            return
        if texts > self._told:
            self._note(texts)
        self._full += 1
        if self._full >= self._needed:
            self._set(min(2 * self.most, self._whole))
            if self.most == self._whole:
                self._note(None)

    def _set(self, most: int) -> None:
        self.most = most
        self._full = 0

    def _note(self, limit: int | None) -> None:
        self._told = limit or self._whole
        self._tell(limit)


@dataclass(slots=True)
class Halved:
    """A request that was refused for its content, until both of its halves are answered."""

    texts: int
    words: str
    left: int = 2
    """Halves that are not answered."""

    def answered(self, limit: InputLimit) -> None:
        """One half was answered as a whole."""
        self.left -= 1
        if self.left == 0:
            limit.refused(self.texts, taken=(self.texts + 1) // 2, words=self.words)
