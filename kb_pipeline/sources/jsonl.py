"""JSON Lines of records. Listing reads line by line and keeps ids and places only, so memory does not follow the texts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

from kb_pipeline.errors import DocumentRefused, SourceError
from kb_pipeline.sources.model import RefusedItem, SourceDocument, SourceItem
from kb_pipeline.sources.record import document_of_record, record_id
from kb_pipeline.sources.remote import file_system, version_of


class JsonLinesSource:
    """A `*.jsonl` file, local or behind an fsspec URL; a record's state is the file's and its place in it."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._name = url.rpartition("/")[2]
        self._file: BinaryIO | None = None

    def list(self) -> Iterator[SourceItem | RefusedItem]:
        """A line each. A line that cannot be read, or repeats an id, is refused under its number and the others go on."""
        first: dict[str, int] = {}
        state, file = self._opened()
        with file:
            offset = 0
            for number, line in enumerate(file, 1):
                place = {**state, "offset": offset, "length": len(line)}
                offset += len(line)
                if not line.strip():
                    continue
                uri = f"{self._url}#L{number}"
                try:
                    doc_id = record_id(parse_line(line))
                except DocumentRefused as refused:
                    yield RefusedItem(f"{self._name}#L{number}", uri, refused.reason, refused.detail)
                    continue
                if doc_id in first:
                    detail = f"id {doc_id[:200]!r} stands on line {first[doc_id]} already"
                    yield RefusedItem(f"{self._name}#L{number}", uri, "duplicate-id", detail)
                    continue
                first[doc_id] = number
                yield SourceItem(doc_id, f"{self._url}#{doc_id}", place)

    def read(self, item: SourceItem) -> SourceDocument:
        """The record at the item's place. Raises `DocumentRefused`, `SourceError` when the file is gone."""
        if self._file is None:
            _, self._file = self._opened()
        self._file.seek(int(item.state["offset"]))
        record = parse_line(self._file.read(int(item.state["length"])))
        if record_id(record) != item.doc_id:
            raise DocumentRefused("moved", "the file was rewritten while it was read: run again")
        return document_of_record(item, record, item.state)

    def _opened(self) -> tuple[dict[str, Any], BinaryIO]:
        fs, path = file_system(self._url)
        try:
            return version_of(fs.info(path)), cast("BinaryIO", fs.open(path, "rb"))
        except OSError as error:
            raise SourceError(f"{self._url} cannot be opened: {error}; nothing was changed") from error


def parse_line(line: bytes) -> dict[str, Any]:
    """One line as a JSON object. Raises `DocumentRefused`."""
    try:
        record: Any = json.loads(line.removeprefix(b"\xef\xbb\xbf").decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DocumentRefused("invalid-utf8", f"byte {error.start} of the line is not UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise DocumentRefused("broken-json", f"the line is not JSON: {error}") from error
    if not isinstance(record, dict):
        raise DocumentRefused("broken-json", f"the line is a {type(record).__name__}, not an object")
    return record
