"""Python lists as Arrow arrays, without pandas.

`pyarrow.array` of a list imports pandas where it is installed, to ask whether the list is one of its objects: half a
second and 55 MB for a process that has no other use for it. Buffers built with numpy ask nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pyarrow as pa


def arrow_array(values: Sequence[Any], kind: pa.DataType) -> pa.Array[Any]:
    """An array of a type this package stages: text, binary of fixed width, or integer; None only where text or
    binary.
    """
    import pyarrow as pa

    data, offsets = _data(values, kind)
    buffers = [_validity(values), *([] if offsets is None else [pa.py_buffer(offsets.data)]), pa.py_buffer(data)]
    return pa.Array.from_buffers(kind, len(values), buffers)


def list_array(bounds: Sequence[int], values: pa.Array[Any], kind: pa.DataType) -> pa.Array[Any]:
    """Lists of `values`: list i is `values[bounds[i]:bounds[i + 1]]`."""
    import pyarrow as pa

    offsets = pa.py_buffer(np.array(bounds, np.int32).data)
    return pa.Array.from_buffers(kind, len(bounds) - 1, [None, offsets], children=[values])


def _data(values: Sequence[Any], kind: pa.DataType) -> tuple[Any, npt.NDArray[np.int32] | None]:
    import pyarrow as pa

    if pa.types.is_string(kind):
        encoded = [b"" if value is None else value.encode() for value in values]
        offsets = np.zeros(len(encoded) + 1, np.int64)
        np.cumsum([len(value) for value in encoded], out=offsets[1:])
        if offsets[-1] > np.iinfo(np.int32).max:
            raise ValueError("more than 2 GiB of text in one batch")
        return b"".join(encoded), offsets.astype(np.int32)
    if pa.types.is_fixed_size_binary(kind):
        nothing = bytes(kind.byte_width)
        return b"".join(nothing if value is None else value for value in values), None
    return np.array(values, kind.to_pandas_dtype()), None


def _validity(values: Sequence[Any]) -> Any:
    import pyarrow as pa

    if None not in values:
        return None
    return pa.py_buffer(np.packbits([value is not None for value in values], bitorder="little").data)
