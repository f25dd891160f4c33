"""OpenAI and every server that speaks its embeddings API, through the `openai` SDK with its retries switched off."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from kb_pipeline.chunking.model import TokenCounter
from kb_pipeline.config.schema import EmbedderConfig
from kb_pipeline.embed.answers import SpoiltAnswer, read_answer
from kb_pipeline.embed.check import checked
from kb_pipeline.embed.faults import Fault, Kind, understand
from kb_pipeline.embed.models import known_model
from kb_pipeline.embed.protocol import Embedded, EmbedderSpec
from kb_pipeline.errors import ConfigError, EmbedderError, ProviderUnavailable

if TYPE_CHECKING:
    import openai

DEFAULT_URL = "https://api.openai.com/v1"
_ATTEMPTS = 4
_INPUTS = 256
_CONNECT_S = 10.0


@dataclass(frozen=True, slots=True)
class Access:
    """Where the provider is and how to get in."""

    base_url: str
    key: str
    key_env: str
    """Variable the key was read from; what error messages name."""


def access(config: EmbedderConfig) -> Access:
    """Address from the configuration or `OPENAI_BASE_URL`, key from the configured variable.

    Raises `ConfigError` in one line when the variable is empty.
    """
    base_url = config.base_url or os.environ.get("OPENAI_BASE_URL") or DEFAULT_URL
    key = os.environ.get(config.api_key_env, "").strip()
    if not key:
        raise ConfigError(
            f"no API key: the environment variable {config.api_key_env} is not set "
            f"(embedder.api_key_env names another; for a server that needs no key, give it any value)"
        )
    return Access(base_url=base_url, key=key, key_env=config.api_key_env)


def request_timeout(config: EmbedderConfig) -> Any:
    """The SDK's timeouts: a server takes a connection soon or not at all, an answer may take long."""
    import openai

    return openai.Timeout(config.request_timeout_s, connect=min(config.request_timeout_s, _CONNECT_S))


def request_arguments(spec: EmbedderSpec) -> dict[str, Any]:
    """All of a request but its texts. `dimensions` is sent only to models that take it, when fewer are wanted."""
    arguments: dict[str, Any] = {"model": spec.model, "encoding_format": "base64"}
    known = known_model(spec.provider, spec.model)
    if known is not None and known.shorter_dims and spec.dims != known.dims:
        arguments["dimensions"] = spec.dims
    return arguments


class OpenAIEmbedder:
    """For queries and small jobs; documents in number go through `SyncLane`. Retries a few times, then gives up."""

    def __init__(self, config: EmbedderConfig, spec: EmbedderSpec) -> None:
        self.spec = spec
        self._config = config
        self._inputs = min(_INPUTS, config.max_batch_inputs)
        """Texts of a request: halved where the server takes fewer."""

    @property
    def counter(self) -> TokenCounter:
        """The counter of the model's own tokenizer."""
        return self._counter

    @cached_property
    def _counter(self) -> TokenCounter:
        from kb_pipeline.chunking.tokens import make_counter

        return make_counter(self._config)

    @cached_property
    def _access(self) -> Access:
        return access(self._config)

    @cached_property
    def _client(self) -> openai.OpenAI:
        import openai

        return openai.OpenAI(
            api_key=self._access.key,
            base_url=self._access.base_url,
            max_retries=0,
            timeout=request_timeout(self._config),
        )

    def close(self) -> None:
        """Close its connections; a further question opens new ones."""
        client = self.__dict__.pop("_client", None)
        if client is not None:
            client.close()

    def __del__(self) -> None:
        # the client is part of a cycle: left to the garbage collector, its socket may go before it is closed
        self.close()

    def embed_documents(self, texts: Sequence[str]) -> Embedded:
        """Vectors of document texts."""
        return self._embed([self.spec.document_prefix + text for text in texts])

    def embed_queries(self, texts: Sequence[str]) -> Embedded:
        """Vectors of queries."""
        return self._embed([self.spec.query_prefix + text for text in texts])

    def _embed(self, texts: list[str]) -> Embedded:
        import numpy as np

        parts: list[Embedded] = []
        while texts:
            some = texts[: self._inputs]
            try:
                parts.append(self._retried(some))
            except Fault as refused:
                if len(some) == 1:
                    raise EmbedderError(f"{self._access.base_url}: {refused}") from refused
                self._inputs = len(some) // 2
            else:
                texts = texts[len(some) :]
        vectors = (
            np.concatenate([part.vectors for part in parts]) if parts else np.empty((0, self.spec.dims), np.float32)
        )
        return Embedded(vectors=vectors, tokens=sum(part.tokens for part in parts))

    def _retried(self, texts: list[str]) -> Embedded:
        """Raises a `Fault` when the request is refused for what is in it, which may be the number of texts."""
        from tenacity import Retrying, retry_if_exception, stop_after_attempt
        from tenacity.wait import wait_random_exponential

        def again(error: BaseException) -> bool:
            return isinstance(error, Fault) and error.kind is not Kind.CONTENT and (error.retry_after_s or 0) <= 5

        retrying = Retrying(
            retry=retry_if_exception(again),
            wait=wait_random_exponential(multiplier=0.25, max=4),
            stop=stop_after_attempt(_ATTEMPTS),
            reraise=True,
        )
        try:
            return retrying(self._once, texts)
        except Fault as fault:
            if fault.kind is Kind.CONTENT:
                raise
            if fault.kind is Kind.SPOILT:
                raise EmbedderError(f"{self._access.base_url}: {fault}") from fault
            raise ProviderUnavailable(f"{self._access.base_url} cannot serve now: {fault}") from fault

    def _once(self, texts: list[str]) -> Embedded:
        import openai

        where = self._access
        try:
            raw = self._client.embeddings.with_raw_response.create(input=texts, **request_arguments(self.spec))
            answer = read_answer(raw.content, count=len(texts), dims=self.spec.dims, normalize=False)
        except SpoiltAnswer as error:
            raise Fault(Kind.SPOILT, str(error), maybe_billed=True) from error
        except openai.OpenAIError as error:
            meaning = understand(error, key_env=where.key_env, model=self.spec.model, base_url=where.base_url)
            raise meaning from error
        if not answer.good.all():
            raise Fault(Kind.SPOILT, answer.problem, maybe_billed=True)
        tokens = answer.tokens if answer.tokens is not None else sum(self.counter.count(texts))
        return Embedded(vectors=checked(self.spec, answer.vectors, count=len(texts)), tokens=tokens)
