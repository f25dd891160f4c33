"""What a source lists and what reading an item of it gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class SourceItem:
    """One listed item, before it is read."""

    doc_id: str
    """Stable within the tenant: POSIX path relative to the source's root, or the record's `id`."""
    uri: str
    """Where a person finds it: path or URL (`file.jsonl#id` for a record)."""
    state: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """JSON object (size, mtime_ns, etag); an equal state means the item need not be read again. Empty: always read."""


@dataclass(frozen=True, slots=True)
class SourceDocument:
    """One item as read: the decoded text and what is known beside it."""

    doc_id: str
    uri: str
    text: str
    """The decoded source text that all offsets refer to; NUL and lone surrogates are replaced, one character each."""
    format: str
    """markdown, html, rst, text, code:python, json, yaml, xml, csv, notebook, office, ..."""
    content_sha256: bytes
    """Of the source bytes (a file) or the canonical JSON of the record's text and title (a record)."""
    metadata: Mapping[str, Any]
    """Front matter or the record's metadata; JSON values only."""
    title: str | None = None
    """Front matter's or the record's title; the first heading where the text has none of its own."""
    state: Mapping[str, Any] = field(default_factory=dict[str, Any])


class Source(Protocol):
    """A place documents come from. Listing is cheap; reading decodes one item."""

    def list(self) -> Iterator[SourceItem | RefusedItem]:
        """Every item, in any order, each `doc_id` once; what must be refused already comes as `RefusedItem`."""
        ...

    def read(self, item: SourceItem) -> SourceDocument:
        """The decoded document.

        Raises `DocumentRefused` for one bad item and `SourceError` when the whole source is gone.
        """
        ...


@dataclass(frozen=True, slots=True)
class RefusedItem:
    """An item that is quarantined at listing (a FIFO, an unreadable file, a duplicate id, a broken JSON line)."""

    doc_id: str
    uri: str
    reason: str
    """Stable code, as in `DocumentRefused.reason`."""
    detail: str
