"""Token counters: as the embedder's tokenizer counts, offline, and much faster than it where that is provably equal."""

from __future__ import annotations

import importlib.util
import logging
import re
import warnings
from collections.abc import Sequence
from functools import cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from kb_pipeline.chunking.model import TokenCounter
from kb_pipeline.config.schema import EmbedderConfig
from kb_pipeline.errors import ConfigError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

log = logging.getLogger(__name__)

WORD = re.compile("[ \u2581]*[^ \u2581]+|[ \u2581]+")
OPENAI_ENCODINGS = {
    "text-embedding-3-small": "cl100k_base",
    "text-embedding-3-large": "cl100k_base",
    "text-embedding-ada-002": "cl100k_base",
}
KEPT_LINES = 50_000
KEPT_WORDS = 80_000
"""Counts that are remembered, some 10 MB each and in every process that chunks; then they are forgotten and learned
again."""
GROUP_CHARS = 2_000
"""Text that is tokenized at once: long enough to spare calls, short enough for two threads to share a batch."""


class WordwiseCounter:
    """Counts as a SentencePiece BPE without pre-tokenizer does (Llama 2, wordllama), each distinct word once.

    No token of such a vocabulary holds a line end beside other characters or a blank after another character, so words
    with the blanks before them are tokenized independently of each other and their counts add up exactly. That is
    checked when it is made; documentation repeats its words, which makes it several times faster than tokenizing.
    """

    def __init__(self, name: str, tokenizer: Tokenizer) -> None:
        self._name = name
        self._tokenizer = tokenizer
        self._special = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
        self._line_end = tokenizer.token_to_id("<0x0A>")
        self._lines: dict[str, int] = {}
        self._first: dict[str, int] = {}
        self._words: dict[str, int] = {}

    @staticmethod
    def suits(tokenizer: Tokenizer) -> bool:
        """Whether counts of this tokenizer add up word by word."""
        if tokenizer.pre_tokenizer is not None or "Prepend" not in str(tokenizer.normalizer):
            return False
        if tokenizer.token_to_id("<0x0A>") is None:
            return False
        glued = re.compile("\n|[^\u2581]\u2581")
        return not any(glued.search(token) for token in tokenizer.get_vocab(with_added_tokens=False))

    @property
    def name(self) -> str:
        """Part of the chunker's version."""
        return self._name

    def count(self, texts: Sequence[str]) -> list[int]:
        """Number of tokens of each text, without special tokens. Exact, also where a text spells a special token."""
        lines = [text.split("\n") for text in texts]
        direct = self._with_special(texts)
        for i in direct:
            lines[i] = [""]
        if len(self._lines) > KEPT_LINES:
            self._lines.clear()
            self._first.clear()
        if len(self._words) > KEPT_WORDS:
            self._words.clear()
        self._learn(set(chain.from_iterable(lines)).difference(self._lines))
        self._learn_firsts({parts[0] for parts in lines}.difference(self._first))
        of_line, of_first = self._lines.__getitem__, self._first
        counts = [sum(map(of_line, parts)) + len(parts) - 1 + of_first[parts[0]] for parts in lines]
        for i in direct:
            counts[i] = len(self._tokenizer.encode(texts[i], add_special_tokens=False))
        if "" in texts:
            counts = [count if text else 0 for count, text in zip(counts, texts, strict=True)]
        return counts

    def _with_special(self, texts: Sequence[str]) -> list[int]:
        """Indexes of texts that spell a special token: a rare thing, so all are looked through at once first."""
        together = "\n".join(texts)
        found = [token for token in self._special if token in together]
        return [i for i, text in enumerate(texts) if any(token in text for token in found)] if found else []

    def _learn(self, lines: set[str]) -> None:
        split = {line: WORD.findall(line) for line in lines}
        self._count_words(list(set(chain.from_iterable(split.values())).difference(self._words)))
        look_up = self._words.__getitem__
        self._lines.update({line: sum(map(look_up, words)) for line, words in split.items()})

    def _learn_firsts(self, lines: set[str]) -> None:
        """How many tokens more a line has as a text's first: the tokenizer puts one blank before its first word."""
        words = {line: match[0] if (match := WORD.match(line)) else "" for line in lines}
        wanted = {*words.values(), *(f" {word}" for word in words.values())}
        self._count_words(list(wanted.difference(self._words)))
        self._first.update({line: self._words[f" {word}"] - self._words[word] for line, word in words.items()})

    def _count_words(self, words: list[str]) -> None:
        """Tokenize many words at a time, one a line, and tell them apart by the line ends' tokens."""
        if not words:
            return
        import numpy as np

        groups: list[list[str]] = [[]]
        chars = 0
        for word in words:
            if chars > GROUP_CHARS:
                groups.append([])
                chars = 0
            groups[-1].append(word)
            chars += len(word) + 1
        texts = ["\n" + "\n".join(group) + "\n" for group in groups]
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        for group, encoding in zip(groups, encodings, strict=True):
            ends = np.flatnonzero(np.array(encoding.ids) == self._line_end)
            self._words.update(zip(group, (np.diff(ends) - 1).tolist(), strict=True))


