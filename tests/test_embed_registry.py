"""From configuration to embedder: known models, mistakes with a hint, a user's own class, prices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from embed_helpers import Store, pending

from kb_pipeline.config.schema import EmbedderConfig
from kb_pipeline.embed.prices import price
from kb_pipeline.embed.protocol import Embedded
from kb_pipeline.embed.registry import make_embedder, make_lane, max_input_tokens, resolve_spec
from kb_pipeline.errors import ConfigError, EmbedderError, ProviderUnavailable

HERE = "python:test_embed_registry:"


class Letters:
    """A user's embedder that gives bare arrays and has no counter."""

    dims = 4

    def embed_documents(self, texts: Sequence[str]) -> np.ndarray:
        for text in texts:
            if "bad" in text:
                raise ValueError("a bad text")
        return np.array([[len(text), text.count("a"), text.count("b"), 1] for text in texts], np.float64)


class Configured(Letters):
    """A user's embedder that reads the configuration and says what it billed."""

    model = "letters-2"

    def __init__(self, config: EmbedderConfig) -> None:
        self._tokens = config.batch_above

    def embed_documents(self, texts: Sequence[str]) -> Embedded:
        return Embedded(super().embed_documents(texts).astype(np.float32), tokens=self._tokens)

    def embed_queries(self, texts: Sequence[str]) -> Embedded:
        return Embedded(np.ones((len(texts), 4), np.float32), tokens=1)


class Tired(Letters):
    """Fails twice, in a way it says will pass."""

    calls = 0

    def embed_documents(self, texts: Sequence[str]) -> np.ndarray:
        type(self).calls += 1
        if self.calls <= 2:
            error = RuntimeError("out of memory for now")
            error.transient = True  # type: ignore[attr-defined]
            raise error
        return super().embed_documents(texts)


class Down(Letters):
    """Never works."""

    def embed_documents(self, texts: Sequence[str]) -> np.ndarray:
        raise ConnectionError("nobody there")


class Broken(Letters):
    """Another shape than it says."""

    def embed_documents(self, texts: Sequence[str]) -> np.ndarray:
        return np.ones((len(texts), 5))


@pytest.mark.parametrize(
    ("model", "dims", "storage"),
    [("text-embedding-3-small", 1536, "vector"), ("text-embedding-3-large", 3072, "halfvec"), (None, 1536, "vector")],
)
def test_known_models_need_only_a_name(model: str | None, dims: int, storage: str) -> None:
    spec = resolve_spec(EmbedderConfig(provider="openai", model=model))
    assert (spec.dims, spec.storage) == (dims, storage)
    assert max_input_tokens(EmbedderConfig(provider="openai", model=model), spec) == 8192


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"provider": "openia"}, "did you mean 'openai'"),
        ({"provider": "openai", "model": "mine"}, "set embedder.dims"),
        ({"provider": "openai", "model": "text-embedding-ada-002", "dims": 256}, "vectors of 1536"),
        ({"provider": "openai", "dims": 2000}, "vectors of 1536"),
        ({"dims": 100}, "64, 128, 256"),
        ({"model": "big"}, "wordllama-l2-supercat"),
        ({"provider": "python:nowhere.at.all:Thing", "dims": None}, "cannot import nowhere.at.all"),
        ({"provider": HERE + "Missing"}, "no class Missing"),
        ({"provider": "python:justamodule"}, "python:package.module:Class"),
    ],
)
def test_a_mistake_is_named(values: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        resolve_spec(EmbedderConfig.model_validate(values))


def test_a_class_of_ones_own() -> None:
    config = EmbedderConfig(provider=HERE + "Letters")
    spec = resolve_spec(config)
    assert (spec.model, spec.dims) == ("Letters", 4)
    answer = make_embedder(config).embed_documents(["abba", "ab"])
    assert answer.vectors.dtype == np.float32 and answer.tokens > 0
    np.testing.assert_allclose(np.linalg.norm(answer.vectors, axis=1), 1, atol=1e-6)


def test_a_class_that_takes_the_configuration() -> None:
    config = EmbedderConfig(provider=HERE + "Configured", batch_above=7)
    assert resolve_spec(config).model == "letters-2"
    embedder = make_embedder(config)
    assert embedder.embed_documents(["a", "b"]).tokens == 7
    np.testing.assert_allclose(embedder.embed_queries(["a"]).vectors, 0.5)


def test_one_bad_text_does_not_stop_the_others() -> None:
    config = EmbedderConfig(provider=HERE + "Letters")
    store = Store()
    texts = [f"text {number}" for number in range(50)] + ["a bad one"]
    report = make_lane(config, make_embedder(config)).run(pending(texts), on_batch=store.keep, on_refused=store.refuse)
    assert len(store.vectors) == 50 and report.refused == 1
    assert "ValueError: a bad text" in store.refused["a bad one"].detail


def test_a_transient_error_is_tried_again() -> None:
    config = EmbedderConfig(provider=HERE + "Tired")
    store = Store()
    report = make_lane(config, make_embedder(config)).run(pending(["x"]), on_batch=store.keep, on_refused=store.refuse)
    assert len(store.vectors) == 1 and report.retries == 2


def test_an_embedder_that_cannot_do_anything_quarantines_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kb_pipeline.embed.in_process._ATTEMPTS", 2)
    for name, error in (("Broken", EmbedderError), ("Down", ProviderUnavailable)):
        config = EmbedderConfig(provider=HERE + name)
        store = Store()
        with pytest.raises(error):
            make_lane(config, make_embedder(config)).run(
                pending(["x", "y"]), on_batch=store.keep, on_refused=store.refuse
            )
        assert not store.refused


def test_prices() -> None:
    listed = price("text-embedding-3-small")
    assert listed is not None and listed.usd(1_000_000) == 0.02 and listed.date
    half = price("text-embedding-3-small", lane="batch")
    assert half is not None and half.usd_per_million_tokens == 0.01
    own = price("mine", override=0.5, lane="batch")
    assert own is not None and own.usd_per_million_tokens == 0.25
    free = price("wordllama-l2-supercat")
    assert free is not None and free.usd_per_million_tokens == 0
    assert price("mine") is None
