"""Vectors in and out as Parquet."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kb_pipeline.config.schema import TenantConfig
from kb_pipeline.embed.check import checked
from kb_pipeline.embed.protocol import EmbedderSpec, Vectors
from kb_pipeline.embed.registry import resolve_spec
from kb_pipeline.errors import ConfigError
from kb_pipeline.store.bank import put_vectors, space_key, stored_vectors, text_key
from kb_pipeline.store.versions import find_version

if TYPE_CHECKING:
    import pyarrow as pa

    from kb_pipeline.store.database import Database

_ROWS = 1000
_SPACE = b"kb_space"


def import_vectors(db: Database, tenant: TenantConfig, file: Path, *, model: str | None) -> int:
    """Put a file's vectors into the tenant's bank; how many. Raises `ConfigError` for a file of another form or space.

    All or nothing: a row that cannot be used leaves the bank as it was.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    spec = _spec(tenant, model)
    count = 0
    try:
        source: Any = pq.ParquetFile(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise ConfigError(f"{file} is not a Parquet file: {str(error).splitlines()[0]}") from error
    with source, db.connect("writer", tenant.tenant_id) as conn:
        _require_form(file, source.schema_arrow, spec)
        for batch in source.iter_batches(batch_size=_ROWS):
            keys = _keys(file, batch, row=count)
            vectors = checked(spec, _vectors(file, batch.column("vector"), spec.dims, row=count), count=len(keys))
            distinct = list(dict(zip(keys, range(len(keys)), strict=True)).items())
            rows = [place for _, place in distinct]
            put_vectors(conn, tenant.tenant_id, space_key(spec), "import", [key for key, _ in distinct], vectors[rows])
            count += len(keys)
        conn.commit()
    return count


def export_vectors(db: Database, tenant: TenantConfig, file: Path, *, model: str | None) -> int:
    """Write fingerprint, embedded text and vector of every content that has one; how many."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from kb_pipeline.stages.columns import arrow_array

    spec = _spec(tenant, model)
    fixed: Any = pa.FixedSizeListArray
    record: Any = pa.RecordBatch
    count = 0
    with db.connect("reader", tenant.tenant_id, autocommit=True) as conn:
        version = find_version(conn, spec)
        if version is None:
            raise ConfigError(f"tenant {tenant.tenant_id!r} has no vectors of {spec.model} with {spec.dims} dims")
        fields = [("fingerprint", pa.binary(32)), ("text", pa.string()), ("vector", pa.list_(pa.float32(), spec.dims))]
        schema = pa.schema(fields, metadata={_SPACE: json.dumps(spec.space()).encode()})
        with pq.ParquetWriter(file, schema, compression="zstd") as writer:
            for rows in stored_vectors(conn, tenant.tenant_id, version):
                values = pa.Array.from_buffers(
                    pa.float32(),
                    len(rows) * spec.dims,
                    [None, pa.py_buffer(np.ascontiguousarray(np.stack([v for _, _, v in rows]), np.float32).data)],
                )
                columns: list[Any] = [
                    arrow_array([fingerprint for fingerprint, _, _ in rows], pa.binary(32)),
                    arrow_array([text for _, text, _ in rows], pa.string()),
                    fixed.from_arrays(values, spec.dims),
                ]
                writer.write_batch(record.from_arrays(columns, schema=schema))
                count += len(rows)
    return count


def _spec(tenant: TenantConfig, model: str | None) -> EmbedderSpec:
    config = tenant.embedder
    if model is not None and model != resolve_spec(config).model:
        config = config.model_copy(update={"model": model, "dims": None})
    return resolve_spec(config)


def _require_form(file: Path, schema: pa.Schema, spec: EmbedderSpec) -> None:
    names = set(schema.names)
    if "vector" not in names or not names & {"fingerprint", "text"}:
        raise ConfigError(f"{file} has the columns {sorted(names)}; `vector` and `fingerprint` or `text` are needed")
    told = (schema.metadata or {}).get(_SPACE)
    if told is not None and tuple(json.loads(told)) != spec.space():
        theirs = json.loads(told)
        raise ConfigError(
            f"{file} holds vectors of {theirs[0]}/{theirs[1]} with {theirs[2]} dims and prefixes {theirs[3:]}; "
            f"{spec.provider}/{spec.model} with {spec.dims} dims and {list(spec.space()[3:])} was asked for"
        )


def _keys(file: Path, batch: Any, *, row: int) -> list[bytes]:
    if "fingerprint" not in batch.schema.names:
        return [text_key(text) for text in _present(file, batch.column("text").to_pylist(), "text", row)]
    found: list[bytes] = []
    for place, value in enumerate(_present(file, batch.column("fingerprint").to_pylist(), "fingerprint", row)):
        try:
            key = bytes.fromhex(value) if isinstance(value, str) else bytes(value)
        except ValueError:
            key = b""
        if len(key) != 32:
            raise ConfigError(f"{file}, row {row + place}: a fingerprint is 32 bytes, or 64 hexadecimal digits")
        found.append(key)
    return found


def _present(file: Path, values: Iterable[Any], name: str, row: int) -> Iterator[Any]:
    for place, value in enumerate(values):
        if value is None:
            raise ConfigError(f"{file}, row {row + place}: `{name}` is empty")
        yield value


def _vectors(file: Path, column: Any, dims: int, *, row: int) -> Vectors:
    import pyarrow as pa
    import pyarrow.compute as pc

    if not (
        pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type) or pa.types.is_large_list(column.type)
    ):
        raise ConfigError(f"{file}: `vector` is {column.type}; a list of floats is needed")
    count: Any = pc
    lengths: npt.NDArray[np.int64] = count.list_value_length(column).to_numpy(zero_copy_only=False)
    wrong = np.flatnonzero(lengths != dims)
    if wrong.size:
        raise ConfigError(f"{file}, row {row + int(wrong[0])}: the vector has {lengths[wrong[0]]} dims, not {dims}")
    values = column.flatten().to_numpy(zero_copy_only=False)
    return np.asarray(values, np.float32).reshape(len(column), dims)
