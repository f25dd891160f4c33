"""What holds for every text: spans are true, everything visible is covered, sizes are kept, words stay whole."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kb_pipeline.chunking.chunker import chunk_document, chunk_documents
from kb_pipeline.chunking.model import Chunk, TokenCounter
from kb_pipeline.chunking.tokens import EstimatingCounter, local_counter
from kb_pipeline.config.schema import ChunkingConfig
from kb_pipeline.fingerprint import embedded_text, fingerprint
from kb_pipeline.sources.frontmatter import body_start
from kb_pipeline.sources.model import SourceDocument

FORMATS = [
    "markdown",
    "record",
    "text",
    "rst",
    "csv",
    "json",
    "yaml",
    "xml",
    "code:python",
    "code:typescript",
    "code:go",
    "code:c",
    "code:rust",
    "code:bash",
]

# ruff: noqa: E501
PIECES = st.sampled_from(
    [
        "# Title\n", "## Part\n\n", "### Deep *one*\n", "Set\n===\n", "Other\n---\n", "A sentence here. And one more! ",
        "word ", "word\n", "\n", "\n\n", "- item one\n", "  - inner item\n", "1. first\n", "> quote\n> more\n", "```py\n",
        "x = 1\n", "```\n", "| a | b |\n|---|---|\n| 1 | 2 |\n", "| 3 | 4 |\n", "[ref]: http://x.example/y\n", "<div>\n",
        "</div>\n", "{{< shortcode >}}\n", "<Tab a={1}>\n", "import X from 'y'\n", "    indented\n", "\t", "  ", "é", "漢字文。",
        "\U0001f600", "\u00a0", "\u2581", "<s>", "---\n", "+++\n", "title: x\n", "def f(a):\n    return a\n", "class A:\n",
        "    def m(self):\n        pass\n", "{", "}", "[", "]", '"k": 1', ",", ":", "<a>", "</a>", "&amp;", "$x$", "\r\n",
        "\x0b", "\x0c", "\u2028", "func main() {\n", "}\n", "// note\n", "/*", "*/", '"', "'", "\\", "aVeryLongWord" * 20,
    ]
)  # fmt: skip
TEXTS = st.lists(PIECES, max_size=60).map("".join) | st.text(max_size=200)
SIZES = st.tuples(st.sampled_from([16, 24, 50, 120]), st.sampled_from([0, 6, 8])).map(
    lambda pair: ChunkingConfig(max_tokens=pair[0], overlap_tokens=pair[1])
)


def document(text: str, format_: str = "markdown", title: str | None = None) -> SourceDocument:
    return SourceDocument("doc", "uri", text, format_, b"", {}, title)


def check(text: str, chunks: list[Chunk], config: ChunkingConfig, counter: TokenCounter, start: int = 0) -> None:
    """Every promise of the chunker about one document."""
    at = start
    for number, chunk in enumerate(chunks):
        assert chunk.ordinal == number
        assert text[chunk.start : chunk.end] == chunk.text
        assert chunk.text.strip()
        assert not text[at : chunk.start].strip(), "visible text between two chunks"
        at = max(at, chunk.end)
        assert chunk.fingerprint == fingerprint(chunk.context, chunk.text)
        assert chunk.context.startswith(" > ".join(chunk.heading_path))
    assert not text[at:].strip(), "visible text after the last chunk"
    assert [(c.start, c.end) for c in chunks] == sorted((c.start, c.end) for c in chunks)
    counts = counter.count([embedded_text(c.context, c.text) for c in chunks])
    assert [c.tokens for c in chunks] == counts
    assert all(count <= config.max_tokens for count in counts)
    if not config.overlap_tokens:
        assert all(a.end <= b.start for a, b in pairwise(chunks))
    for chunk in chunks:
        if chunk.kind != "fragment":
            for edge in (chunk.start, chunk.end):
                if 0 < edge < len(text):
                    assert not re.fullmatch(r"\w\w", text[edge - 1 : edge + 1]) or _in_fragment(edge, chunks), (
                        "cut word"
                    )


def _in_fragment(edge: int, chunks: list[Chunk]) -> bool:
    return any(c.kind == "fragment" and c.start <= edge <= c.end for c in chunks)


@pytest.mark.parametrize("format_", FORMATS)
@settings(max_examples=400, deadline=None)
@given(text=TEXTS, config=SIZES)
def test_promises_hold_for_any_text(format_: str, text: str, config: ChunkingConfig) -> None:
    counter = local_counter()
    chunks = chunk_document(document(text, format_), counter=counter, config=config)
    check(text, chunks, config, counter, body_start(text) if format_ == "markdown" else 0)
    assert chunks == chunk_document(document(text, format_), counter=counter, config=config)


@settings(max_examples=400, deadline=None)
@given(text=TEXTS, config=SIZES, title=st.text(max_size=300))
def test_promises_hold_with_a_title_and_another_counter(text: str, config: ChunkingConfig, title: str) -> None:
    counter = EstimatingCounter()
    check(text, chunk_document(document(text, "record", title), counter=counter, config=config), config, counter)


@settings(max_examples=25, deadline=None)
@given(texts=st.lists(TEXTS, max_size=8), config=SIZES)
def test_many_documents_at_once_give_the_chunks_of_each_alone(texts: list[str], config: ChunkingConfig) -> None:
    counter = local_counter()
    documents = [document(text) for text in texts]
    together = list(chunk_documents(documents, counter=counter, config=config))
    assert [pair[0] for pair in together] == documents
    assert [pair[1] for pair in together] == [chunk_document(d, counter=counter, config=config) for d in documents]


@settings(max_examples=100, deadline=None)
@given(texts=st.lists(TEXTS, max_size=5))
def test_counting_word_by_word_equals_the_tokenizer(texts: list[str]) -> None:
    counter = local_counter()
    tokenizer = counter._tokenizer  # pyright: ignore
    expected = [len(tokenizer.encode(text, add_special_tokens=False)) for text in texts]
    assert counter.count(texts) == expected
