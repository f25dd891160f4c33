"""What an embedder is, and what it is made from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from kb_pipeline.chunking.model import TokenCounter

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class EmbedderSpec:
    """Identity of an embedding version: two specs with the same hash share one column."""

    provider: str
    model: str
    dims: int
    storage: str
    """Column type: `vector` or `halfvec`."""
    document_prefix: str = ""
    query_prefix: str = ""
    normalize: bool = True

    def hash(self) -> bytes:
        """SHA-256 over the canonical JSON of all fields (32 bytes)."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).digest()

    def space(self) -> tuple[str, str, int, str, str]:
        """What decides the values before a cast: specs of one space are filled from each other by SQL, with no call."""
        return (self.provider, self.model, self.dims, self.document_prefix, self.query_prefix)


@dataclass(frozen=True, slots=True)
class Embedded:
    """The answer for a list of texts."""

    vectors: Vectors
    """`(n, dims) float32`, in the order of the texts."""
    tokens: int
    """Billed by the provider, or counted where it does not say."""


class Embedder(Protocol):
    """Turns texts into vectors. A user's own class (`python:package.module:Class`) implements this."""

    @property
    def spec(self) -> EmbedderSpec:
        """Identity of the embedding version it makes."""
        ...

    @property
    def counter(self) -> TokenCounter:
        """Counts tokens as the model does."""
        ...

    def embed_documents(self, texts: Sequence[str]) -> Embedded:
        """Vectors of document texts; the embedder adds its document prefix itself."""
        ...

    def embed_queries(self, texts: Sequence[str]) -> Embedded:
        """Vectors of queries; the embedder adds its query prefix itself."""
        ...
