"""Token ids of many texts at several times the tokenizer's own speed, by remembering words. Exact, not approximate."""

from __future__ import annotations

import re
import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_WORDS = re.compile("[ \u2581]*[^ \u2581\n]+|[ \u2581]+|\n")
_FEW = 32
_TABLE_WORDS = 100_000
_TABLE_CHARACTERS = 4_000_000
_GROUP_CHARACTERS = 2_000
"""Words that are tokenized at once: each call costs as much as several words, and threads share a batch of groups."""

Ids = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Ragged:
    """Token ids of many texts in one array."""

    ids: npt.NDArray[np.int32]
    """All ids, text after text."""
    ends: npt.NDArray[np.int64]
    """Where each text ends in `ids`; it begins where the one before ends."""

    def counts(self) -> list[int]:
        """Number of tokens of each text."""
        return np.diff(self.ends, prepend=0).tolist()


class WordTokenizer:
    """Gives the ids of a Llama-2 tokenizer's `encode(text, add_special_tokens=False)`; it takes the tokenizer over.

    That tokenizer has no pre-tokenizer, so it runs its merges over whole texts and can reuse nothing. But none of its
    tokens holds a space mark after another character, and a line break is a byte token that no merge touches; so
    merges never cross those places, and a text's ids are the ids of its words in a row. A table of words met before
    replaces most of the work. It is emptied when it is full, so memory is bounded. Safe for use by
    several threads: a retriever's share one.

    Raises `ValueError` for a tokenizer that lacks the property.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        from tokenizers import normalizers

        self._line_end = _line_end(tokenizer)
        # the Llama normalizer also puts a space before every text: encode() does that, because a word has its own
        tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer = tokenizer
        self._lock = threading.Lock()
        added: Any = tokenizer.get_added_tokens_decoder()
        marks = sorted((str(token.content) for token in added.values()), key=len, reverse=True)
        self._marks = frozenset(marks)
        self._special = re.compile("(" + "|".join(map(re.escape, marks)) + ")")
        self._clear()

    def _clear(self) -> None:
        self._index: defaultdict[str, int] = defaultdict(count().__next__)  # a new word gets the next number
        self._index["\n"]  # known from the start: it is what words are told apart by
        self._characters = 1
        self._table = np.array([self._line_end], np.int32)
        self._starts = np.array([0, 1], np.int64)

    def encode(self, texts: Sequence[str]) -> Ragged:
        """Ids of each text, without special tokens."""
        with self._lock:
            return self._encode(texts)

    def _encode(self, texts: Sequence[str]) -> Ragged:
        if len(self._index) > _TABLE_WORDS or self._characters > _TABLE_CHARACTERS:
            self._clear()
        index, known = self._index, len(self._index)
        number = index.__getitem__
        words: list[int] = []
        ends: list[int] = []
        split = _WORDS.findall
        for text in texts:
            if text:
                found = split(" " + text) if self._special.search(text) is None else self._split_special(text)
                words.extend(map(number, found))
            ends.append(len(words))
        if len(index) > known:
            self._learn(list(index)[known:])
        return self._gather(np.array(words, np.int64), np.array(ends, np.int64))

    def _split_special(self, text: str) -> list[str]:
        """Words of a text with special tokens: each of them is one, each stretch between them begins as a text does."""
        found: list[str] = []
        for place, part in enumerate(self._special.split(text)):
            if place % 2:
                found.append(part)
            elif part:
                found.extend(_WORDS.findall(" " + part))
        return found

    def _learn(self, new: list[str]) -> None:
        self._characters += sum(map(len, new))
        parts = self._one_by_one(new) if len(new) <= _FEW else self._together(new)
        lengths = np.concatenate([lengths for _, lengths in parts])
        self._table = np.concatenate([self._table, *(ids for ids, _ in parts)])
        self._starts = np.concatenate([self._starts, self._starts[-1] + np.cumsum(lengths)])

    def _one_by_one(self, words: list[str]) -> list[tuple[Ids, Ids]]:
        """Ids of each word and how many: for a question's, as waking the tokenizer's threads takes longer."""
        found = [np.array(self._tokenizer.encode(word, add_special_tokens=False).ids, np.int32) for word in words]
        return [(ids, np.array([ids.size], np.int32)) for ids in found]

    def _together(self, words: list[str]) -> list[tuple[Ids, Ids]]:
        """Ids of groups of words, one word a line and told apart by the line ends' tokens, and how many each has."""
        groups: list[list[str]] = [[]]
        characters = 0
        for word in words:
            mark = word in self._marks  # it may take the blanks or the line end beside it along: by itself
            if mark or characters > _GROUP_CHARACTERS:
                groups.append([])
                characters = 0
            groups[-1].append(word)
            characters += _GROUP_CHARACTERS + 1 if mark else len(word) + 1
        lines = ["\n".join(group) for group in groups]
        found: list[tuple[Ids, Ids]] = []
        encodings = self._tokenizer.encode_batch_fast(lines, add_special_tokens=False)
        for group, encoding in zip(groups, encodings, strict=True):
            ids = np.array(encoding.ids, np.int32)
            ends = np.flatnonzero(ids == self._line_end)
            if group:
                found.append((np.delete(ids, ends), np.diff(ends, prepend=-1, append=ids.size) - 1))
        return found

    def _gather(self, words: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]) -> Ragged:
        starts = self._starts[words]
        lengths = self._starts[words + 1] - starts
        word_ends = np.cumsum(lengths)
        total = int(word_ends[-1]) if words.size else 0
        places = np.arange(total) + np.repeat(starts - (word_ends - lengths), lengths)
        text_ends = np.concatenate([np.zeros(1, np.int64), word_ends])[ends]
        return Ragged(ids=self._table[places], ends=text_ends)


def _line_end(tokenizer: Tokenizer) -> int:
    """Id of a line break. Refuses a tokenizer with a token that crosses a word's beginning or a line break."""
    vocabulary = tokenizer.get_vocab(with_added_tokens=False)
    joined = "\x00".join(vocabulary)
    crossing = re.search("[^\u2581\x00]\u2581|\n", joined)
    if crossing is not None or "<0x0A>" not in vocabulary:
        raise ValueError("the tokenizer has tokens that cross words, so texts cannot be split at words")
    return vocabulary["<0x0A>"]
