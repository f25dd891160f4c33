"""A local folder, or one file of it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kb_pipeline.config.schema import TenantConfig
from kb_pipeline.errors import DocumentRefused, SourceError
from kb_pipeline.sources.document import document_of
from kb_pipeline.sources.model import RefusedItem, SourceDocument, SourceItem
from kb_pipeline.sources.selection import IGNORE_FILE, Selection


class FolderSource:
    """Files under a root that the selection takes. Links are followed, but never in a circle."""

    def __init__(self, root: Path, config: TenantConfig) -> None:
        self._root = root
        self._max_bytes = int(config.sources.max_file_mb * 1_000_000)
        rules = root / IGNORE_FILE
        own = rules.read_text("utf-8", "replace").splitlines() if rules.is_file() else []
        self._selection = Selection(config.patterns, [*own, *config.ignore])

    def list(self) -> Iterator[SourceItem | RefusedItem]:
        """Every file that is taken, folder by folder in the order of names. Raises `SourceError` when the root is gone."""
        if not self._root.is_dir():
            raise SourceError(f"the source folder {self._root} is not there (any more): nothing was changed")
        return self._walk(str(self._root), "", (os.path.realpath(self._root),))

    def read(self, item: SourceItem) -> SourceDocument:
        """The decoded file. Raises `DocumentRefused`."""
        path = os.path.join(self._root, item.doc_id)
        format_ = self._selection.format_of(item.doc_id) or "text"
        data, state = read_file(path, self._max_bytes)
        return document_of(item, data, format_, state)

    def _walk(self, folder: str, prefix: str, inside: tuple[str, ...]) -> Iterator[SourceItem | RefusedItem]:
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            yield RefusedItem(prefix or ".", folder, "unreadable", f"the folder cannot be listed: {error.strerror}")
            return
        for entry in entries:
            doc_id = f"{prefix}{entry.name}"
            try:
                yield from self._entry(entry, doc_id, inside)
            except OSError as error:
                if self._selection.wants(doc_id):
                    yield RefusedItem(doc_id, entry.path, *_in_words(entry, error))

    def _entry(
        self, entry: os.DirEntry[str], doc_id: str, inside: tuple[str, ...]
    ) -> Iterator[SourceItem | RefusedItem]:
        if entry.is_dir():
            if not self._selection.enters(doc_id):
                return
            real = os.path.realpath(entry.path) if entry.is_symlink() else os.path.join(inside[-1], entry.name)
            if real in inside:
                yield RefusedItem(doc_id, entry.path, "symlink-loop", f"it points to {real}, which contains it")
            else:
                yield from self._walk(entry.path, f"{doc_id}/", (*inside, real))
            return
        info = entry.stat()
        if not stat.S_ISREG(info.st_mode):
            if self._selection.wants(doc_id):
                detail = "a pipe, socket or device, not a regular file"
                yield RefusedItem(doc_id, entry.path, "not-a-file", detail)
        elif self._selection.format_of(doc_id) is None:
            return
        elif info.st_size > self._max_bytes:
            yield RefusedItem(doc_id, entry.path, "too-large", too_large(info.st_size, self._max_bytes))
        else:
            yield SourceItem(doc_id, entry.path, {"size": info.st_size, "mtime_ns": info.st_mtime_ns})


def read_file(path: str, max_bytes: int) -> tuple[bytes, dict[str, Any]]:
    """A regular file's bytes and the state they were read in. Raises `DocumentRefused`."""
    try:
        # Not blocking: a pipe that took the file's place since it was listed must not stop the run.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise DocumentRefused("unreadable", f"the file cannot be opened: {error.strerror}") from error
    with os.fdopen(descriptor, "rb") as file:
        info = os.fstat(descriptor)
        if not stat.S_ISREG(info.st_mode):
            raise DocumentRefused("not-a-file", "a pipe, socket or device, not a regular file")
        if info.st_size > max_bytes:
            raise DocumentRefused("too-large", too_large(info.st_size, max_bytes))
        try:
            data = file.read()
        except OSError as error:
            raise DocumentRefused("unreadable", f"the file cannot be read: {error.strerror}") from error
    return data, {"size": info.st_size, "mtime_ns": info.st_mtime_ns}


def too_large(size: int, max_bytes: int) -> str:
    """Words for a file over the limit."""
    return f"{size / 1e6:.1f} MB; the most is {max_bytes / 1e6:g} MB: split it, or raise sources.max_file_mb"


def _in_words(entry: os.DirEntry[str], error: OSError) -> tuple[str, str]:
    import errno

    if error.errno == errno.ELOOP:
        return "symlink-loop", "its links lead in a circle"
    if entry.is_symlink():
        return "broken-link", f"its target cannot be reached: {error.strerror}"
    return "unreadable", f"it cannot be looked at: {error.strerror}"
