"""The local embedder gives WordLlama's vectors, and its words add up to WordLlama's tokens."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kb_pipeline.config.schema import EmbedderConfig
from kb_pipeline.embed.local import LocalEmbedder, word_tokenizer
from kb_pipeline.embed.registry import make_embedder, resolve_spec
from kb_pipeline.embed.words import WordTokenizer
from kb_pipeline.errors import EmbedderError

TEXTS = [
    "Rotate the API key every 90 days.",
    "  leading and   inner spaces\n\n\nblank lines\t\ttabs\r\nwindows ends  ",
    "ünïcödé, 日本語のテキスト, emoji 🚀🚀, zero\u200bwidth, nbsp\xa0here",
    "special <s> tokens</s> spelt <unk>out<s><s>",
    "\u2581 the mark itself \u2581\u2581x",
    "x" * 4000,
    "def f(a, b):\n    return a + b  # sum\n",
]


@cache
def wordllama() -> Any:
    import wordllama

    folder = Path(wordllama.__file__).parent
    return wordllama.WordLlama.load(cache_dir=folder, disable_download=True)


@cache
def embedder() -> LocalEmbedder:
    made = make_embedder(EmbedderConfig())
    assert isinstance(made, LocalEmbedder)
    return made


@cache
def words() -> WordTokenizer:
    return word_tokenizer()


def ids_by_word(texts: list[str]) -> list[list[int]]:
    ragged = words().encode(texts)
    return [part.tolist() for part in np.split(ragged.ids, ragged.ends[:-1])]


def ids_of_wordllama(texts: list[str]) -> list[list[int]]:
    tokenizer = wordllama().tokenizer
    return [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]


def test_vectors_are_those_of_wordllama() -> None:
    ours = embedder().embed_documents(TEXTS)
    np.testing.assert_allclose(ours.vectors, wordllama().embed(TEXTS, norm=True), atol=1e-5)
    assert ours.tokens == sum(len(ids) for ids in ids_of_wordllama(TEXTS))


def test_few_texts_and_many_give_the_same() -> None:
    many = [f"{text} {number}" for number in range(30) for text in TEXTS]
    whole = embedder().embed_documents(many).vectors
    for number in (0, 17, 209):
        alone = make_embedder(EmbedderConfig()).embed_queries([many[number]]).vectors
        np.testing.assert_allclose(alone[0], whole[number], atol=1e-6)


def test_ids_are_those_of_the_tokenizer() -> None:
    assert ids_by_word([*TEXTS, "", " ", "\n"]) == ids_of_wordllama([*TEXTS, "", " ", "\n"])


ANY_TEXTS = st.lists(
    st.text(alphabet=st.one_of(st.sampled_from(" \n\t\u2581<s>/unkab.1"), st.characters(codec="utf-8")))
)


@settings(max_examples=300, deadline=None)
@given(ANY_TEXTS)
def test_any_text_splits_at_words(texts: list[str]) -> None:
    assert ids_by_word([*texts, "end"]) == ids_of_wordllama([*texts, "end"])


@settings(max_examples=100, deadline=None)
@given(ANY_TEXTS)
def test_words_learned_together_keep_their_ids(texts: list[str]) -> None:
    words()._clear()
    with patch("kb_pipeline.embed.words._FEW", -1):
        assert ids_by_word([*TEXTS, *texts]) == ids_of_wordllama([*TEXTS, *texts])


def test_a_full_table_of_words_is_emptied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kb_pipeline.embed.words._TABLE_WORDS", 50)
    tokenizer = word_tokenizer()
    for start in range(0, 500, 50):
        texts = [f"word{number} and more" for number in range(start, start + 50)]
        ragged = tokenizer.encode(texts)
        assert ragged.counts() == [len(ids) for ids in ids_of_wordllama(texts)]
    assert len(tokenizer._index) <= 110


def test_shorter_dims_are_the_first_ones() -> None:
    short = make_embedder(EmbedderConfig(dims=64)).embed_documents(TEXTS).vectors
    whole = wordllama().embed(TEXTS)[:, :64]
    np.testing.assert_allclose(short, whole / np.linalg.norm(whole, axis=1, keepdims=True), atol=1e-5)


def test_an_empty_text_has_no_vector() -> None:
    with pytest.raises(EmbedderError, match="1 of 2 texts"):
        embedder().embed_documents(["good", ""])


def test_the_identity_of_the_default_embedder_does_not_change() -> None:
    spec = resolve_spec(EmbedderConfig())
    assert (spec.provider, spec.model, spec.dims, spec.storage) == ("local", "wordllama-l2-supercat", 256, "vector")
