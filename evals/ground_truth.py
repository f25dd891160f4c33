"""What an exact search would find, by one streaming pass over the tenant's vectors, and recall against it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from queue import Queue
from threading import Thread
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from kb_pipeline.embed.protocol import Vectors

BLOCK_ROWS = 8192
"""256 d: 8 MB a block; larger ones are no faster."""
EPSILON = 1e-5
"""Scores this close are a tie: float32 sums of 1,000 products in another order differ by about a tenth of it."""

Block = tuple[npt.NDArray[np.void], Vectors]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Truth:
    """The best contents for each question by cosine similarity."""

    fingerprints: tuple[tuple[bytes, ...], ...]
    """For each question, best first; fewer than asked for only when the corpus is smaller."""
    scores: Vectors
    """`(questions, k) float32` cosine similarities, descending; -inf where the corpus is smaller than k."""
    rows: int
    """Vectors that were looked at."""
    corpus_hash: str
    """Over the set of fingerprints, whatever their order."""


def exact_top_k(blocks: Iterable[Block], questions: Vectors, *, k: int) -> Truth:
    """The k nearest of all streamed vectors for every question, exactly (faiss `knn`, BLAS, float32).

    Memory: two blocks, and k results a question. Reading goes on in a thread while BLAS multiplies.
    """
    import faiss

    faiss.omp_set_num_threads(max(1, (os.cpu_count() or 2) - 1))  # one core feeds: threads that outnumber cores spin
    asked = _unit(questions)
    n = len(asked)
    best = np.full((n, k), -np.inf, dtype=np.float32)
    names = np.zeros((n, k), dtype="V32")
    digest, rows = np.zeros(4, dtype=np.uint64), 0
    for fingerprints, vectors in ahead(blocks):
        rows += len(vectors)
        digest += np.ascontiguousarray(fingerprints).view("<u8").reshape(-1, 4).sum(axis=0, dtype=np.uint64)
        if n == 0:
            continue
        here = min(k, len(vectors))
        scores, places = faiss.knn(asked, _unit(vectors), here, metric=faiss.METRIC_INNER_PRODUCT)
        both = np.concatenate([best, scores], axis=1)
        order = np.argsort(-both, axis=1, kind="stable")[:, :k]
        best = np.take_along_axis(both, order, axis=1)
        names = np.take_along_axis(np.concatenate([names, fingerprints[places]], axis=1), order, axis=1)
    found = min(k, rows)
    return Truth(
        fingerprints=tuple(tuple(name.tobytes() for name in row[:found]) for row in names),
        scores=best,
        rows=rows,
        corpus_hash=f"{rows:x}-" + digest.astype("<u8").tobytes().hex(),
    )


def recall_at(
    truth: Truth,
    questions: Vectors,
    results: Sequence[Sequence[bytes]],
    *,
    k: int,
    vectors_of: Callable[[Sequence[bytes]], Mapping[bytes, Vectors]],
) -> npt.NDArray[np.float64]:
    """Share of each question's k results that exact search could have given, `(questions,)`.

    A result counts when its similarity reaches the k-th best minus `EPSILON`, so that equal vectors (the same words in
    another order) cost no recall. A repeated result counts once. A corpus smaller than k is asked for all it has.
    `vectors_of` is called once, for the results that are not among the known best.
    """
    depth = min(k, truth.rows)
    if depth == 0:
        return np.ones(len(results))
    asked = _unit(questions)
    known = [set(names[:depth]) for names in truth.fingerprints]
    firsts = [dict.fromkeys(found[:k]) for found in results]
    strangers = {name for best, found in zip(known, firsts, strict=True) for name in found if name not in best}
    vectors = vectors_of(sorted(strangers)) if strangers else {}
    shares = np.zeros(len(results))
    for i, (best, found) in enumerate(zip(known, firsts, strict=True)):
        floor = float(truth.scores[i, depth - 1]) - EPSILON
        right = sum(name in best or _reaches(vectors.get(name), asked[i], floor) for name in found)
        shares[i] = min(right, depth) / depth
    return shares


def ahead(blocks: Iterable[T], *, depth: int = 2) -> Iterable[T]:
    """The same items, read by a thread up to `depth` ahead; an error of the reader is raised here."""
    queue: Queue[tuple[T] | BaseException | None] = Queue(maxsize=depth)
    stopped = False

    def read() -> None:
        try:
            for block in blocks:
                if stopped:
                    return
                queue.put((block,))
            queue.put(None)
        except BaseException as error:
            queue.put(error)

    thread = Thread(target=read, name="ground-truth-reader", daemon=True)
    thread.start()
    try:
        while (item := queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item[0]
    finally:
        stopped = True
        while thread.is_alive():
            while not queue.empty():
                queue.get()
            thread.join(0.01)


def _reaches(vector: Vectors | None, question: Vectors, floor: float) -> bool:
    return vector is not None and float(_unit(vector[None])[0] @ question) >= floor


def _unit(vectors: Vectors) -> Vectors:
    """Rows of length one, so that inner products are cosines; zero rows stay zero."""
    norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float32))
    if np.allclose(norms, 1.0, atol=1e-6):
        return np.ascontiguousarray(vectors)
    return np.ascontiguousarray(vectors / np.where(norms == 0, 1, norms)[:, None])
