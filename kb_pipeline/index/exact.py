"""What an exact search would find, by one pass over blocks of vectors (numpy only)."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
EPSILON = 1e-5
"""Distances this close are a tie: equal vectors cost no recall."""


def unit(vectors: Vectors) -> Vectors:
    """Rows of length one; zero rows stay zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.ascontiguousarray(vectors / np.where(lengths == 0, 1, lengths), dtype=np.float32)


def nearest_distances(blocks: Iterable[Vectors], queries: Vectors, k: int) -> npt.NDArray[np.float64]:
    """Cosine distances of the k nearest vectors to each query, `(queries, k)`, nearest first; inf where there are
    fewer."""
    asked = unit(queries)
    best = np.full((len(asked), k), np.inf, dtype=np.float32)
    for block in blocks:
        both = np.concatenate([best, 1 - asked @ unit(block).T], axis=1)
        best = np.partition(both, k - 1, axis=1)[:, :k] if both.shape[1] > k else both
    return np.sort(best.astype(np.float64), axis=1)


def recall_of(found: Iterable[float], exact: npt.NDArray[np.float64]) -> float:
    """Share of the exact results that were found, from distances alone: one found counts when it is no farther than the
    last exact one."""
    wanted = int(np.isfinite(exact).sum())
    if not wanted:
        return 1.0
    limit = float(exact[wanted - 1]) + EPSILON
    return min(wanted, sum(distance <= limit for distance in found)) / wanted
