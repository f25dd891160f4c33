"""HTML to Markdown, through markdownify: what people read of a page, with its headings, lists, tables and code."""

from __future__ import annotations

from kb_pipeline.errors import DocumentRefused
from kb_pipeline.sources.frontmatter import clean_text

UNREAD = ("script", "style", "noscript", "template", "svg", "iframe")
"""Elements nobody reads."""


def html_to_markdown(data: bytes) -> tuple[str, str | None]:
    """The page as Markdown, and its title. The encoding is the one the page declares. Raises `DocumentRefused`."""
    from bs4 import BeautifulSoup
    from markdownify import MarkdownConverter

    try:
        page = BeautifulSoup(data, "lxml")
        title = page.title.get_text(" ", strip=True) if page.title else None
        for element in page([*UNREAD, "title"]):
            element.decompose()
        text = str(MarkdownConverter(heading_style="ATX", bullets="-").convert_soup(page))
    except RecursionError as error:
        raise DocumentRefused("html", "its elements are nested too deep") from error
    return clean_text(text), clean_text(title) if title else None
