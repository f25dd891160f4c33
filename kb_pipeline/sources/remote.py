"""A folder behind an fsspec URL (s3, gs, az, https, ...)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kb_pipeline.config.schema import TenantConfig
from kb_pipeline.errors import ConfigError, DocumentRefused, SourceError
from kb_pipeline.sources.document import document_of
from kb_pipeline.sources.folder import too_large
from kb_pipeline.sources.model import RefusedItem, SourceDocument, SourceItem
from kb_pipeline.sources.selection import IGNORE_FILE, Selection

EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "az": "azure", "abfs": "azure", "http": "http", "https": "http"}
STATE_KEYS = {"etag": "etag", "md5hash": "etag", "content-md5": "etag", "generation": "etag", "lastmodified": "mtime", "mtime": "mtime", "updated": "mtime", "created": "mtime"}  # fmt: skip
"""What object stores call what tells one version of an object from another (lower case)."""


def file_system(url: str) -> tuple[Any, str]:
    """The fsspec file system and the path in it. Raises `ConfigError` naming the extra that is missing."""
    import fsspec.core

    scheme = url.split("://", 1)[0]
    try:
        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        extra = EXTRAS.get(scheme, scheme)
        raise ConfigError(f'{url} needs a package that is not installed: pip install "kb-pipeline[{extra}]"') from error
    except ValueError as error:
        raise ConfigError(f"{url}: fsspec knows no {scheme}://. Known are file, s3, gs, az, http, https, ...") from error


class RemoteSource:
    """Objects under a URL that the selection takes."""

    def __init__(self, url: str, config: TenantConfig) -> None:
        self._url = url
        self._scheme = url.split("://", 1)[0]
        self._fs, root = file_system(url)
        self._root = root.rstrip("/")
        self._max_bytes = int(config.sources.max_file_mb * 1_000_000)
        rules = f"{self._root}/{IGNORE_FILE}"
        own = self._fs.cat_file(rules).decode("utf-8", "replace").splitlines() if self._fs.exists(rules) else []
        self._selection = Selection(config.patterns, [*own, *config.ignore])

    def list(self) -> Iterator[SourceItem | RefusedItem]:
        """Every object that is taken. Raises `SourceError` when the URL cannot be listed."""
        try:
            found: dict[str, dict[str, Any]] = self._fs.find(self._root, detail=True)
        except Exception as error:  # each fsspec implementation has errors of its own
            raise SourceError(f"{self._url} cannot be listed: {type(error).__name__}: {error}") from error
        if not found and not self._fs.exists(self._root):
            raise SourceError(f"{self._url} is not there (any more): nothing was changed")
        for path, info in sorted(found.items()):
            doc_id = path[len(self._root) :].lstrip("/") or path.rpartition("/")[2]
            uri = path if "://" in path else f"{self._scheme}://{path.lstrip('/')}"
            if self._selection.format_of(doc_id) is None:
                continue
            size = int(info.get("size") or 0)
            if size > self._max_bytes:
                yield RefusedItem(doc_id, uri, "too-large", too_large(size, self._max_bytes))
            else:
                yield SourceItem(doc_id, uri, version_of(info))

    def read(self, item: SourceItem) -> SourceDocument:
        """The decoded object. Raises `DocumentRefused`."""
        try:
            data: bytes = self._fs.cat_file(f"{self._root}/{item.doc_id}")
        except Exception as error:
            raise DocumentRefused("unreadable", f"it cannot be read: {type(error).__name__}: {error}") from error
        if len(data) > self._max_bytes:
            raise DocumentRefused("too-large", too_large(len(data), self._max_bytes))
        return document_of(item, data, self._selection.format_of(item.doc_id) or "text", item.state)


def version_of(info: Mapping[str, Any]) -> dict[str, Any]:
    """Size and what tells versions apart; empty (always read) when the store tells nothing but the size."""
    known = {STATE_KEYS[key.lower()]: str(value) for key, value in info.items() if key.lower() in STATE_KEYS and value}
    return {"size": info.get("size"), **known} if known else {}
