"""How pgvector's types travel: numpy arrays in and out, binary. numpy is imported when the first vector does."""

from __future__ import annotations

import struct
from functools import cache
from typing import TYPE_CHECKING, Any

from psycopg.abc import Buffer
from psycopg.adapt import Dumper, Loader
from psycopg.pq import Format
from psycopg.types import TypeInfo

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from psycopg import Connection

_HEADER = struct.Struct(">HH")
"""Dimensions, then an unused field: pgvector's vector_send and halfvec_send."""


def register(connection: Connection[Any], vector: tuple[int, int], halfvec: tuple[int, int]) -> None:
    """Teaches a connection the two types, given as (oid, oid of the array type).

    An array of float16 is sent as `halfvec`, any other as `vector`. A `vector` comes back as a (dims,) float32 array, a
    `halfvec` as float16. `Copy.set_types(["vector", ...])` knows both names.
    """
    adapters = connection.adapters
    for name, (oid, array_oid) in (("vector", vector), ("halfvec", halfvec)):
        TypeInfo(name, oid, array_oid).register(connection)
        binary_dumper, text_loader, binary_loader = _adapters(name, oid)
        adapters.register_dumper(None, binary_dumper)
        adapters.register_loader(oid, text_loader)
        adapters.register_loader(oid, binary_loader)
    adapters.register_dumper("numpy.ndarray", _array_dumper(vector[0], halfvec[0]))


@cache
def _adapters(name: str, type_oid: int) -> tuple[type[Dumper], type[Loader], type[Loader]]:
    kind = ">f4" if name == "vector" else ">f2"

    class VectorDumper(Dumper):
        format = Format.BINARY
        oid = type_oid

        def dump(self, obj: NDArray[np.floating[Any]]) -> Buffer | None:
            return _HEADER.pack(len(obj), 0) + obj.astype(kind).tobytes()

    class TextLoader(Loader):
        def load(self, data: Buffer) -> NDArray[np.floating[Any]]:
            import numpy as np

            return np.array(bytes(data)[1:-1].split(b","), dtype=kind.replace(">", "="))

    class BinaryLoader(Loader):
        format = Format.BINARY

        def load(self, data: Buffer) -> NDArray[np.floating[Any]]:
            import numpy as np

            return np.frombuffer(data, dtype=kind, offset=4).astype(kind.replace(">", "="))

    return VectorDumper, TextLoader, BinaryLoader


@cache
def _array_dumper(vector_oid: int, halfvec_oid: int) -> type[Dumper]:
    full, half = _adapters("vector", vector_oid)[0], _adapters("halfvec", halfvec_oid)[0]

    class ArrayDumper(full):
        """Chooses by the array's type: float16 is `halfvec`."""

        def get_key(self, obj: NDArray[np.floating[Any]], format: Any) -> Any:
            return (self.cls, half) if obj.dtype.itemsize == 2 else self.cls

        def upgrade(self, obj: NDArray[np.floating[Any]], format: Any) -> Dumper:
            return half(self.cls, self.connection) if obj.dtype.itemsize == 2 else self

    return ArrayDumper
