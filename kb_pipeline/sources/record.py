"""One record (`id`, `text`, optional `title` and `metadata`) to a `SourceDocument`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from kb_pipeline.errors import DocumentRefused
from kb_pipeline.sources.frontmatter import canonical_json, clean_text, json_value
from kb_pipeline.sources.model import SourceDocument, SourceItem

ID_KEYS = ("id", "_id")
"""`_id` is what BEIR calls it."""


def record_id(record: Mapping[str, Any]) -> str:
    """The record's id as text. Raises `DocumentRefused` where it has none."""
    for key in ID_KEYS:
        value = record.get(key)
        if isinstance(value, str | int) and not isinstance(value, bool) and str(value):
            return clean_text(str(value))
    raise DocumentRefused("no-id", f"the record has no `id` (or `_id`); its keys are {', '.join(map(str, record)) or 'none'}")


def document_of_record(item: SourceItem, record: Mapping[str, Any], state: Mapping[str, Any]) -> SourceDocument:
    """The record as a document; its text is read as Markdown. Raises `DocumentRefused`."""
    text, title, metadata = record.get("text"), record.get("title"), record.get("metadata")
    if not isinstance(text, str):
        raise DocumentRefused("no-text", f"`text` is {type(text).__name__}, not a string")
    if metadata is not None and not isinstance(metadata, Mapping):
        raise DocumentRefused("metadata", f"`metadata` is {type(metadata).__name__}, not an object")
    text = clean_text(text)
    heading = clean_text(title).strip() or None if isinstance(title, str) else None
    known: dict[str, Any] = json_value(metadata or {})
    if heading:
        known.setdefault("title", heading)
    return SourceDocument(
        doc_id=item.doc_id,
        uri=item.uri,
        text=text,
        format="record",
        content_sha256=hashlib.sha256(canonical_json({"text": text, "title": heading})).digest(),
        metadata=known,
        title=heading,
        state=state,
    )
