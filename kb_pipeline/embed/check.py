"""What every vector passes before it is stored: count, dimensions, finite, not zero, unit length."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kb_pipeline.embed.protocol import Embedded, EmbedderSpec, Vectors
from kb_pipeline.errors import EmbedderError

_TINY = 1e-12


def checked(spec: EmbedderSpec, vectors: npt.ArrayLike, *, count: int) -> Vectors:
    """The vectors as `(count, dims) float32`, of unit length where the spec says so.

    Raises `EmbedderError` with what was expected and what came.
    """
    array = np.asarray(vectors, dtype=np.float32)
    if array.shape != (count, spec.dims):
        raise EmbedderError(
            f"{spec.provider}/{spec.model} answered {count} texts with an array of shape {array.shape}; "
            f"({count}, {spec.dims}) was expected: check `dims` in [embedder]"
        )
    good = usable(array)
    if not good.all():
        raise EmbedderError(
            f"{spec.provider}/{spec.model} answered {int((~good).sum())} of {count} texts "
            f"with a vector that is zero or not finite"
        )
    return unit(array) if spec.normalize else array


def usable(array: Vectors) -> npt.NDArray[np.bool_]:
    """Which rows of an `(n, dims)` array are finite and not zero."""
    # one pass: the sum of squares is not finite when any value is not, and overflows only where no embedding lives
    squares = np.einsum("ij,ij->i", array, array, dtype=np.float64)
    return np.isfinite(squares) & (squares > _TINY)


def unit(array: Vectors) -> Vectors:
    """The rows scaled to unit length. Rows must be usable."""
    lengths = np.sqrt(np.einsum("ij,ij->i", array, array, dtype=np.float64))
    return (array / lengths[:, None]).astype(np.float32, copy=False)


def checked_answer(spec: EmbedderSpec, answer: Embedded | npt.ArrayLike, *, count: int, tokens: int) -> Embedded:
    """A user's answer, checked; a bare array is taken with `tokens` as counted by us."""
    if isinstance(answer, Embedded):
        return Embedded(vectors=checked(spec, answer.vectors, count=count), tokens=answer.tokens)
    return Embedded(vectors=checked(spec, answer, count=count), tokens=tokens)
