"""JSON Lines: one record a line, read by offset, so that no more than one text is in memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from kb_pipeline.errors import DocumentRefused, SourceError
from kb_pipeline.sources.document import too_large
from kb_pipeline.sources.model import RefusedItem, SourceDocument, SourceItem
from kb_pipeline.sources.records import RecordItem, duplicate, record_document, record_id, refused_record


@dataclass(slots=True)
class JsonLinesSource:
    """Records of one file. An item's state is the hash of its line, so other lines may change and it stays unread."""

    uri: str
    opener: Callable[[], BinaryIO]
    max_file_mb: float
    """Limit of one line."""
    _file: BinaryIO | None = None
    _next: int = 0

    def list(self) -> Iterator[SourceItem | RefusedItem]:
        """Records in file order; broken lines and repeated ids are refused, the others go on."""
        with self._open() as file:
            yield from self._listed(file)

    def _listed(self, file: BinaryIO) -> Iterator[SourceItem | RefusedItem]:
        seen: set[bytes] = set()
        for number, offset, line in self._lines(file, 0):
            if not line.strip():
                continue
            where = f"line {number}"
            try:
                doc_id = record_id(_record(line))
                if refused := too_large(len(line), self.max_file_mb):
                    raise refused
            except DocumentRefused as refused:
                yield refused_record(self.uri, where, refused)
                continue
            key = hashlib.blake2b(doc_id.encode(), digest_size=16).digest()
            if key in seen:
                yield duplicate(self.uri, doc_id, where)
                continue
            seen.add(key)
            yield RecordItem(doc_id, f"{self.uri}#{doc_id}", _state(line), offset)

    def read(self, item: SourceItem) -> SourceDocument:
        """The record: at its offset, or found by going on from the last one read (once round the file)."""
        if self._file is None:
            self._file = self._open()
        if isinstance(item, RecordItem):
            self._file.seek(item.place)
            line = self._file.readline()
            if _state(line) == item.state:
                return record_document(self.uri, _record(line), item.state)
        for start, stop in ((self._next, None), (0, self._next)):
            self._file.seek(start)
            for _, offset, line in self._lines(self._file, start):
                if stop is not None and offset >= stop:
                    break
                if _state(line) == item.state:
                    self._next = offset + len(line)
                    return record_document(self.uri, _record(line), item.state)
        return self._changed(item)

    def __del__(self) -> None:
        if self._file is not None:
            self._file.close()

    def _changed(self, item: SourceItem) -> SourceDocument:
        """The record as it is now, when its line was edited after it was listed."""
        for found in self.list():
            if isinstance(found, RecordItem) and found.doc_id == item.doc_id:
                return self.read(found)
        raise DocumentRefused("vanished", f"the record is no longer in {self.uri}")

    def _open(self) -> BinaryIO:
        try:
            return self.opener()
        except OSError as error:
            raise SourceError(f"the source {self.uri} cannot be read: {error.strerror or error}") from error

    def _lines(self, file: BinaryIO, offset: int) -> Iterator[tuple[int, int, bytes]]:
        for number, line in enumerate(file, start=1):
            if offset == 0 and line.startswith(b"\xef\xbb\xbf"):
                yield number, 3, line[3:]
            else:
                yield number, offset, line
            offset += len(line)


def _state(line: bytes) -> dict[str, Any]:
    return {"line": hashlib.blake2b(line.strip(), digest_size=16).hexdigest()}


def _record(line: bytes) -> dict[str, Any]:
    try:
        record: Any = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise DocumentRefused("invalid-utf8", f"byte {error.start} of the line is not valid UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise DocumentRefused("broken-json", f"the line is not JSON: {str(error)[:200]}") from error
    if not isinstance(record, dict):
        found = type(record).__name__
        raise DocumentRefused("broken-record", f"the line is a {found}, not an object with `id` and `text`")
    return record  # pyright: ignore[reportUnknownVariableType]
