"""Jupyter notebooks to Markdown: the text cells, and the code cells as fenced code. Outputs are left out."""

from __future__ import annotations

import json
from typing import Any

from kb_pipeline.errors import DocumentRefused
from kb_pipeline.sources.frontmatter import clean_text


def notebook_to_markdown(text: str) -> str:
    """The notebook's cells, in order. Raises `DocumentRefused` for what is not a notebook."""
    try:
        notebook: Any = json.loads(text) if text.strip() else {"cells": []}
        cells: list[dict[str, Any]] = notebook["cells"]
        language = str(notebook.get("metadata", {}).get("kernelspec", {}).get("language", "python"))
        parts = [_cell(cell, language) for cell in cells]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DocumentRefused("notebook", f"it is not a Jupyter notebook (nbformat 4): {error}") from error
    return clean_text("\n\n".join(part for part in parts if part))


def _cell(cell: dict[str, Any], language: str) -> str:
    source = cell.get("source", "")
    body = (source if isinstance(source, str) else "".join(source)).strip("\n")
    if not body.strip() or cell["cell_type"] != "code":
        return body.strip()
    fence = "```"
    while fence in body:
        fence += "`"
    return f"{fence}{language}\n{body}\n{fence}"
