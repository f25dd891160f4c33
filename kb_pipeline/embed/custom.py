"""A user's own embedder: `provider = "python:package.module:Class"`."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from kb_pipeline.chunking.model import TokenCounter
from kb_pipeline.config.schema import EmbedderConfig
from kb_pipeline.embed.check import checked_answer
from kb_pipeline.embed.protocol import Embedded, EmbedderSpec
from kb_pipeline.errors import ConfigError

PREFIX = "python:"


def load_class(provider: str) -> type[Any]:
    """The class that `python:package.module:Class` names. Raises `ConfigError` saying which part was not found."""
    module_name, _, class_name = provider.removeprefix(PREFIX).partition(":")
    if not module_name or not class_name:
        raise ConfigError(f"embedder.provider = {provider!r}: expected python:package.module:Class")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(f"embedder.provider = {provider!r}: cannot import {module_name}: {error}") from error
    found = getattr(module, class_name, None)
    if not inspect.isclass(found):
        raise ConfigError(f"embedder.provider = {provider!r}: {module_name} has no class {class_name}")
    return found


def make_user_embedder(config: EmbedderConfig) -> Any:
    """An instance of the user's class: called with the `EmbedderConfig` if it takes an argument, else with none."""
    wanted = load_class(config.provider)
    parameters = inspect.signature(wanted).parameters
    return wanted(config) if parameters else wanted()


def user_spec(config: EmbedderConfig, *, storage_of: Any) -> EmbedderSpec:
    """Spec of a user's embedder: the configuration's values, else its own `spec`, else its `dims` and `model`.

    With `dims` in the configuration nothing is imported.
    """
    own_spec: Any = None
    dims, model = config.dims, config.model
    if dims is None:
        user = load_class(config.provider)
        if not isinstance(getattr(user, "dims", None), int):
            user = make_user_embedder(config)
        own_spec = getattr(user, "spec", None)
        dims = own_spec.dims if own_spec is not None else getattr(user, "dims", None)
        model = model or (own_spec.model if own_spec is not None else getattr(user, "model", None))
        if not isinstance(dims, int):
            raise ConfigError(f"embedder.provider = {config.provider!r}: set embedder.dims, or give the class `dims`")
    return EmbedderSpec(
        provider=config.provider,
        model=model or config.provider.rpartition(":")[2],
        dims=dims,
        storage=storage_of(dims),
        document_prefix=config.document_prefix,
        query_prefix=config.query_prefix,
        normalize=config.normalize,
    )


class CustomEmbedder:
    """Wraps a user's class: prefixes are the class's own business, vectors are checked and normalised by us.

    The class has `embed_documents(texts)` and, where queries differ, `embed_queries(texts)`; each gives `Embedded` or
    an `(n, dims)` array. It may have `counter` (a `TokenCounter`). An exception with a true attribute `transient` is
    tried again.
    """

    def __init__(self, config: EmbedderConfig, spec: EmbedderSpec) -> None:
        self.spec = spec
        self._config = config

    @cached_property
    def _user(self) -> Any:
        return make_user_embedder(self._config)

    @property
    def counter(self) -> TokenCounter:
        """The class's own counter, else the configured tokenizer's."""
        return self._counter

    @cached_property
    def _counter(self) -> TokenCounter:
        own = getattr(self._user, "counter", None)
        if own is not None:
            return own
        from kb_pipeline.chunking.tokens import make_counter

        return make_counter(self._config)

    def embed_documents(self, texts: Sequence[str]) -> Embedded:
        """Vectors of document texts."""
        return self._checked(self._user.embed_documents(texts), texts)

    def embed_queries(self, texts: Sequence[str]) -> Embedded:
        """Vectors of queries; as documents where the class has no `embed_queries`."""
        ask = getattr(self._user, "embed_queries", None) or self._user.embed_documents
        return self._checked(ask(texts), texts)

    def _checked(self, answer: Any, texts: Sequence[str]) -> Embedded:
        counted = 0 if isinstance(answer, Embedded) else sum(self.counter.count(texts))
        return checked_answer(self.spec, answer, count=len(texts), tokens=counted)
