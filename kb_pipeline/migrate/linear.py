"""Linear maps from one embedding space to another, fitted on pairs. Pure numpy.

The orthogonal and the low-rank affine map of Drift-Adapter (Vejendla, EMNLP 2025, arXiv 2509.23471).
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

RIDGES = (1e-2, 1e-4)
"""Of the mean variance: the larger keeps the affine map steady where pairs are few or noisy, the smaller is closer."""
RANK = 128
HELD_BACK = 10
"""One pair in so many chooses between the maps and fits none."""
_NONE: Vectors = np.empty((0, 0), np.float32)


@dataclass(frozen=True, slots=True)
class LinearMap:
    """`y = unit((x @ left) @ right + shift)`; an empty `right` is left out."""

    kind: str
    """`orthogonal`, `affine` or `low-rank affine`."""
    left: Vectors
    """`(dims of the source, r)`."""
    right: Vectors
    """`(r, dims of the target)`."""
    shift: Vectors
    """`(dims of the target,)`."""

    def __call__(self, vectors: Vectors) -> Vectors:
        """`(n, dims of the target) float32`, of length one."""
        mapped = vectors @ self.left
        return _unit((mapped @ self.right if self.right.size else mapped) + self.shift)

    def dump(self) -> bytes:
        """As `load` reads it."""
        out = io.BytesIO()
        np.savez(out, left=self.left, right=self.right, shift=self.shift)
        return out.getvalue()


def load(kind: str, data: bytes) -> LinearMap:
    """A map that was dumped; nothing in it is executed."""
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return LinearMap(kind, arrays["left"], arrays["right"], arrays["shift"])


def fit(source: Vectors, target: Vectors) -> LinearMap:
    """The best of these maps from `(n, a)` to `(n, b)` by mean cosine on pairs that it was not fitted on."""
    x, y = _unit(source), _unit(target)
    held = np.arange(len(x)) % HELD_BACK == 0 if len(x) >= 2 * HELD_BACK else np.zeros(len(x), bool)
    tried = [orthogonal(x[~held], y[~held]), *affine(x[~held], y[~held])]
    seen = held if held.any() else ~held
    return max(tried, key=lambda one: float(np.sum(one(x[seen]) * y[seen])))


def orthogonal(x: Vectors, y: Vectors) -> LinearMap:
    """Orthogonal Procrustes (Schoenemann 1966), semi-orthogonal where the lengths differ: turns, does not stretch."""
    left, _, right = np.linalg.svd(x.T @ y, full_matrices=False)
    turned = cast(Vectors, left @ right)
    return LinearMap("orthogonal", _f32(turned), _NONE, _f32(np.zeros(len(y[0]))))


def affine(x: Vectors, y: Vectors) -> list[LinearMap]:
    """Least squares with a ridge, whole and (reduced-rank regression: what of it explains most of y) of rank 128."""
    centre_x, centre_y = x.mean(0), y.mean(0)
    a, b = (x - centre_x).astype(np.float64), (y - centre_y).astype(np.float64)
    products, wanted = a.T @ a, a.T @ b
    unit = max(float(np.trace(products)) / len(products), 1e-12)
    found: list[LinearMap] = []
    for ridge in RIDGES:
        gram = products + ridge * unit * np.eye(len(products))
        whole = cast(Doubles, np.linalg.solve(gram, wanted))
        found.append(LinearMap("affine", _f32(whole), _NONE, _f32(cast(Doubles, centre_y - centre_x @ whole))))
        if min(whole.shape) > RANK:
            main = cast(Doubles, np.linalg.eigh(whole.T @ gram @ whole)[1][:, -RANK:])
            shift = cast(Doubles, centre_y - centre_x @ whole @ main @ main.T)
            found.append(LinearMap("low-rank affine", _f32(whole @ main), _f32(main.T), _f32(shift)))
    return found


def _unit(vectors: Vectors) -> Vectors:
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return _f32(vectors / np.maximum(lengths, 1e-12))


def _f32(values: npt.NDArray[np.floating]) -> Vectors:
    return np.ascontiguousarray(values, dtype=np.float32)
