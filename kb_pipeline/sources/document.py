"""Bytes of one file to a `SourceDocument`: decoding, conversion to text, front matter."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from kb_pipeline.sources.decode import decode
from kb_pipeline.sources.frontmatter import read_front_matter, title_of
from kb_pipeline.sources.model import SourceDocument, SourceItem


def document_of(item: SourceItem, data: bytes, format_: str, state: Mapping[str, Any]) -> SourceDocument:
    """The decoded document. HTML, notebooks and office files are converted to Markdown, and offsets refer to that.

    Raises `DocumentRefused`.
    """
    metadata: dict[str, Any] = {}
    title: str | None = None
    match format_:
        case "html":
            from kb_pipeline.sources.html import html_to_markdown

            text, title = html_to_markdown(data)
        case "notebook":
            from kb_pipeline.sources.notebook import notebook_to_markdown

            text = notebook_to_markdown(decode(data))
        case "office":
            from kb_pipeline.sources.office import office_to_markdown

            text = office_to_markdown(data, item.doc_id)
        case _:
            text = decode(data)
            if format_ == "markdown":
                metadata = read_front_matter(text)
                title = title_of(metadata)
    return SourceDocument(
        doc_id=item.doc_id,
        uri=item.uri,
        text=text,
        format=format_,
        content_sha256=hashlib.sha256(data).digest(),
        metadata=metadata,
        title=title,
        state=state,
    )
