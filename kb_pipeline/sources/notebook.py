"""Jupyter notebooks: Markdown cells as they are, code cells as fenced code; outputs are left out."""

from __future__ import annotations

import json
from typing import Any

from kb_pipeline.errors import DocumentRefused
from kb_pipeline.sources.frontmatter import clean_text


def notebook_markdown(source: str) -> tuple[str, dict[str, Any]]:
    """The cells as one Markdown text, and `language` and `title` where the notebook names them.

    Raises `DocumentRefused` for what is not a notebook of format 3 or later.
    """
    if not source.strip():
        return "", {}
    try:
        notebook: Any = json.loads(source)
    except (ValueError, RecursionError) as error:
        raise DocumentRefused("broken-notebook", f"the notebook is not JSON: {str(error)[:200]}") from error
    top = _object(notebook)
    sheets = _items(top.get("worksheets"))
    cells = top.get("cells", _object(sheets[0]).get("cells") if sheets else None)
    if not isinstance(cells, list):
        raise DocumentRefused("broken-notebook", "the file holds no list of cells")
    about = _object(top.get("metadata"))
    info = _object(about.get("language_info")) or _object(about.get("kernelspec"))
    named = info.get("language") or info.get("name")
    language = named if isinstance(named, str) and named.isalnum() else "python"
    blocks = [block for cell in _items(cells) if (block := _block(_object(cell), language))]
    metadata: dict[str, Any] = {"language": language}
    if isinstance(about.get("title"), str):
        metadata["title"] = clean_text(about["title"])
    return clean_text("\n\n".join(blocks)) + "\n", metadata


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}  # pyright: ignore[reportUnknownVariableType]


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []  # pyright: ignore[reportUnknownVariableType]


def _block(cell: dict[str, Any], language: str) -> str:
    source: Any = cell.get("source", cell.get("input", ""))
    text = "".join(map(str, _items(source))) if isinstance(source, list) else str(source)
    if not text.strip():
        return ""
    match cell.get("cell_type"):
        case "code":
            fence = "````" if "```" in text else "```"
            return f"{fence}{language}\n{text.rstrip()}\n{fence}"
        case "heading":
            level = cell.get("level")
            return f"{'#' * (level if isinstance(level, int) and 1 <= level <= 6 else 1)} {text.strip()}"
        case _:
            return text.rstrip()
