"""What a search gives back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Hit:
    """One distinct text, at the first of its places that passes the filter."""

    doc_id: str
    uri: str
    ordinal: int
    """Number of the chunk in its document, from 0."""
    start: int
    """Offsets in characters of the decoded source."""
    end: int
    heading_path: list[str]
    text: str
    score: float
    """Cosine similarity with the query, 1 for the same direction."""
    metadata: dict[str, Any]
    """Of the document."""
    also_in: list[str]
    """Other documents with the same text that pass the filter (100 at most)."""


def folded(hits: Iterable[Hit]) -> list[Hit]:
    """One hit for each text: equal texts under other headings go into `also_in` of the best. Order and scores stay."""
    best: dict[str, Hit] = {}
    for hit in hits:
        first = best.get(hit.text)
        if first is None:
            best[hit.text] = hit
        else:
            places = {*first.also_in, hit.doc_id, *hit.also_in} - {first.doc_id}
            best[hit.text] = replace(first, also_in=sorted(places))
    return list(best.values())
