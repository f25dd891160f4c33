"""Parquet of records, read a row group at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from kb_pipeline.errors import DocumentRefused, SourceError
from kb_pipeline.sources.model import RefusedItem, SourceDocument, SourceItem
from kb_pipeline.sources.record import ID_KEYS, document_of_record, record_id
from kb_pipeline.sources.remote import file_system, version_of

if TYPE_CHECKING:
    import pyarrow.parquet as pq

COLUMNS = ("id", "_id", "text", "title", "metadata")
BATCH_ROWS = 1_000


class ParquetSource:
    """A `*.parquet` file with columns `id`, `text` and, if any, `title` and `metadata` (a struct, a map or JSON text)."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._name = url.rpartition("/")[2]
        self._open: pq.ParquetFile | None = None
        self._rows: tuple[int, list[dict[str, Any]]] = (-1, [])
        """A batch number and its rows: reading follows the order of listing."""

    def list(self) -> Iterator[SourceItem | RefusedItem]:
        """A row each; only ids are read."""
        file = self._file()
        columns = [name for name in ID_KEYS if name in file.schema_arrow.names]
        if not columns or "text" not in file.schema_arrow.names:
            names = ", ".join(file.schema_arrow.names)
            raise SourceError(f"{self._url} needs columns `id` and `text`; it has {names}")
        state = self._state()
        seen: set[str] = set()
        row = 0
        for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=columns):
            for record in batch.to_pylist():
                place, uri = row, f"{self._url}#{row}"
                row += 1
                try:
                    doc_id = record_id(record)
                except DocumentRefused as refused:
                    yield RefusedItem(f"{self._name}#{place}", uri, refused.reason, refused.detail)
                    continue
                if doc_id in seen:
                    yield RefusedItem(f"{self._name}#{place}", uri, "duplicate-id", f"id {doc_id[:200]!r} stands in an earlier row")
                    continue
                seen.add(doc_id)
                yield SourceItem(doc_id, f"{self._url}#{doc_id}", {**state, "row": place})

    def read(self, item: SourceItem) -> SourceDocument:
        """The row at the item's place. Raises `DocumentRefused`."""
        record = self._row(int(item.state["row"]))
        metadata = record.get("metadata")
        if isinstance(metadata, str):
            import json

            try:
                record["metadata"] = json.loads(metadata) if metadata.strip() else None
            except ValueError as error:
                raise DocumentRefused("metadata", f"`metadata` is not JSON: {error}") from error
        elif isinstance(metadata, list):
            record["metadata"] = dict(metadata)
        return document_of_record(item, record, item.state)

    def _row(self, row: int) -> dict[str, Any]:
        wanted = row // BATCH_ROWS
        if self._rows[0] != wanted:
            self._rows = (wanted, self._batch(wanted))
        return self._rows[1][row % BATCH_ROWS]

    def _batch(self, number: int) -> list[dict[str, Any]]:
        """Rows of one batch; row groups before it are skipped unread."""
        file = self._file()
        first, groups, before = number * BATCH_ROWS, [], 0
        skip = first
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if before + rows > first and before < first + BATCH_ROWS:
                if not groups:
                    skip = first - before
                groups.append(group)
            before += rows
        columns = [name for name in COLUMNS if name in file.schema_arrow.names]
        found: list[dict[str, Any]] = []
        for batch in file.iter_batches(batch_size=BATCH_ROWS, row_groups=groups, columns=columns):
            if skip >= batch.num_rows:
                skip -= batch.num_rows
                continue
            found += batch.slice(skip, BATCH_ROWS - len(found)).to_pylist()
            skip = 0
            if len(found) >= BATCH_ROWS:
                break
        return found

    def _file(self) -> pq.ParquetFile:
        if self._open is None:
            import pyarrow as pa
            import pyarrow.parquet as pq

            fs, path = file_system(self._url)
            try:
                self._open = pq.ParquetFile(fs.open(path, "rb"))
            except (OSError, pa.ArrowInvalid) as error:
                raise SourceError(f"{self._url} cannot be read as Parquet: {error}: nothing was changed") from error
        return self._open

    def _state(self) -> dict[str, Any]:
        fs, path = file_system(self._url)
        return version_of(fs.info(path))
