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
    cells: Any = notebook.get("cells") if isinstance(notebook, dict) else None
    if cells is None and isinstance(notebook, dict):
        sheets: Any = notebook.get("worksheets") or [{}]
        cells = sheets[0].get("cells") if isinstance(sheets, list) and isinstance(sheets[0], dict) else None
    if not isinstance(cells, list):
        raise DocumentRefused("broken-notebook", "the file holds no list of cells")
    about: Any = notebook.get("metadata")
    about = about if isinstance(about, dict) else {}
    info = about.get("language_info") or about.get("kernelspec") or {}
    language = info.get("name") or info.get("language") if isinstance(info, dict) else None
    language = language if isinstance(language, str) and language.isalnum() else "python"
    blocks = [block for cell in cells if isinstance(cell, dict) and (block := _block(cell, language))]
    metadata: dict[str, Any] = {"language": language}
    if isinstance(about.get("title"), str):
        metadata["title"] = clean_text(about["title"])
    return clean_text("\n\n".join(blocks)) + "\n", metadata


def _block(cell: dict[str, Any], language: str) -> str:
    source: Any = cell.get("source", cell.get("input", ""))
    text = "".join(map(str, source)) if isinstance(source, list) else str(source)
    if not text.strip():
        return ""
    match cell.get("cell_type"):
        case "code":
            fence = "````" if "```" in text else "```"
            return f"{fence}{language}\n{text.rstrip()}\n{fence}"
        case "heading":
            return f"{'#' * int(cell.get('level', 1))} {text.strip()}"
        case _:
            return text.rstrip()
