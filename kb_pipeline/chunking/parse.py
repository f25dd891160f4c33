"""Which parser reads which format. Each gives one tree that holds all visible characters of the body."""

from __future__ import annotations

from collections.abc import Callable

from kb_pipeline.chunking.blocks import Block, trimmed
from kb_pipeline.sources.model import SourceDocument

Parser = Callable[[str, int, int], list[Block]]
"""(text, start, end of the body) -> the body's top-level blocks, in order."""

MARKDOWN = frozenset({"markdown", "record", "html", "notebook", "office"})
"""Formats whose text is Markdown: HTML, notebooks and office files are converted when they are read."""
PROSE = MARKDOWN | {"rst", "text"}
"""Formats in which text between two blocks is a paragraph; in the others it is a comma or a bracket."""


def parse(document: SourceDocument) -> Block:
    """The document as a tree, its front matter left out; a title counts as the first heading where it has no other."""
    text = document.text
    start = 0
    if document.format == "markdown":
        from kb_pipeline.sources.frontmatter import body_start

        start = body_start(text)
    first, last = trimmed(text, start, len(text))
    parts = _parser(document.format)(text, first, last) if first < last else []
    title = None if _has_own_title(parts) else heading_text(document.title or "")
    structured = document.format in PROSE
    root = Block(first, last, "document" if structured else "source", parts=parts or None)
    if title:
        root.path = (title,)
    return root


def heading_text(raw: str) -> str:
    """A heading as it stands on a path: one line, at most 120 characters, cut between words."""
    line = " ".join(raw.split())
    if len(line) <= 120:
        return line
    return line[:119].rsplit(" ", 1)[0] + "…"


def _has_own_title(parts: list[Block]) -> bool:
    """Whether the text names itself: with a first-level heading (Markdown, reStructuredText)."""
    return any(part.kind == "section" and part.level == 1 for part in parts)


def _parser(format_: str) -> Parser:
    if format_ in MARKDOWN:
        from kb_pipeline.chunking.markdown import parse_markdown

        return parse_markdown
    if format_ == "rst":
        from kb_pipeline.chunking.rst import parse_rst

        return parse_rst
    if format_ == "csv":
        from kb_pipeline.chunking.plain import parse_csv

        return parse_csv
    language = format_.removeprefix("code:")
    if language != format_ or format_ in ("json", "yaml", "xml"):
        from kb_pipeline.chunking.syntax import parse_syntax

        return lambda text, start, end: parse_syntax(text, start, end, language)
    from kb_pipeline.chunking.plain import parse_plain

    return parse_plain