class TokenizerCounter:
    """Counts with any Hugging Face `tokenizer.json`, in one parallel batch a call."""

    def __init__(self, name: str, tokenizer: Tokenizer) -> None:
        self._name = name
        self._tokenizer = tokenizer

    @property
    def name(self) -> str:
        """Part of the chunker's version."""
        return self._name

    def count(self, texts: Sequence[str]) -> list[int]:
        """Number of tokens of each text, without special tokens."""
        if not texts:
            return []
        return [len(e) for e in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]


class OpenAICounter:
    """Counts as OpenAI's models do, with the vocabulary that ships in the wheel of `bpe-openai`: no download."""

    def __init__(self, encoding: str) -> None:
        self._name = encoding
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of importlib.resources, inside bpe-openai
            import bpe_openai  # pyright: ignore[reportMissingTypeStubs]

        try:
            self._encode = bpe_openai.get_encoding(encoding).encode_ordinary
        except (KeyError, ValueError) as error:
            raise ConfigError(
                f"embedder.tokenizer = {encoding!r} is unknown: use cl100k_base, o200k_base or the path of a "
                "tokenizer.json"
            ) from error

    @property
    def name(self) -> str:
        """Part of the chunker's version."""
        return self._name

    def count(self, texts: Sequence[str]) -> list[int]:
        """Number of tokens of each text, without special tokens."""
        return [len(self._encode(text)) for text in texts]


class EstimatingCounter:
    """Stays above what common tokenizers count, for models whose own tokenizer cannot be had here.

    Three letters a token, a digit, a sign or a line end one, and a character outside ASCII as many as it has bytes in
    UTF-8: about 1.5 times the tokens of English prose, so chunks come out smaller than allowed, never larger.
    """

    UNIT = re.compile(r"[A-Za-z]{1,3}|[\x00-\x7f]")
    ASCII = re.compile(r"[\x00-\x7f]")
    BLANKS = re.compile(r" (?=\S)|[ \t]+(?=[ \t])")

    @property
    def name(self) -> str:
        """Part of the chunker's version."""
        return "estimate"

    def count(self, texts: Sequence[str]) -> list[int]:
        """An upper estimate of the number of tokens of each text."""
        return [self._estimate(text) for text in texts]

    def _estimate(self, text: str) -> int:
        ascii_units = len(self.UNIT.findall(self.BLANKS.sub("", text)))
        beyond = 0 if text.isascii() else len(text.encode("utf-8", "replace")) - len(self.ASCII.findall(text))
        return ascii_units + beyond + (1 if text else 0)


@cache
def local_counter() -> TokenCounter:
    """The tokenizer of the free local embedder, from the installed `wordllama` package (which is not imported)."""
    spec = importlib.util.find_spec("wordllama")
    folders = list(spec.submodule_search_locations or []) if spec else []
    for folder in folders:
        path = Path(folder) / "tokenizers" / "l2_supercat_tokenizer_config.json"
        if path.is_file():
            return from_file(path, name="wordllama-l2")
    raise ConfigError(f"the package wordllama with its tokenizer is not installed (looked in {folders or 'sys.path'})")


def from_file(path: Path, *, name: str | None = None) -> TokenCounter:
    """A counter for a `tokenizer.json`; by default named after the file's content. Raises `ConfigError`."""
    from tokenizers import Tokenizer

    try:
        data = path.read_bytes()
        tokenizer = Tokenizer.from_buffer(data)
    except Exception as error:  # tokenizers raises plain Exception
        raise ConfigError(f"the tokenizer {path} cannot be read: {error}") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    if name is None:
        import hashlib

        name = f"{path.stem}-{hashlib.sha256(data).hexdigest()[:12]}"
    return WordwiseCounter(name, tokenizer) if WordwiseCounter.suits(tokenizer) else TokenizerCounter(name, tokenizer)


def make_counter(config: EmbedderConfig) -> TokenCounter:
    """The counter of the configured embedder: `tokenizer` if set, else the model's own.

    A model whose tokenizer is neither bundled nor on this machine gets `EstimatingCounter`, with a warning that says
    how to name one. Raises `ConfigError` for a `tokenizer` that does not exist.
    """
    if config.tokenizer is not None:
        path = Path(config.tokenizer)
        return from_file(path) if path.suffix == ".json" or path.exists() else OpenAICounter(config.tokenizer)
    if config.provider == "local":
        return local_counter()
    model = config.model or ("text-embedding-3-small" if config.provider == "openai" else "")
    if model in OPENAI_ENCODINGS:
        return OpenAICounter(OPENAI_ENCODINGS[model])
    found = _on_this_machine(model)
    if found is not None:
        return from_file(found)
    log.warning(
        "no tokenizer for model %r on this machine: tokens are estimated (high); set embedder.tokenizer to the path of "
        "its tokenizer.json for exact sizes",
        model or config.provider,
    )
    return EstimatingCounter()


def _on_this_machine(model: str) -> Path | None:
    """The model's `tokenizer.json`: in the folder it names, or in the Hugging Face cache; never a download."""
    if not model:
        return None
    own = Path(model) / "tokenizer.json"
    if own.is_file():
        return own
    try:
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(model, "tokenizer.json")
    except (ImportError, ValueError):
        return None
    return Path(cached) if isinstance(cached, str) else None
