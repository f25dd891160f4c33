"""What JSON Lines and Parquet have in common: a record with `id` (or `_id`), `text`, and maybe `title`, `metadata`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kb_pipeline.errors import DocumentRefused
from kb_pipeline.sources.document import bad_id, shown
from kb_pipeline.sources.frontmatter import canonical_json, clean_text, json_value
from kb_pipeline.sources.model import RefusedItem, SourceDocument, SourceItem

OWN = frozenset({"id", "_id", "text", "title", "metadata"})


@dataclass(frozen=True, slots=True)
class RecordItem(SourceItem):
    """An item that knows where its record stands, so that reading it needs no search."""

    place: int = -1
    """Byte offset of the line, or number of the row."""


def record_id(record: Mapping[str, Any]) -> str:
    """The record's id as text. Raises `DocumentRefused` for a record that has none or no text."""
    value = record.get("id", record.get("_id"))
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise DocumentRefused("no-id", "the record has no `id` (or `_id`) that is text or a whole number")
    if not isinstance(record.get("text"), str):
        raise DocumentRefused("no-text", f"record {shown(str(value))!r} has no `text` that is text")
    found = str(value)
    if problem := bad_id(found):
        raise DocumentRefused("record-id", f"{shown(found)!r}: {problem.replace('name', 'id')}")
    return found


def record_document(source: str, record: Mapping[str, Any], state: Mapping[str, Any]) -> SourceDocument:
    """The record as a document. Keys other than its own become metadata, below what `metadata` says itself.

    Where the text is blank, the title is the text: half of some BEIR collections is known by its titles only.
    """
    doc_id = record_id(record)
    text = clean_text(record["text"])
    raw_title = record.get("title")
    title = clean_text(raw_title).strip() if isinstance(raw_title, str) else ""
    if not text.strip():
        text, title = title, ""
    given = record.get("metadata")
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except (ValueError, RecursionError):
            given = {"metadata": given}
    extra = {key: value for key, value in record.items() if key not in OWN and value is not None}
    metadata = json_value({**extra, **(given if isinstance(given, Mapping) else {})})
    return SourceDocument(
        doc_id=doc_id,
        uri=f"{source}#{doc_id}",
        text=text,
        format="record",
        content_sha256=hashlib.sha256(canonical_json([text, title])).digest(),
        metadata=metadata,
        title=title or None,
        state=state,
    )


def refused_record(source: str, where: str, refused: DocumentRefused) -> RefusedItem:
    """The quarantined record at `where` (`line 7`, `row 7`), which may have no id of its own."""
    return RefusedItem(f"({where})", f"{source}#{where.replace(' ', '-')}", refused.reason, refused.detail)


def duplicate(source: str, doc_id: str, where: str) -> RefusedItem:
    """The quarantined later one of two records with the same id."""
    detail = f"the id {doc_id!r} was given before; the first record with it is indexed"
    return refused_record(source, where, DocumentRefused("duplicate-id", detail))
