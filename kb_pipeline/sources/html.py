"""HTML to Markdown: headings, paragraphs, lists, tables and code of the page's content, without its machinery."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from kb_pipeline.errors import DocumentRefused

DROPPED = frozenset(
    "script style noscript template svg canvas iframe object nav head form button select input textarea".split()
)
BLOCKS = frozenset(
    "address article aside blockquote body center dd details dialog div dl dt fieldset figcaption figure footer header "
    "hgroup hr html li main ol p pre section summary table ul h1 h2 h3 h4 h5 h6".split()
)
SPACE = re.compile(r"[ \t\r\n\f]+")
DEEPEST = 150
"""Levels of elements that are followed; below, only their text is taken."""


def html_markdown(source: str) -> tuple[str, dict[str, Any]]:
    """The content as Markdown, and `title`, `description`, `lang` where the page names them.

    `<main>` (or the only `<article>`) is the content where there is one, else the whole body. Raises
    `DocumentRefused` for what no HTML parser accepts.
    """
    from lxml import etree
    from lxml import html as lxml_html

    if not source.strip():
        return "", {}
    parser = lxml_html.HTMLParser(encoding="utf-8", remove_comments=True, remove_pis=True)
    try:
        root: Any = lxml_html.document_fromstring(  # pyright: ignore[reportUnknownMemberType]
            source.encode("utf-8", "replace"), parser=parser
        )
    except (etree.ParserError, etree.XMLSyntaxError, ValueError) as error:
        if not re.sub(r"<[^>]*>", "", source).strip():
            return "", {}
        raise DocumentRefused("broken-html", f"the page cannot be parsed: {str(error)[:200]}") from error
    metadata: dict[str, Any] = {}
    title = root.findtext(".//title")
    if title and title.strip():
        metadata["title"] = SPACE.sub(" ", title).strip()
    description = root.find(".//meta[@name='description']")
    if description is not None and description.get("content"):
        metadata["description"] = str(description.get("content"))
    if root.get("lang"):
        metadata["lang"] = str(root.get("lang"))
    content = root.find(".//main")
    if content is None:
        articles = root.findall(".//article")
        content = articles[0] if len(articles) == 1 else root
    return "\n\n".join(_blocks(content, 0)) + "\n", metadata


def _blocks(element: Any, depth: int) -> Iterator[str]:
    """Markdown blocks of the element's content, in order."""
    run: list[str] = [element.text or ""]
    for child in element:
        tag = child.tag if isinstance(child.tag, str) else ""
        if tag in DROPPED or not tag:
            pass
        elif tag in BLOCKS or (depth < DEEPEST and any(c.tag in BLOCKS for c in child)):
            yield from _paragraph(run)
            run = []
            yield from _block(child, tag, depth + 1)
        else:
            run.append(_inline(child, tag, depth + 1))
        run.append(child.tail or "")
    yield from _paragraph(run)


def _paragraph(run: list[str]) -> Iterator[str]:
    lines = [SPACE.sub(" ", line).strip() for line in "".join(run).split("\v")]
    text = "\n".join(line for line in lines if line)
    if text:
        yield text


def _inline(element: Any, tag: str, depth: int) -> str:
    if tag == "br":
        return "\v"
    if tag == "img":
        return str(element.get("alt") or "")
    if depth > DEEPEST:
        return "".join(element.itertext())
    parts = [element.text or ""]
    for child in element:
        name = child.tag if isinstance(child.tag, str) else ""
        if name and name not in DROPPED:
            parts.append(_inline(child, name, depth + 1))
        parts.append(child.tail or "")
    text = "".join(parts)
    return f"`{text.strip()}`" if tag in ("code", "kbd", "samp", "tt") and text.strip() and "`" not in text else text


def _block(element: Any, tag: str, depth: int) -> Iterator[str]:
    if depth > DEEPEST:
        yield from _paragraph(["".join(element.itertext())])
    elif tag in ("h1", "h2", "h3", "h4", "h5", "h6"):
        text = " ".join(_blocks(element, depth)).replace("\n", " ")
        if text:
            yield f"{'#' * int(tag[1])} {text}"
    elif tag == "pre":
        text = "".join(element.itertext()).strip("\n")
        if text.strip():
            fence = "````" if "```" in text else "```"
            yield f"{fence}\n{text}\n{fence}"
    elif tag in ("ul", "ol"):
        marker = "1. " if tag == "ol" else "- "
        items = [_item(item, marker if item.tag == "li" else "", depth) for item in element if item.tag not in DROPPED]
        yield from ("\n".join(item for item in items if item),) if any(items) else ()
    elif tag == "table":
        yield from _table(element, depth)
    elif tag == "blockquote":
        for block in _blocks(element, depth):
            yield "\n".join(f"> {line}" for line in block.split("\n"))
    elif tag != "hr":
        yield from _blocks(element, depth)


def _item(element: Any, marker: str, depth: int) -> str:
    inner = "\n\n".join(_blocks(element, depth))
    if not inner:
        return ""
    indent = " " * len(marker)
    lines = inner.split("\n")
    return "\n".join([marker + lines[0], *(indent + line if line else "" for line in lines[1:])])


def _table(table: Any, depth: int) -> Iterator[str]:
    caption = table.find("caption")
    if caption is not None:
        yield from _blocks(caption, depth)
    rows: list[list[str]] = []
    direct = [row for part in table.iterchildren("thead", "tbody", "tfoot", "tr") for row in _rows(part)]
    for row in direct:
        texts = [" ".join(_blocks(cell, depth)) for cell in row.iterchildren("td", "th")]
        cells = [text.replace("\n", " ").replace("|", "\\|") for text in texts]
        if any(cells):
            rows.append(cells)
    if not rows:
        return
    width = max(len(row) for row in rows)
    if width == 1:
        yield from (row[0] for row in rows)
        return
    lines = [f"| {' | '.join([*row, *[''] * (width - len(row))])} |" for row in rows]
    yield "\n".join([lines[0], "|" + " --- |" * width, *lines[1:]])


def _rows(part: Any) -> list[Any]:
    return [part] if part.tag == "tr" else list(part.iterchildren("tr"))
