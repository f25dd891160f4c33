"""Parquet between the stages, under any storage URL: `{staging}/{tenant}/{asset}/{run_id}/part-*.parquet`."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kb_pipeline.errors import ConfigError, StaleStage
from kb_pipeline.tenant import checked_tenant_id

if TYPE_CHECKING:
    import pyarrow as pa

PART_BYTES = 256 * 2**20
"""A part is closed above this many bytes of Arrow data, so that no object in a store grows without bound."""


def open_staging(url: str) -> Staging:
    """The staging place at a URL or local folder. Raises `ConfigError` when no file system serves that URL."""
    staging = Staging(url.rstrip("/"))
    if "://" in url:
        _resolve(url)
    return staging


@dataclass(frozen=True, slots=True)
class Staging:
    """Where outputs of stages lie. Holds no connection: any process on any machine may read what another wrote."""

    url: str

    def output_url(self, tenant_id: str, asset: str, run_id: str) -> str:
        """The folder of one output."""
        if not run_id or not set(run_id) <= _RUN_ID:
            raise ValueError(f"run id {run_id!r} cannot be a folder's name")
        return f"{self.url}/{checked_tenant_id(tenant_id)}/{asset}/{run_id}"

    @contextmanager
    def writer(self, url: str, schema: pa.Schema) -> Generator[OutputWriter]:
        """Write an output anew; what an earlier try of the same run left is removed first.

        The output counts only when it is registered in `kb.stage_outputs`, so a half-written one is never read.
        """
        self.delete(url)
        writer = OutputWriter(url, schema)
        try:
            yield writer
        except BaseException:
            writer.close()
            self.delete(url)
            raise
        writer.close()

    def read(self, url: str) -> Iterator[pa.RecordBatch]:
        """The output's batches as they were written, one in memory at a time. Raises `StaleStage` when it is gone."""
        import pyarrow as pa
        import pyarrow.fs as pafs
        import pyarrow.parquet as pq

        fs, path = _resolve(url)
        found = fs.get_file_info(pafs.FileSelector(path, allow_not_found=True))
        parts = sorted(info.path for info in found if info.path.endswith(".parquet"))
        if not parts:
            raise StaleStage(f"the staged files at {url} are gone; run `documents` first")
        for part in parts:
            with fs.open_input_file(part) as file, pq.ParquetFile(file) as opened:
                parquet: Any = opened
                for group in range(parquet.num_row_groups):
                    yield from parquet.read_row_group(group, use_threads=False).combine_chunks().to_batches()
                    pa.default_memory_pool().release_unused()

    def place(self) -> tuple[Any, str]:
        """The file system and the path of the whole."""
        return _resolve(self.url)

    def delete(self, url: str) -> None:
        """Remove an output's folder; nothing when there is none."""
        fs, path = _resolve(url)
        if fs.get_file_info(path).type.name == "Directory":
            fs.delete_dir(path)

    def delete_tenant(self, tenant_id: str) -> None:
        """Remove everything that is staged for a tenant."""
        self.delete(f"{self.url}/{checked_tenant_id(tenant_id)}")


_RUN_ID = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")


class OutputWriter:
    """Writes batches as row groups into parts; at least one part, so that an empty output can be told from a lost
    one.
    """

    def __init__(self, url: str, schema: pa.Schema) -> None:
        self._fs, self._path = _resolve(url)
        self._schema = schema
        self._parts = 0
        self._part_bytes = 0
        self._writer: Any = None
        self.rows = 0
        self._fs.create_dir(self._path, recursive=True)
        self._open()

    def write(self, batch: pa.RecordBatch) -> None:
        """One batch becomes one row group; keep it to a few megabytes, because readers hold one at a time."""
        if self._part_bytes > PART_BYTES:
            self.close()
            self._open()
        self._writer.write_batch(batch)
        self._part_bytes += batch.nbytes
        self.rows += batch.num_rows

    def close(self) -> None:
        """Finish the open part."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _open(self) -> None:
        import pyarrow.parquet as pq

        where = f"{self._path}/part-{self._parts:05d}.parquet"
        self._writer = pq.ParquetWriter(
            where, self._schema, filesystem=self._fs, compression="zstd", compression_level=1
        )
        self._parts += 1
        self._part_bytes = 0


def _resolve(url: str) -> tuple[Any, str]:
    """File system and path of a URL: pyarrow's own where it has one, fsspec's otherwise."""
    import pyarrow as pa
    import pyarrow.fs as pafs

    if "://" not in url:
        return pafs.LocalFileSystem(), str(Path(url).absolute())
    try:
        return pafs.FileSystem.from_uri(url)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        fsspec: Any = import_module("fsspec")
    try:
        fs, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"staging url {url!r}: no file system serves it ({error})") from error
    handler: Any = pafs.FSSpecHandler
    return pafs.PyFileSystem(handler(fs)), path
