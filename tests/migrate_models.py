"""Embedders of other lengths for tests of a change of model: the local model's vectors, turned at random."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache

import numpy as np

from kb_pipeline.config.schema import EmbedderConfig
from kb_pipeline.embed.local import LocalEmbedder
from kb_pipeline.embed.protocol import EmbedderSpec, Vectors

PROJECTED = "python:migrate_models:Projected"
WORSE = "python:migrate_models:Worse"
PREPARED = "python:migrate_models:Prepared"


class Projected:
    """The local 256 dims through a fixed random matrix: another space, the same neighbours as far as dims allow."""

    def __init__(self, config: EmbedderConfig) -> None:
        self._dims = config.dims or 768

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        return _local().embed_documents(texts).vectors @ _matrix(self._dims)


class Worse:
    """Vectors that have nothing to do with the meaning."""

    def __init__(self, config: EmbedderConfig) -> None:
        self._dims = config.dims or 64

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        seeds = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") for text in texts]
        return np.stack([np.random.default_rng(seed).standard_normal(self._dims) for seed in seeds]).astype(np.float32)


class Prepared:
    """Vectors that are there already: what is measured with it is everything but the model."""

    def __init__(self, config: EmbedderConfig) -> None:
        rng = np.random.default_rng(7)
        self._pool = rng.standard_normal((1024, config.dims or 768), dtype=np.float32)

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        return np.resize(self._pool, (len(texts), self._pool.shape[1]))


@cache
def _local() -> LocalEmbedder:
    return LocalEmbedder(EmbedderSpec("local", "l2_supercat_256", 256, "vector"))


@cache
def _matrix(dims: int) -> Vectors:
    return np.random.default_rng(dims).standard_normal((256, dims), dtype=np.float32)
