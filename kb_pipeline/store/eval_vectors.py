"""Reads a tenant's vectors in bulk: the binary COPY stream is decoded by numpy, a block of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from psycopg import Connection, sql
from psycopg.rows import TupleRow

from kb_pipeline.embed.protocol import Vectors
from kb_pipeline.store.contents import column

Fingerprints = npt.NDArray[np.void]
"""`(n,) V32`: raw SHA-256 digests."""

_HEADER = 19
"""Signature (11 bytes), flags (4), length of the extension (4): PostgreSQL manual, COPY, "Binary Format"."""
_TRAILER = b"\xff\xff"


def vector_blocks(
    conn: Connection[TupleRow], tenant_id: str, version: int, *, dims: int, storage: str, block_rows: int
) -> Iterator[tuple[Fingerprints, Vectors]]:
    """Fingerprints and vectors of all searchable contents, `((n,) V32, (n, dims) float32)`, n <= block_rows, unordered.

    One pass, one snapshot, memory of two blocks. Every row has the same length, so no row is parsed in Python.
    """
    row = np.dtype(
        [
            ("fields", ">i2"),
            ("fingerprint_bytes", ">i4"),
            ("fingerprint", "V32"),
            ("vector_bytes", ">i4"),
            ("dims", ">i2"),
            ("unused", ">i2"),
            ("vector", ">f2" if storage == "halfvec" else ">f4", (dims,)),
        ]
    )
    query = sql.SQL(
        "COPY (SELECT fingerprint, {column} FROM kb.contents"
        " WHERE tenant_id = %s AND orphaned_at IS NULL AND {column} IS NOT NULL) TO STDOUT (FORMAT binary)"
    ).format(column=column(version))
    full = row.itemsize * block_rows
    with conn.cursor() as cursor, cursor.copy(query, (tenant_id,)) as copy:
        held = bytearray()
        begun = False
        for data in copy:
            held += data
            if not begun and len(held) >= _HEADER:
                del held[:_HEADER]
                begun = True
            if len(held) >= full + len(_TRAILER):
                yield _decoded(held, row, block_rows, dims)
                del held[:full]
        rest = len(held) - len(_TRAILER)
        if rest % row.itemsize or bytes(held[rest:]) != _TRAILER:
            raise ValueError(f"the vector stream of v{version} is not made of rows of {dims} dims as {storage}")
        if rest:
            yield _decoded(held, row, rest // row.itemsize, dims)


def vectors_of(
    conn: Connection[TupleRow], tenant_id: str, version: int, fingerprints: Sequence[bytes]
) -> dict[bytes, Vectors]:
    """The vectors of a few contents; what has none, or is not there, is left out."""
    query = sql.SQL(
        "SELECT fingerprint, {column} FROM kb.contents"
        " WHERE tenant_id = %s AND fingerprint = ANY(%s) AND {column} IS NOT NULL"
    ).format(column=column(version))
    with conn.cursor(binary=True) as cursor:
        rows = cursor.execute(query, (tenant_id, list(fingerprints))).fetchall()
    return {bytes(fingerprint): np.asarray(vector, dtype=np.float32) for fingerprint, vector in rows}


def _decoded(held: bytearray, row: np.dtype[np.void], rows: int, dims: int) -> tuple[Fingerprints, Vectors]:
    """Copies out of the buffer, so that it may be reused."""
    table = np.frombuffer(bytes(memoryview(held)[: rows * row.itemsize]), dtype=row, count=rows)
    if int(table["dims"][0]) != dims or int(table["fingerprint_bytes"][0]) != 32:
        raise ValueError(f"a stored vector has {int(table['dims'][0])} dims where the version has {dims}")
    return table["fingerprint"], table["vector"].astype(np.float32)
