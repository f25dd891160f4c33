"""Local files: a folder with everything below it, or one file."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kb_pipeline.errors import DocumentRefused, SourceError
from kb_pipeline.sources.document import as_document, bad_id, shown, too_large
from kb_pipeline.sources.ignore import Selection, selection
from kb_pipeline.sources.model import RefusedItem, SourceDocument, SourceItem

SPECIAL = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@dataclass(slots=True)
class FolderSource:
    """Every selected file below a folder. Links to folders are followed once, after the real folders."""

    root: Path
    patterns: tuple[str, ...]
    ignore: tuple[str, ...]
    max_file_mb: float
    _seen: set[tuple[int, int]] = field(default_factory=set[tuple[int, int]])

    def list(self) -> Iterator[SourceItem | RefusedItem]:
        """Files in a fixed order. Raises `SourceError` when the folder itself cannot be read."""
        select = selection(self.patterns, [*_kbignore(self.root), *self.ignore])
        self._seen = set()
        try:
            os.scandir(self.root).close()
        except OSError as error:
            raise SourceError(f"the source folder {self.root} cannot be read: {error.strerror}") from error
        links: list[str] = []
        yield from self._below([""], select, links)
        while links:
            path = links.pop(0)
            reason = self._loop(path)
            if reason:
                yield self._refused(path, "symlink-loop", reason)
            else:
                yield from self._below([path], select, links)

    def read(self, item: SourceItem) -> SourceDocument:
        """The decoded file. Raises `DocumentRefused`, or `SourceError` when the folder is gone."""
        try:
            return read_file(self.root / item.doc_id, item.doc_id, self.max_file_mb)
        except DocumentRefused:
            if not self.root.is_dir():
                raise SourceError(f"the source folder {self.root} is gone") from None
            raise

    def _below(self, folders: list[str], select: Selection, links: list[str]) -> Iterator[SourceItem | RefusedItem]:
        while folders:
            folder = folders.pop()
            try:
                info = os.stat(self.root / folder)
                if (info.st_dev, info.st_ino) in self._seen:
                    continue
                self._seen.add((info.st_dev, info.st_ino))
                with os.scandir(self.root / folder) as found:
                    entries = sorted(found, key=lambda entry: entry.name)
            except OSError as error:
                yield self._refused(f"{folder}/", "unreadable", f"the folder cannot be read: {error.strerror}")
                continue
            deeper: list[str] = []
            for entry in entries:
                path = f"{folder}/{entry.name}" if folder else entry.name
                try:
                    is_folder = entry.is_dir()
                except OSError:
                    is_folder = False
                if not bad_id(path) and select.ignores(path, folder=is_folder):
                    continue
                if is_folder:
                    (links if entry.is_symlink() else deeper).append(path)
                elif (item := self._item(entry, path, select)) is not None:
                    yield item
            folders.extend(reversed(deeper))

    def _item(self, entry: os.DirEntry[str], path: str, select: Selection) -> SourceItem | RefusedItem | None:
        try:
            info = entry.stat()
        except OSError as error:
            if not select.takes(path):
                return None
            if error.errno == errno.ELOOP:
                return self._refused(path, "symlink-loop", "the link leads back to itself")
            return self._refused(path, "unreadable", f"the file cannot be read: {error.strerror}")
        kind = SPECIAL.get(stat.S_IFMT(info.st_mode))
        if kind is not None:
            return self._refused(path, "not-a-file", f"this is {kind}, not a file")
        if not select.takes(path):
            return None
        if problem := bad_id(path):
            return self._refused(path, "file-name", problem)
        if refused := too_large(info.st_size, self.max_file_mb):
            return self._refused(path, refused.reason, refused.detail)
        return SourceItem(path, str(self.root / path), file_state(info))

    def _loop(self, path: str) -> str | None:
        real = os.path.realpath(self.root / path)
        here = os.path.realpath((self.root / path).parent)
        inside = here == real or here.startswith(real.rstrip("/") + "/")
        return f"the link leads to {real}, which it stands in" if inside else None

    def _refused(self, path: str, reason: str, detail: str) -> RefusedItem:
        return RefusedItem(shown(path), shown(str(self.root / path)), reason, detail)


@dataclass(frozen=True, slots=True)
class FileSource:
    """One file; its name is its `doc_id`."""

    path: Path
    max_file_mb: float

    def list(self) -> Iterator[SourceItem | RefusedItem]:
        """The file. Raises `SourceError` when it is gone."""
        try:
            info = self.path.stat()
        except OSError as error:
            raise SourceError(f"the source file {self.path} cannot be read: {error.strerror}") from error
        name = self.path.name
        if problem := bad_id(name):
            yield RefusedItem(shown(name), shown(str(self.path)), "file-name", problem)
        elif refused := too_large(info.st_size, self.max_file_mb):
            yield RefusedItem(name, str(self.path), refused.reason, refused.detail)
        else:
            yield SourceItem(name, str(self.path), file_state(info))

    def read(self, item: SourceItem) -> SourceDocument:
        """The decoded file. Raises `DocumentRefused`."""
        return read_file(self.path, item.doc_id, self.max_file_mb)


def read_file(path: Path, doc_id: str, max_file_mb: float) -> SourceDocument:
    """The file as a document, with the state it had when it was opened; never waits on a pipe."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            info = os.fstat(descriptor)
            if not stat.S_ISREG(info.st_mode):
                raise DocumentRefused("not-a-file", "this is no longer a file")
            if refused := too_large(info.st_size, max_file_mb):
                raise refused
            data = file.read()
    except OSError as error:
        reason = "vanished" if error.errno == errno.ENOENT else "unreadable"
        raise DocumentRefused(reason, f"the file cannot be read: {error.strerror}") from error
    return as_document(doc_id, str(path), data, file_state(info))


def file_state(info: os.stat_result) -> dict[str, Any]:
    """Size and time of change: while both are equal the file is not read again."""
    return {"size": info.st_size, "mtime_ns": info.st_mtime_ns}


def _kbignore(root: Path) -> list[str]:
    try:
        return (root / ".kbignore").read_text("utf-8", "replace").splitlines()
    except OSError:
        return []
