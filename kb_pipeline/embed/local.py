"""The default embedder: WordLlama's 256 dimensions, offline, from the files its wheel ships."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kb_pipeline.chunking.model import TokenCounter
from kb_pipeline.embed.check import checked
from kb_pipeline.embed.protocol import Embedded, EmbedderSpec, Vectors
from kb_pipeline.errors import ConfigError

if TYPE_CHECKING:
    from kb_pipeline.embed.words import Ragged, WordTokenizer

_SLICE = 512
_FEW = 64


def wordllama_file(relative: str) -> Path:
    """Path of a file inside the installed package wordllama, found without importing it (that alone takes 0.4 s)."""
    from importlib.util import find_spec

    found = find_spec("wordllama")
    folders = list(found.submodule_search_locations or ()) if found else []
    for folder in folders:
        path = Path(folder) / relative
        if path.is_file():
            return path
    raise ConfigError(
        f"the local embedder needs {relative} of the package wordllama; looked in: {folders or 'not installed'}"
    )


def word_tokenizer() -> WordTokenizer:
    """The local model's tokenizer, fast form."""
    from tokenizers import Tokenizer

    from kb_pipeline.embed.words import WordTokenizer

    return WordTokenizer(Tokenizer.from_file(str(wordllama_file("tokenizers/l2_supercat_tokenizer_config.json"))))


class LocalEmbedder:
    """Mean of token vectors, then unit length: what `WordLlama.embed(texts, norm=True)` gives, to 1e-5, but faster.

    It reads weights and tokenizer straight from the package: importing wordllama and its embed() cost 0.5 s and pad
    every text to the longest of its batch.
    """

    def __init__(self, spec: EmbedderSpec) -> None:
        self.spec = spec

    @property
    def counter(self) -> TokenCounter:
        """The counter whose numbers are this model's tokens."""
        from kb_pipeline.chunking.tokens import local_counter

        return local_counter()

    @cached_property
    def _tokenizer(self) -> WordTokenizer:
        return word_tokenizer()

    @cached_property
    def _half(self) -> npt.NDArray[np.float16]:
        from safetensors import safe_open

        opened: Any = safe_open(wordllama_file("weights/l2_supercat_256.safetensors"), framework="np")
        with opened as weights:
            matrix: npt.NDArray[np.float16] = weights.get_tensor("embedding.weight")
        return np.ascontiguousarray(matrix[:, : self.spec.dims])

    @cached_property
    def _single(self) -> Vectors:
        return self._half.astype(np.float32)

    def embed_documents(self, texts: Sequence[str]) -> Embedded:
        """Vectors of document texts; tokens are counted, nothing is billed."""
        return self._embed(texts, self.spec.document_prefix)

    def embed_queries(self, texts: Sequence[str]) -> Embedded:
        """Vectors of queries."""
        return self._embed(texts, self.spec.query_prefix)

    def _embed(self, texts: Sequence[str], prefix: str) -> Embedded:
        vectors = np.empty((len(texts), self.spec.dims), np.float32)
        tokens = 0
        for start in range(0, len(texts), _SLICE):
            some = texts[start : start + _SLICE]
            ragged = self._tokenizer.encode([prefix + text for text in some] if prefix else some)
            tokens += ragged.ids.size
            self._pool(ragged, vectors[start : start + len(some)])
        return Embedded(vectors=checked(self.spec, vectors, count=len(texts)), tokens=tokens)

    def _pool(self, ragged: Ragged, out: Vectors) -> None:
        # converting the whole matrix takes 0.1 s: not worth it for a query
        few = len(out) <= _FEW and "_single" not in self.__dict__
        start = 0
        for row, end in enumerate(ragged.ends.tolist()):
            ids = ragged.ids[start:end]
            matrix = self._half[ids].astype(np.float32) if few else self._single.take(ids, 0)
            out[row] = np.ones(ids.size, np.float32) @ matrix
            out[row] /= max(ids.size, 1)
            start = end
