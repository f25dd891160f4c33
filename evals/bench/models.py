"""Embedders for the benchmarks of a change of model: other lengths without a provider."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from kb_pipeline.config.schema import EmbedderConfig
    from kb_pipeline.embed.local import LocalEmbedder
    from kb_pipeline.embed.protocol import Vectors

PROJECTED = "python:evals.bench.models:Projected"
PREPARED = "python:evals.bench.models:Prepared"
LOG = "KB_BENCH_TEXTS"
"""Environment variable: a file in which every text sent is written down, so that what is paid twice can be counted."""


class Projected:
    """The local 256 dims through a fixed random matrix: another space, the same neighbours as far as dims allow."""

    def __init__(self, config: EmbedderConfig) -> None:
        self._dims = config.dims or 768
        self._name = config.model

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        """Vectors of documents."""
        if path := os.environ.get(LOG):
            digests = (hashlib.sha256(f"{self._name}:{text}".encode()).hexdigest() for text in texts)
            file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            os.write(file, "".join(f"{digest}\n" for digest in digests).encode())
            os.close(file)
        return self.embed_queries(texts)

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        """Vectors of questions."""
        return _local().embed_documents(texts).vectors @ _matrix(self._dims)


class Prepared:
    """Vectors that are there already: what is measured with it is everything but the model."""

    def __init__(self, config: EmbedderConfig) -> None:
        self._pool = np.random.default_rng(7).standard_normal((1024, config.dims or 768), dtype=np.float32)

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        """The first vectors of the pool."""
        return np.resize(self._pool, (len(texts), self._pool.shape[1]))


@cache
def _local() -> LocalEmbedder:
    from kb_pipeline.embed.local import LocalEmbedder
    from kb_pipeline.embed.protocol import EmbedderSpec

    return LocalEmbedder(EmbedderSpec("local", "wordllama-l2-supercat", 256, "vector"))


@cache
def _matrix(dims: int) -> Vectors:
    return np.random.default_rng(dims).standard_normal((256, dims), dtype=np.float32)
