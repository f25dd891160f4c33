"""What the Parquet between the stages holds: schemas, and batches as Python sees them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from kb_pipeline.chunking.model import Chunk
from kb_pipeline.fingerprint import SEPARATOR
from kb_pipeline.staging import OutputWriter
from kb_pipeline.store.documents import DocumentRow

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_DOCUMENTS = 512
BATCH_CHUNKS = 4096
BATCH_CHARACTERS = 8_000_000
"""A batch ends at the first of these: what a stage holds in memory, and what one transaction applies."""

GONE = ("deleted", "renamed")
"""Kinds of manifest rows whose document leaves the index; a renamed one comes back under `renamed_to`."""

_JOIN = SEPARATOR.decode()


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
    """Of `chunks`: one row for each document, with its chunks. Of `fingerprints`: the same with a status in each chunk."""
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

    schema = chunks_schema(with_status=with_status)
    item: Any = schema.field("chunks").type.value_type
    columns = [pa.array(getattr(batch.chunks, each.name), each.type) for each in item]
    chunks = pa.StructArray.from_arrays(columns, fields=list(item))
    gone = len(batch.gone)
    offsets = pa.array([*batch.bounds, *[batch.bounds[-1]] * gone], pa.int32())
    nothing: list[None] = [None] * gone
    rows = {
        "doc_id": [*(document.doc_id for document in batch.documents), *batch.gone],
        "kind": [*batch.kinds, *["deleted"] * gone],
        **{
            name: [*(getattr(document, name) for document in batch.documents), *nothing]
            for name in ("uri", "content_sha256", "text_sha256", "state", "metadata", "format", "chunker")
        },
    }
    arrays: list[Any] = [pa.array(rows[each.name], each.type) for each in schema if each.name != "chunks"]
    arrays.append(pa.ListArray.from_arrays(offsets, chunks, type=schema.field("chunks").type))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def from_arrow(batch: pa.RecordBatch) -> StagedBatch:
    """What `to_arrow` wrote."""
    kinds: list[str] = batch.column("kind").to_pylist()
    doc_ids: list[str] = batch.column("doc_id").to_pylist()
    staying = sum(kind not in GONE for kind in kinds)
    names = ("doc_id", "uri", "content_sha256", "text_sha256", "state", "metadata", "format", "chunker")
    rows = zip(*(batch.column(name).slice(0, staying).to_pylist() for name in names), strict=True)
    lists: Any = batch.column("chunks")
    base = lists.offsets[0].as_py()
    chunks: Any = lists.flatten()
    fields = {each.name: chunks.field(each.name).to_pylist() for each in chunks.type}
    return StagedBatch(
        documents=[DocumentRow(*row) for row in rows],
        kinds=kinds[:staying],
        bounds=[offset - base for offset in lists.offsets.to_pylist()[: staying + 1]],
        chunks=ChunkColumns(**fields),
        gone=doc_ids[staying:],
    )


class RowBuffer:
    """Gathers rows and writes them as batches of a schema."""

    def __init__(self, writer: OutputWriter, schema: pa.Schema, *, batch_rows: int = 5000) -> None:
        self._writer = writer
        self._schema = schema
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

        if self._rows:
            self._writer.write(pa.RecordBatch.from_pylist(self._rows, schema=self._schema))
            self._rows = []
