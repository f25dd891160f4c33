"""The pure comparisons: documents, renames, chunks, and the guard against mass deletion."""

from __future__ import annotations

from collections import Counter
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kb_pipeline.errors import MassDeletionRefused
from kb_pipeline.planner.diff import (
    Indexed,
    Seen,
    classify,
    diff_chunks,
    guard_mass_deletion,
    pair_renames,
    same_chunker,
)

CHUNKER = "1:llama:320:0"


def indexed(content: str, text: str, chunker: str = CHUNKER) -> Indexed:
    return Indexed(_sha(content), _sha(text), b"", chunker)


def seen(content: str, text: str, chunker: str = CHUNKER, *, same_metadata: bool = True) -> Seen:
    return Seen(_sha(content), _sha(text), chunker, same_metadata)


def _sha(text: str) -> bytes:
    return sha256(text.encode()).digest()


def test_each_kind_of_change_is_told_apart() -> None:
    known = indexed("front a, text", "text")
    assert classify(None, seen("x", "x")) == "new"
    assert classify(known, seen("front a, text", "text")) is None
    assert classify(known, seen("front b, text", "text")) == "metadata_only"
    assert classify(known, seen("front a, other", "other")) == "changed"
    assert classify(known, seen("front a, text", "text", "1:llama:100:0")) == "rechunked"
    assert classify(known, seen("front a, text", "text", same_metadata=False)) == "metadata_only"


def test_a_row_without_a_text_digest_counts_as_changed() -> None:
    known = Indexed(_sha("a"), None, b"", CHUNKER)
    assert classify(known, seen("b", "b")) == "changed"


def test_the_token_counter_alone_chunks_nothing_anew() -> None:
    """A migration to another embedder back-fills stored texts; its tokenizer may not cut every document again."""
    assert same_chunker("1:llama:320:0", "1:cl100k_base:320:0")
    assert same_chunker("1:file:/a:b.json:320:0", "1:llama:320:0")
    assert not same_chunker("1:llama:320:0", "2:llama:320:0")
    assert not same_chunker("1:llama:320:0", "1:llama:320:20")
    assert not same_chunker("1:llama:320:0", "1:llama:300:0")


IDS = st.text("abcdef/", min_size=1, max_size=4)
SHAS = st.sampled_from([bytes([n]) * 32 for n in range(4)])


@given(new=st.dictionaries(IDS.map(lambda name: f"new/{name}"), SHAS), vanished=st.dictionaries(IDS, SHAS))
def test_renames_pair_equal_bytes_one_to_one_and_as_many_as_possible(
    new: dict[str, bytes], vanished: dict[str, bytes]
) -> None:
    pairs = pair_renames(new.items(), vanished)
    assert len(set(pairs.values())) == len(pairs)
    assert all(vanished[old] == new[name] for old, name in pairs.items())
    possible = Counter(new.values()) & Counter(vanished.values())
    assert len(pairs) == possible.total()
    assert pairs == pair_renames(reversed(list(new.items())), dict(reversed(list(vanished.items()))))


FINGERPRINTS = st.lists(st.sampled_from([bytes([n]) * 32 for n in range(6)]), max_size=8)


@given(old=FINGERPRINTS, new=FINGERPRINTS, known=st.sets(st.sampled_from([bytes([n]) * 32 for n in range(6)])))
def test_the_chunk_diff_is_exact(old: list[bytes], new: list[bytes], known: set[bytes]) -> None:
    """Known texts include those of the old form; places add up in both directions."""
    known = known | set(old)
    diff = diff_chunks(old, new, known)
    assert diff.new + diff.reused == len(new)
    assert diff.new == sum(fingerprint not in known for fingerprint in new)
    assert 0 <= diff.moved <= diff.reused
    kept = (Counter(old) & Counter(new)).total()
    assert diff.removed == len(old) - kept
    if old == new:
        assert (diff.new, diff.moved, diff.removed) == (0, 0, 0)


def guard(indexed: int, listed: int, vanished: int, fraction: float = 0.5) -> None:
    guard_mass_deletion(indexed=indexed, listed=listed, vanished=vanished, max_fraction=fraction, flag="--allow")


@pytest.mark.parametrize(
    ("indexed", "listed", "vanished"), [(10, 0, 10), (1, 0, 1), (100, 40, 60), (5, 2, 3), (4, 9, 4)]
)
def test_a_mass_deletion_is_refused_with_numbers_and_the_flag(indexed: int, listed: int, vanished: int) -> None:
    with pytest.raises(MassDeletionRefused, match=rf"lists {listed} .* {vanished} of the {indexed} .*--allow"):
        guard(indexed, listed, vanished)


@pytest.mark.parametrize(
    ("indexed", "listed", "vanished", "fraction"),
    [(100, 50, 50, 0.5), (2, 1, 1, 0.5), (3, 1, 2, 0.5), (10, 0, 10, 1.0), (0, 0, 0, 0.5), (100, 100, 0, 0.0)],
)
def test_plausible_deletions_pass(indexed: int, listed: int, vanished: int, fraction: float) -> None:
    guard(indexed, listed, vanished, fraction)
