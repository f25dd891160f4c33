"""`packages:`: the documentation of the Python packages installed here. Every machine has some, so the demo reads it."""

from __future__ import annotations

import ast
import hashlib
import warnings
from collections.abc import Iterator
from functools import lru_cache
from importlib.metadata import Distribution, PackagePath, distributions
from pathlib import Path

from kb_pipeline.errors import DocumentRefused
from kb_pipeline.sources.frontmatter import clean_text
from kb_pipeline.sources.model import RefusedItem, SourceDocument, SourceItem

URL = "packages:"
MODULES_PER_PACKAGE = 25
"""The modules nearest to the top of a package: where its public names are."""
LARGEST_MODULE = 150_000
"""Bytes; larger ones are generated as a rule."""
NOT_PUBLIC = frozenset({"test", "tests", "testing", "vendor", "vendored", "_vendor", "locale", "migrations"})


class PackagesSource:
    """A README for each distribution and a document of docstrings for each public module. Nothing is imported."""

    def list(self) -> Iterator[SourceItem | RefusedItem]:
        """READMEs and modules, by package name."""
        seen: set[str] = set()
        for package in sorted(distributions(), key=lambda one: one.name.lower()):
            name = package.name.lower()
            if name in seen:
                continue
            seen.add(name)
            if (package.metadata.get_payload() or "") or package.metadata.get("Description"):
                yield SourceItem(f"{name}/README", f"{URL}{name}", {"version": package.version})
            for module in _modules(package):
                path = Path(str(package.locate_file(module)))
                try:
                    info = path.stat()
                    documented = info.st_size <= LARGEST_MODULE and b'"""' in path.read_bytes()
                except OSError:
                    continue
                if documented:
                    state = {"path": str(path), "size": info.st_size, "mtime_ns": info.st_mtime_ns}
                    yield SourceItem(f"{name}/{_dotted(module)}", str(path), state)

    def read(self, item: SourceItem) -> SourceDocument:
        """The README, or the module's docstrings under their names as headings. Raises `DocumentRefused`."""
        package, _, what = item.doc_id.partition("/")
        path = item.state.get("path")
        text = _readme(package) if path is None else _docstrings(str(path), what, int(item.state["mtime_ns"]))
        return SourceDocument(
            doc_id=item.doc_id,
            uri=item.uri,
            text=text,
            format="markdown",
            content_sha256=hashlib.sha256(text.encode()).digest(),
            metadata={"package": package, "kind": "readme" if path is None else "module"},
            title=what if path else package,
            state=item.state,
        )


def _modules(package: Distribution) -> list[PackagePath]:
    public = [
        path
        for path in package.files or ()
        if path.suffix == ".py"
        and ".." not in path.parts
        and not any(part.startswith("_") and part != "__init__.py" or part in NOT_PUBLIC for part in path.parts)
        and not path.name.startswith(("test_", "conftest"))
    ]
    return sorted(public, key=lambda path: (len(path.parts), str(path)))[:MODULES_PER_PACKAGE]


def _dotted(path: PackagePath) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def _readme(package: str) -> str:
    found = next(iter(distributions(name=package)), None)
    if found is None:
        raise DocumentRefused("gone", f"the package {package} is not installed any more")
    text = str(found.metadata.get_payload() or found.metadata.get("Description") or "")
    return clean_text(text.encode("utf-8", "replace").decode())


@lru_cache(maxsize=8192)
def _docstrings(path: str, module: str, mtime_ns: int) -> str:  # noqa: ARG001 (part of the key)
    """Kept, because two stages read each document and parsing Python is what costs."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(Path(path).read_bytes())
    except (SyntaxError, ValueError, OSError, RecursionError) as error:
        raise DocumentRefused("python", f"it cannot be parsed: {error}") from error
    parts: list[str] = []
    if doc := ast.get_docstring(tree):
        parts.append(f"# {module}\n\n{doc}")
    for node in tree.body:
        parts += _documented(node, "", 2)
    return clean_text("\n\n".join(parts))


def _documented(node: ast.stmt, owner: str, level: int) -> Iterator[str]:
    if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) or node.name.startswith("_"):
        return
    name = f"{owner}{node.name}"
    if doc := ast.get_docstring(node):
        signature = name if isinstance(node, ast.ClassDef) else f"{name}({ast.unparse(node.args)})"
        yield f"{'#' * level} {name}\n\n`{signature}`\n\n{doc}"
    if isinstance(node, ast.ClassDef):
        for inner in node.body:
            yield from _documented(inner, f"{name}.", level + 1)
