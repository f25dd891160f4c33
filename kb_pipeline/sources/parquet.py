"""Parquet of records, read in small batches, forwards."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from kb_pipeline.errors import DocumentRefused, SourceError
from kb_pipeline.sources.document import too_large
from kb_pipeline.sources.frontmatter import canonical_json, json_value
from kb_pipeline.sources.model import RefusedItem, SourceDocument, SourceItem
from kb_pipeline.sources.records import RecordItem, duplicate, record_document, record_id, refused_record

ROWS = 500
"""Rows in memory at a time."""
Row = tuple[int, dict[str, Any]]


@dataclass(slots=True)
class ParquetSource:
    """Records of one file; every column but `id`, `text`, `title` and `metadata` is metadata."""

    uri: str
    opener: Callable[[], BinaryIO]
    max_file_mb: float
    """Limit of one text."""
    _forward: Iterator[Row] = field(default_factory=lambda: iter(()))

    def list(self) -> Iterator[SourceItem | RefusedItem]:
        """Records in row order; bad ones and repeated ids are refused, the others go on."""
        seen: set[bytes] = set()
        for number, row in self._rows():
            where = f"row {number}"
            try:
                doc_id = record_id(row)
                if refused := too_large(len(row["text"].encode("utf-8", "replace")), self.max_file_mb):
                    raise refused
                state = _state(row)
            except DocumentRefused as refused:
                yield refused_record(self.uri, where, refused)
                continue
            key = hashlib.blake2b(doc_id.encode(), digest_size=16).digest()
            if key in seen:
                yield duplicate(self.uri, doc_id, where)
                continue
            seen.add(key)
            yield RecordItem(doc_id, f"{self.uri}#{doc_id}", state, number)

    def read(self, item: SourceItem) -> SourceDocument:
        """The record, found by going on from the last one read, then once more from the beginning."""
        for attempt in range(2):
            for _, row in self._forward:
                try:
                    if record_id(row) == item.doc_id:
                        return record_document(self.uri, row, _state(row))
                except DocumentRefused:
                    continue
            if attempt == 0:
                self._forward = self._rows()
        raise DocumentRefused("vanished", f"the record is no longer in {self.uri}")

    def _rows(self) -> Iterator[Row]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        number = 0
        try:
            with self.opener() as handle:
                file = pq.ParquetFile(handle)
                names = set(file.schema_arrow.names)
                if "text" not in names or not names & {"id", "_id"}:
                    raise SourceError(f"{self.uri} has the columns {sorted(names)}; `id` (or `_id`), `text` are needed")
                batches: Iterator[pa.RecordBatch] = file.iter_batches(batch_size=ROWS)  # pyright: ignore
                for batch in batches:
                    for row in batch.to_pylist():
                        number += 1
                        yield number, row
        except (OSError, pa.ArrowException) as error:
            raise SourceError(f"the Parquet file {self.uri} cannot be read after row {number}: {error}") from error


def _state(row: dict[str, Any]) -> dict[str, Any]:
    return {"row": hashlib.blake2b(canonical_json(json_value(row)), digest_size=16).hexdigest()}
