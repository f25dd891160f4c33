"""What the chunker gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Chunk:
    """One placed piece of a document. The source text at `[start:end]` is `text`, always."""

    ordinal: int
    """0, 1, 2, ... in source order."""
    start: int
    """First character, an offset into the decoded source text."""
    end: int
    text: str
    """The body: never empty, never only white space."""
    context: str
    """What is embedded before the body: heading path joined by ' > ', then a split table's header on its own lines."""
    heading_path: tuple[str, ...]
    kind: str
    """paragraph, list, code, table, heading, function, class, element, record, fragment, mixed, ..."""
    tokens: int
    """Of `embedded_text(context, text)` in the embedder's tokenizer, without prefix; at most the configured maximum."""
    fingerprint: bytes
    """`fingerprint(context, text)`, 32 bytes."""


class TokenCounter(Protocol):
    """Counts tokens as the embedder's tokenizer does. Deterministic; the name is part of the chunker's version."""

    @property
    def name(self) -> str:
        """Which tokenizer it is, for example `wordllama-l2`."""
        ...

    def count(self, texts: Sequence[str]) -> list[int]:
        """Number of tokens of each text, without special tokens."""
        ...
