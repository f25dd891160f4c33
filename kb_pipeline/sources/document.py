"""A file's bytes as a document: decoded, its front matter read, converted where its format needs that."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from kb_pipeline.errors import DocumentRefused
from kb_pipeline.sources.decode import decode
from kb_pipeline.sources.formats import format_of
from kb_pipeline.sources.frontmatter import read_front_matter, title_of
from kb_pipeline.sources.model import SourceDocument

LONGEST_ID = 1500
"""Bytes of a `doc_id`; Postgres holds index keys of up to some 2,700."""


def as_document(doc_id: str, uri: str, data: bytes, state: Mapping[str, Any]) -> SourceDocument:
    """The decoded document. Raises `DocumentRefused`."""
    format_ = format_of(doc_id) or "text"
    metadata: dict[str, Any] = {}
    match format_:
        case "office":
            from kb_pipeline.sources.office import office_markdown

            text = office_markdown(doc_id, data)
        case "html":
            from kb_pipeline.sources.html import html_markdown

            text, metadata = html_markdown(decode(data, html=True))
        case "notebook":
            from kb_pipeline.sources.notebook import notebook_markdown

            text, metadata = notebook_markdown(decode(data))
        case "markdown":
            text = decode(data)
            metadata = read_front_matter(text)
        case _:
            text = decode(data)
    return SourceDocument(
        doc_id=doc_id,
        uri=uri,
        text=text,
        format=format_,
        content_sha256=hashlib.sha256(data).digest(),
        metadata=metadata,
        title=title_of(metadata),
        state=state,
    )


def bad_id(doc_id: str) -> str | None:
    """Why this cannot be a `doc_id`: not UTF-8, control characters, too long; None when it can."""
    try:
        size = len(doc_id.encode())
    except UnicodeEncodeError:
        return "the name is not valid UTF-8: rename it"
    if size > LONGEST_ID:
        return f"the name has {size} bytes; at most {LONGEST_ID} are possible"
    if any(character < " " or character == "\x7f" for character in doc_id):
        return "the name holds control characters: rename it"
    return None if doc_id else "the name is empty"


def shown(doc_id: str) -> str:
    """The id with everything escaped that a database or a terminal cannot take, cut to a length that can be stored."""
    plain = doc_id.encode("utf-8", "backslashreplace").decode()
    plain = "".join(c if c >= " " and c != "\x7f" else f"\\x{ord(c):02x}" for c in plain)
    return plain if len(plain.encode()) <= LONGEST_ID else plain[:300] + "…"


def too_large(size: int, max_file_mb: float) -> DocumentRefused | None:
    """The refusal of a file of `size` bytes over the configured limit."""
    if size <= max_file_mb * 1_000_000:
        return None
    return DocumentRefused("too-large", f"{size / 1e6:.1f} MB; sources.max_file_mb allows {max_file_mb:g}")
