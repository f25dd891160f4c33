"""Any fsspec URL: object stores, web servers, archives, memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, cast

from kb_pipeline.errors import ConfigError, DocumentRefused, SourceError
from kb_pipeline.sources.document import as_document, bad_id, shown, too_large
from kb_pipeline.sources.frontmatter import json_value
from kb_pipeline.sources.ignore import selection
from kb_pipeline.sources.jsonl import JsonLinesSource
from kb_pipeline.sources.model import RefusedItem, Source, SourceDocument, SourceItem
from kb_pipeline.sources.parquet import ParquetSource

EXTRAS = {
    "s3": "s3",
    "s3a": "s3",
    "gs": "gs",
    "gcs": "gs",
    "abfs": "azure",
    "abfss": "azure",
    "az": "azure",
    "http": "http",
    "https": "http",
}
STATE_KEYS = ("size", "mtime", "LastModified", "last_modified", "updated", "created", "ETag", "etag", "md5Hash")
"""What file systems call the time of change, or a hash, in their listings."""


def open_remote(url: str, patterns: tuple[str, ...], ignore: tuple[str, ...], max_file_mb: float) -> Source:
    """The source at an fsspec URL: everything below it, or the one file (or file of records) it names.

    Raises `ConfigError` naming the extra for a protocol whose package is missing, `SourceError` when nothing is there.
    """
    import fsspec  # pyright: ignore[reportMissingTypeStubs]

    protocols = url.split("://", 1)[0].lower().split("::")  # simplecache::s3://...
    try:
        fs, root = cast("tuple[Any, str]", fsspec.core.url_to_fs(url))  # pyright: ignore
    except ImportError as error:
        extra = next((EXTRAS[name] for name in protocols if name in EXTRAS), None)
        hint = f"pip install 'kb-pipeline[{extra}]'" if extra else str(error)
        raise ConfigError(f"the source {url!r} needs an extra package: {hint}") from error
    except ValueError as error:
        raise ConfigError(f"the source {url!r} is not a URL that can be read: {error}") from error
    except Exception as error:  # file systems raise their own client's errors here
        raise SourceError(f"the source {url!r} cannot be opened: {error}") from error
    name = PurePosixPath(root).name
    suffix = PurePosixPath(name).suffix.lower()
    if suffix in (".jsonl", ".ndjson"):
        return JsonLinesSource(url, lambda: fs.open(root, "rb"), max_file_mb)
    if suffix == ".parquet":
        return ParquetSource(url, lambda: fs.open(root, "rb"), max_file_mb)
    return RemoteSource(url.rstrip("/"), fs, root.rstrip("/"), patterns, ignore, max_file_mb)


@dataclass(slots=True)
class RemoteSource:
    """Files below a URL. An item's state is what the listing says of it; one without a time or hash is always read."""

    url: str
    fs: Any
    root: str
    patterns: tuple[str, ...]
    ignore: tuple[str, ...]
    max_file_mb: float

    def list(self) -> Iterator[SourceItem | RefusedItem]:
        """Files in the order of their names. Raises `SourceError` when the place cannot be listed."""
        self.fs.invalidate_cache()
        try:
            found: dict[str, dict[str, Any]] = self.fs.find(self.root, detail=True)
        except Exception as error:  # each file system has its own client's errors
            raise SourceError(f"the source {self.url} cannot be listed: {error}") from error
        if not found:
            try:
                there = bool(self.fs.exists(self.root))
            except Exception as error:
                raise SourceError(f"the source {self.url} cannot be reached: {error}") from error
            if not there:
                raise SourceError(f"the source {self.url} does not exist")
        select = selection(self.patterns, [*self._kbignore(), *self.ignore])
        only = set(found) == {self.root}
        for path in sorted(found):
            doc_id = PurePosixPath(path).name if only else self._doc_id(path)
            folders = [str(parent) for parent in PurePosixPath(doc_id).parents][:-1]
            if not only and (any(select.ignores(f, folder=True) for f in folders) or select.ignores(doc_id)):
                continue
            if not only and not select.takes(doc_id):
                continue
            uri = self.url if only else f"{self.url}/{doc_id}"
            size = found[path].get("size")
            if problem := bad_id(doc_id):
                yield RefusedItem(shown(doc_id), shown(uri), "file-name", problem)
            elif isinstance(size, int) and (refused := too_large(size, self.max_file_mb)):
                yield RefusedItem(doc_id, uri, refused.reason, refused.detail)
            else:
                yield SourceItem(doc_id, uri, _state(found[path]))

    def read(self, item: SourceItem) -> SourceDocument:
        """The decoded file. Raises `DocumentRefused` for one that is gone or cannot be read."""
        path = self.root if item.uri == self.url else f"{self.root}/{item.doc_id}"
        try:
            data: bytes = self.fs.cat_file(path)
        except FileNotFoundError as error:
            raise DocumentRefused("vanished", f"the file is no longer at {item.uri}") from error
        except Exception as error:  # each file system has its own client's errors
            raise DocumentRefused("unreadable", f"the file cannot be read: {str(error)[:300]}") from error
        if refused := too_large(len(data), self.max_file_mb):
            raise refused
        return as_document(item.doc_id, item.uri, data, item.state)

    def _doc_id(self, path: str) -> str:
        return path.removeprefix(self.root).lstrip("/")

    def _kbignore(self) -> list[str]:
        try:
            return self.fs.cat_file(f"{self.root}/.kbignore").decode("utf-8", "replace").splitlines()
        except Exception:  # absent, or not allowed: no rules
            return []


def _state(info: dict[str, Any]) -> dict[str, Any]:
    state = {key: json_value(info[key]) for key in STATE_KEYS if info.get(key) is not None}
    return state if len(state) > 1 else {}
