"""A Python module's public docstrings as one Markdown text, read without importing it."""

from __future__ import annotations

import ast
import inspect
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

from kb_pipeline.errors import DocumentRefused

UNDERLINED = re.compile(r"^([^\S\n]*)(\S[^\n]{0,60})\n[^\S\n]*[-=~^]{3,}[ \t]*$", re.MULTILINE)
"""A section title as numpydoc writes it; as a Markdown heading it would end the section it stands in."""
HASHES = re.compile(r"^(#{1,6}\s)", re.MULTILINE)

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def module_markdown(path: Path, name: str) -> str:
    """Headings are the qualified names, below each its signature and docstring; "" without any docstring.

    Raises `DocumentRefused` for a file that cannot be read or is not Python.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise DocumentRefused("unreadable", f"the module cannot be parsed: {error}") from error
    parts = [_text(doc)] if (doc := ast.get_docstring(tree)) else []
    for node in tree.body:
        if isinstance(node, Definition) and not node.name.startswith("_"):
            parts.extend(_described(node, name, 2))
    return "\n\n".join([f"# {name}", *parts]) + "\n" if parts else ""


def _described(node: Definition, prefix: str, level: int) -> Iterator[str]:
    qualified = f"{prefix}.{node.name}"
    doc = ast.get_docstring(node)
    members: list[str] = []
    if isinstance(node, ast.ClassDef) and level < 4:
        for member in node.body:
            if isinstance(member, Definition) and not member.name.startswith("_"):
                members.extend(_described(member, qualified, level + 1))
    if doc or members:
        yield f"{'#' * level} {qualified}"
        yield f"```python\n{_signature(node)}\n```"
        if doc:
            yield _text(doc)
        yield from members


def _signature(node: Definition) -> str:
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(ast.unparse(base) for base in node.bases)
        return f"class {node.name}({bases})" if bases else f"class {node.name}"
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    start = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
    return f"{start} {node.name}({ast.unparse(node.args)}){returns}"


def _text(doc: str) -> str:
    return HASHES.sub(r"\\\1", UNDERLINED.sub(r"\1**\2**\n", inspect.cleandoc(doc)))
