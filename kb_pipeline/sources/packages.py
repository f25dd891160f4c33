"""The documentation of the Python packages installed here: READMEs from their metadata, docstrings of their modules."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any, cast

from kb_pipeline.errors import ConfigError, DocumentRefused
from kb_pipeline.sources.docstrings import module_markdown
from kb_pipeline.sources.frontmatter import clean_text
from kb_pipeline.sources.model import RefusedItem, SourceDocument, SourceItem

MODULES_EACH = 8
"""Modules taken of one package, those nearest to its top; a demo needs variety, not all of scipy."""
LONGEST_MODULE = 150_000
"""Bytes; longer ones are generated code as a rule."""
PRIVATE = re.compile(
    r"(^|/)(_[^/]*|tests?|testing|conftest|examples?|vendor|vendored|third_party|migrations|benchmarks?|docs?)(/|\.py$)"
)
README_FORMATS = {"text/markdown": "record", "text/plain": "text"}


@dataclass(frozen=True, slots=True)
class PackagesSource:
    """`packages:` for all distributions of this environment, `packages:numpy,pandas` for some."""

    names: str = ""

    def list(self) -> Iterator[SourceItem | RefusedItem]:
        """READMEs as `NAME/README`, modules as `NAME/path/of/module.py`. Raises `ConfigError` for an unknown name."""
        for name, distribution in self._distributions():
            root = Path(str(distribution.locate_file("")))
            state = {"version": distribution.version, "source": 1}
            yield SourceItem(f"{name}/README", f"{root}#{name}", state)
            for path in _modules(distribution):
                try:
                    info = os.stat(root / path)
                except OSError:
                    continue
                if 0 < info.st_size <= LONGEST_MODULE:
                    own = {**state, "size": info.st_size, "mtime_ns": info.st_mtime_ns}
                    yield SourceItem(f"{name}/{path}", str(root / path), own)

    def read(self, item: SourceItem) -> SourceDocument:
        """The README, or a module's docstrings as Markdown. Raises `DocumentRefused`."""
        name, _, path = item.doc_id.partition("/")
        try:
            distribution = _distribution(name)
        except metadata.PackageNotFoundError as error:
            raise DocumentRefused("vanished", f"the package {name} is no longer installed") from error
        about: dict[str, Any] = {"package": name, "version": distribution.version}
        if path == "README":
            text, format_ = _readme(distribution)
            about["part"] = "readme"
        else:
            text, format_ = module_markdown(Path(str(distribution.locate_file(path))), _dotted(path)), "record"
            about.update(part="module", module=_dotted(path))
        text = clean_text(text)
        digest = hashlib.sha256(text.encode()).digest()
        return SourceDocument(item.doc_id, item.uri, text, format_, digest, about, title=None, state=item.state)

    def _distributions(self) -> list[tuple[str, metadata.Distribution]]:
        wanted = {_normal(name) for name in self.names.split(",") if name.strip()}
        found: dict[str, metadata.Distribution] = {}
        for distribution in metadata.distributions():
            name = _normal(distribution.metadata["Name"] or "")
            if name and (not wanted or name in wanted):
                found.setdefault(name, distribution)
        if missing := wanted - set(found):
            raise ConfigError(f"no package of this name is installed: {', '.join(sorted(missing))}")
        return sorted(found.items())


_distribution = lru_cache(maxsize=500)(metadata.distribution)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def _modules(distribution: metadata.Distribution) -> list[str]:
    """Paths of the public modules nearest to the top, from the RECORD file."""
    record = distribution.read_text("RECORD") or ""
    paths = [line.split(",", 1)[0] for line in record.splitlines() if ".py," in line]
    public = [path for path in paths if path.endswith(".py") and "/" in path and _is_public(path)]
    return sorted(sorted(public, key=lambda path: (path.count("/"), path))[:MODULES_EACH])


def _is_public(path: str) -> bool:
    return not path.startswith(("..", "/")) and not PRIVATE.search(path.replace("/__init__.py", "/init.py"))


def _dotted(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _readme(distribution: metadata.Distribution) -> tuple[str, str]:
    fields = cast("Message", distribution.metadata)
    body: Any = fields.get_payload()
    text = body if isinstance(body, str) and body.strip() else str(fields.get("Description") or "")
    summary = str(fields.get("Summary") or "").strip()
    kind = str(fields.get("Description-Content-Type") or "").split(";")[0].strip().lower()
    if not text.strip() or text.strip() == "UNKNOWN":
        return summary, "text"
    return text, README_FORMATS.get(kind, "rst")
