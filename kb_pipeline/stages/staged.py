"""What the Parquet between the stages holds: schemas, and batches as Python sees them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from kb_pipeline.chunking.model import Chunk
from kb_pipeline.fingerprint import SEPARATOR
from kb_pipeline.stages.columns import arrow_array, list_array
from kb_pipeline.staging import OutputWriter
from kb_pipeline.store.documents import DocumentRow

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_DOCUMENTS = 512
BATCH_CHUNKS = 4096
BATCH_CHARACTERS = 4_000_000
"""A batch ends at the first of these: what a stage holds in memory, and what one transaction applies."""

GONE = ("deleted", "renamed")
"""Kinds of manifest rows whose document leaves the index; a renamed one comes back under `renamed_to`."""

_JOIN = SEPARATOR.decode()
_OF_DOCUMENT = ("uri", "content_sha256", "text_sha256", "state", "metadata", "format", "chunker", "characters")
"""Fields of `DocumentRow` after `doc_id`, in its order."""
_NOTHING = {"characters": 0}
"""What a document that leaves has in such a field, where it is not null."""


@cache
def manifest_schema() -> pa.Schema:
    """Of `documents`: one row for each document that has to be chunked or deleted."""
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("doc_id", pa.string(), nullable=False),
            pa.field("uri", pa.string(), nullable=False),
            pa.field("kind", pa.string(), nullable=False),
            pa.field("content_sha256", pa.binary(32)),
            pa.field("state", pa.string()),
            pa.field("renamed_to", pa.string()),
        ]
    )


@cache
def chunks_schema(*, with_status: bool) -> pa.Schema:
    """Of `chunks`: one row for each document, with its chunks. Of `fingerprints`: the same with a status in each
    chunk.
    """
    import pyarrow as pa

    chunk = [
        pa.field("ordinal", pa.int32(), nullable=False),
        pa.field("start", pa.int64(), nullable=False),
        pa.field("end", pa.int64(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("heading_path", pa.string(), nullable=False),
        pa.field("context", pa.string(), nullable=False),
        pa.field("body", pa.string(), nullable=False),
        pa.field("tokens", pa.int32(), nullable=False),
        pa.field("fingerprint", pa.binary(32), nullable=False),
    ]
    if with_status:
        chunk.append(pa.field("status", pa.string(), nullable=False))
    return pa.schema(
        [
            pa.field("doc_id", pa.string(), nullable=False),
            pa.field("kind", pa.string(), nullable=False),
            pa.field("uri", pa.string()),
            pa.field("content_sha256", pa.binary(32)),
            pa.field("text_sha256", pa.binary(32)),
            pa.field("state", pa.string()),
            pa.field("metadata", pa.string()),
            pa.field("format", pa.string()),
            pa.field("chunker", pa.string()),
            pa.field("characters", pa.int64(), nullable=False),
            pa.field("chunks", pa.list_(pa.field("item", pa.struct(chunk), nullable=False))),
        ]
    )


@dataclass(slots=True)
class ChunkColumns:
    """Chunks of a batch of documents, column by column."""

    ordinal: list[int] = field(default_factory=list[int])
    start: list[int] = field(default_factory=list[int])
    end: list[int] = field(default_factory=list[int])
    kind: list[str] = field(default_factory=list[str])
    heading_path: list[str] = field(default_factory=list[str])
    """Headings joined by the unit separator."""
    context: list[str] = field(default_factory=list[str])
    body: list[str] = field(default_factory=list[str])
    tokens: list[int] = field(default_factory=list[int])
    fingerprint: list[bytes] = field(default_factory=list[bytes])
    status: list[str] = field(default_factory=list[str])
    """`new`, `reused` or `moved`; empty before `fingerprints`."""

    def add(self, chunk: Chunk) -> None:
        """One more chunk."""
        self.ordinal.append(chunk.ordinal)
        self.start.append(chunk.start)
        self.end.append(chunk.end)
        self.kind.append(chunk.kind)
        self.heading_path.append(_JOIN.join(chunk.heading_path))
        self.context.append(chunk.context)
        self.body.append(chunk.text)
        self.tokens.append(chunk.tokens)
        self.fingerprint.append(chunk.fingerprint)


@dataclass(slots=True)
class StagedBatch:
    """Some documents with their chunks; `bounds[i]:bounds[i + 1]` are those of document i."""

    documents: list[DocumentRow] = field(default_factory=list[DocumentRow])
    kinds: list[str] = field(default_factory=list[str])
    bounds: list[int] = field(default_factory=lambda: [0])
    chunks: ChunkColumns = field(default_factory=ChunkColumns)
    gone: list[str] = field(default_factory=list[str])
    """Documents that leave the index."""
    characters: int = 0

    def add(self, document: DocumentRow, kind: str, chunks: Iterable[Chunk]) -> None:
        """One more document."""
        self.documents.append(document)
        self.kinds.append(kind)
        for chunk in chunks:
            self.chunks.add(chunk)
            self.characters += len(chunk.text)
        self.bounds.append(len(self.chunks.ordinal))

    @property
    def full(self) -> bool:
        """Large enough to be written."""
        return (
            len(self.documents) >= BATCH_DOCUMENTS
            or len(self.chunks.ordinal) >= BATCH_CHUNKS
            or self.characters >= BATCH_CHARACTERS
        )

    def spans(self) -> Iterator[tuple[DocumentRow, str, int, int]]:
        """Each document with its kind and where its chunks begin and end."""
        for document, kind, (first, last) in zip(self.documents, self.kinds, pairwise(self.bounds), strict=True):
            yield document, kind, first, last


def to_arrow(batch: StagedBatch, *, with_status: bool) -> pa.RecordBatch:
    """The batch in the fixed schema; documents that leave follow as rows without chunks."""
    import pyarrow as pa

    schema: Any = chunks_schema(with_status=with_status)
    struct: Any = pa.StructArray
    batch_type: Any = pa.RecordBatch
    kind = schema.field("chunks").type
    fields = list(kind.value_type)
    columns = [arrow_array(getattr(batch.chunks, each.name), each.type) for each in fields]
    chunks = struct.from_arrays(columns, fields=fields)
    gone = len(batch.gone)
    rows: dict[str, list[Any]] = {
        "doc_id": [*(document.doc_id for document in batch.documents), *batch.gone],
        "kind": [*batch.kinds, *["deleted"] * gone],
        **{
            name: [*(getattr(document, name) for document in batch.documents), *[_NOTHING.get(name)] * gone]
            for name in _OF_DOCUMENT
        },
    }
    arrays = [arrow_array(rows[each.name], each.type) for each in schema if each.name != "chunks"]
    arrays.append(list_array([*batch.bounds, *[batch.bounds[-1]] * gone], chunks, kind))
    return batch_type.from_arrays(arrays, schema=schema)


def with_gone(batch: pa.RecordBatch | None, gone: list[str]) -> pa.RecordBatch:
    """A batch of `chunks` with documents that leave behind its rows; those alone without one."""
    import pyarrow as pa

    leaving = to_arrow(StagedBatch(gone=gone), with_status=False)
    if batch is None:
        return leaving
    table: Any = pa.Table
    return table.from_batches([batch, leaving]).combine_chunks().to_batches()[0]


def from_arrow(arrow: pa.RecordBatch) -> StagedBatch:
    """What `to_arrow` wrote."""
    batch: Any = arrow
    kinds: list[str] = batch.column("kind").to_pylist()
    doc_ids: list[str] = batch.column("doc_id").to_pylist()
    staying = sum(kind not in GONE for kind in kinds)
    columns = (batch.column(name).slice(0, staying).to_pylist() for name in ("doc_id", *_OF_DOCUMENT))
    lists = batch.column("chunks")
    offsets: list[int] = lists.offsets.to_pylist()
    chunks = lists.flatten()
    return StagedBatch(
        documents=[DocumentRow(*row) for row in zip(*columns, strict=True)],
        kinds=kinds[:staying],
        bounds=[offset - offsets[0] for offset in offsets[: staying + 1]],
        chunks=ChunkColumns(**{each.name: chunks.field(each.name).to_pylist() for each in chunks.type}),
        gone=doc_ids[staying:],
    )


class RowBuffer:
    """Gathers rows and writes them as batches of a flat schema; what a row does not say is null."""

    def __init__(self, writer: OutputWriter, schema: pa.Schema, *, batch_rows: int = 5000) -> None:
        self._writer = writer
        self._schema: Any = schema
        self._batch_rows = batch_rows
        self._rows: list[Mapping[str, Any]] = []

    def add(self, **row: Any) -> None:
        """One more row."""
        self._rows.append(row)
        if len(self._rows) >= self._batch_rows:
            self.flush()

    def flush(self) -> None:
        """Write what is gathered."""
        import pyarrow as pa

        batch_type: Any = pa.RecordBatch
        if self._rows:
            arrays = [arrow_array([row.get(each.name) for row in self._rows], each.type) for each in self._schema]
            self._writer.write(batch_type.from_arrays(arrays, schema=self._schema))
            self._rows = []
