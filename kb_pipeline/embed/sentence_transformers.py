"""Any sentence-transformers model, in this process (extra `sentence-transformers`)."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from kb_pipeline.chunking.model import TokenCounter
from kb_pipeline.config.schema import EmbedderConfig
from kb_pipeline.embed.check import checked
from kb_pipeline.embed.protocol import Embedded, EmbedderSpec
from kb_pipeline.errors import ConfigError


class _ModelCounter:
    """Counts with the loaded model's own tokenizer."""

    def __init__(self, name: str, tokenizer: Any) -> None:
        self.name = name
        self._tokenizer = tokenizer

    def count(self, texts: Sequence[str]) -> list[int]:
        encoded = self._tokenizer(list(texts), add_special_tokens=False, truncation=False, padding=False)
        return [len(ids) for ids in encoded["input_ids"]]


class SentenceTransformersEmbedder:
    """Loads the model at first use; the model's own prompts are not applied, only the configured prefixes."""

    def __init__(self, config: EmbedderConfig, spec: EmbedderSpec) -> None:
        self.spec = spec
        self._config = config

    @cached_property
    def _model(self) -> Any:
        try:
            library: Any = importlib.import_module("sentence_transformers")
        except ImportError as error:
            raise ConfigError(
                "embedder.provider = 'sentence-transformers' needs an extra: "
                "pip install 'kb-pipeline[sentence-transformers]'"
            ) from error
        return library.SentenceTransformer(self.spec.model)

    @property
    def counter(self) -> TokenCounter:
        """The configured tokenizer's counter, else the loaded model's own."""
        return self._counter

    @cached_property
    def _counter(self) -> TokenCounter:
        if self._config.tokenizer:
            from kb_pipeline.chunking.tokens import make_counter

            return make_counter(self._config)
        return _ModelCounter(self.spec.model, self._model.tokenizer)

    def embed_documents(self, texts: Sequence[str]) -> Embedded:
        """Vectors of document texts; tokens are counted, nothing is billed."""
        return self._embed([self.spec.document_prefix + text for text in texts])

    def embed_queries(self, texts: Sequence[str]) -> Embedded:
        """Vectors of queries."""
        return self._embed([self.spec.query_prefix + text for text in texts])

    def _embed(self, texts: list[str]) -> Embedded:
        vectors: Any = self._model.encode(texts, convert_to_numpy=True, show_progress_bar=False)
        return Embedded(vectors=checked(self.spec, vectors, count=len(texts)), tokens=sum(self.counter.count(texts)))
