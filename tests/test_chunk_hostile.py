"""Input made to hurt: nothing is quadratic, nothing recurses without end, everything visible is kept."""

from __future__ import annotations

import random
import time

import pytest

from kb_pipeline.chunking.chunker import chunk_document
from kb_pipeline.chunking.tokens import EstimatingCounter, OpenAICounter, local_counter, make_counter
from kb_pipeline.config.schema import ChunkingConfig, EmbedderConfig
from kb_pipeline.errors import ConfigError
from kb_pipeline.sources.model import SourceDocument


def words(count: int) -> str:
    source = random.Random(1)
    return " ".join("".join(source.choices("abcdefghijklmnop", k=6)) for _ in range(count))


HOSTILE = {
    "a 2 MB word": ("text", "a" * 2_000_000),
    "a 2 MB word in Markdown": ("markdown", "a" * 2_000_000),
    "a 5 MB line": ("markdown", words(700_000)),
    "a 1 MB line of code": ("code:python", words(150_000)),
    "csv with an open quote": ("csv", "a,b\n" + '"x\n' * 100_000),
    "open brackets": ("json", "[" * 500_000),
    "a million numbers": ("json", "[" + ",".join(map(str, range(100_000))) + "]"),
    "deep json": ("json", "[" * 20_000 + "]" * 20_000),
    "deep xml": ("xml", "<a>" * 100_000 + "</a>" * 100_000),
    "broken xml": ("xml", "<a><b " * 100_000),
    "billion laughs": ("xml", '<!DOCTYPE l [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]><l>&b;</l>'),
    "deep yaml": ("yaml", "- " * 5_000 + "x"),
    "brackets in JavaScript": ("code:javascript", "[{(" * 30_000),
    "ambiguous C++": ("code:cpp", "a<b<c<" * 10_000),
    "preprocessor garbage": ("code:c", "#if (((( { [ \" ' \n" * 10_000),
    "nested quotes": ("markdown", "> " * 50_000 + "x"),
    "nested lists": ("markdown", "- " * 50_000 + "x"),
    "many headings": ("markdown", "# a\n" * 20_000),
    "open links": ("markdown", "[a](" * 50_000),
    "emphasis": ("markdown", "*a **b " * 50_000),
    "an endless fence": ("markdown", "```\n" + "x = 1\n" * 100_000),
    "a long table": ("markdown", "| a | b |\n|---|---|\n" + "| 1 | 2 |\n" * 30_000),
    "pipes": ("markdown", "|" * 200_000),
    "adornments": ("rst", "=====\n" * 100_000),
    "blanks": ("text", " " * 2_000_000 + "x"),
    "line ends": ("text", "\n" * 2_000_000 + "x"),
    "emoji": ("text", "\U0001f600" * 100_000),
    "signs": ("text", ".'" * 500_000),
    "no-break spaces": ("text", "word\u00a0" * 200_000),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_chunked_in_linear_time(name: str) -> None:
    format_, text = HOSTILE[name]
    config = ChunkingConfig()
    started = time.process_time()
    chunks = chunk_document(SourceDocument("d", "u", text, format_, b"", {}), counter=local_counter(), config=config)
    assert time.process_time() - started < 30
    at = 0
    for chunk in chunks:
        assert not text[at : chunk.start].strip()
        assert text[chunk.start : chunk.end] == chunk.text and 0 < chunk.tokens <= config.max_tokens
        at = chunk.end
    assert not text[at:].strip()


def test_counters_by_configuration(caplog: pytest.LogCaptureFixture, tmp_path) -> None:  # type: ignore[no-untyped-def]
    assert make_counter(EmbedderConfig()).name == "wordllama-l2"
    openai = make_counter(EmbedderConfig(provider="openai"))
    assert openai.name == "cl100k_base" and openai.count(["hello world", "", "<|endoftext|>"]) == [2, 0, 7]
    assert make_counter(EmbedderConfig(provider="openai", model="other", tokenizer="o200k_base")).name == "o200k_base"
    assert not caplog.records
    estimate = make_counter(EmbedderConfig(provider="openai", model="somebody/own-model"))
    assert estimate.name == "estimate" and "embedder.tokenizer" in caplog.text
    with pytest.raises(ConfigError, match="cl100k_base"):
        make_counter(EmbedderConfig(provider="openai", tokenizer="no-such-encoding"))
    with pytest.raises(ConfigError, match="cannot be read"):
        make_counter(EmbedderConfig(tokenizer=str(tmp_path / "absent.json")))


def test_a_tokenizer_file_is_named_after_its_content(tmp_path) -> None:  # type: ignore[no-untyped-def]
    import tokenizers

    words_only = tokenizers.models.WordLevel({"a": 0, "b": 1, "[UNK]": 2}, unk_token="[UNK]")
    tokenizer = tokenizers.Tokenizer(words_only)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    counter = make_counter(EmbedderConfig(provider="sentence-transformers", model=str(tmp_path)))
    assert counter.name.startswith("tokenizer-") and counter.count(["a b a", "", "x"]) == [3, 0, 1]


def test_the_estimate_is_above_real_counts(test_data) -> None:  # type: ignore[no-untyped-def]
    estimate = EstimatingCounter()
    samples = [path.read_text() for path in (test_data / "chunk-spans").glob("*.md")]
    samples += ["def f(x):\n    return x+1\n" * 20, "漢字文。" * 50, "\U0001f600" * 20, "a1b2-c3" * 30]
    for counter in (local_counter(), OpenAICounter("cl100k_base")):
        for real, high in zip(counter.count(samples), estimate.count(samples), strict=True):
            assert real <= high
