"""Exact results are exact, ties cost nothing, recall equals a brute-force scan by Postgres."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
from eval_tenant import add_tenant, rows
from hypothesis import given, settings
from hypothesis import strategies as st

from evals.ground_truth import Block, ahead, exact_top_k, recall_at
from kb_pipeline.embed.protocol import Vectors
from kb_pipeline.store.database import Database
from kb_pipeline.store.eval_vectors import vector_blocks, vectors_of


def random(seed: int = 11) -> np.random.Generator:
    """A test's own, so that its numbers do not depend on which tests ran before it in this process."""
    return np.random.default_rng(seed)


def names(count: int) -> npt.NDArray[np.void]:
    return np.array([np.void(hashlib.sha256(str(number).encode()).digest()) for number in range(count)], dtype="V32")


def blocks(vectors: Vectors, size: int) -> Iterator[Block]:
    known = names(len(vectors))
    for start in range(0, len(vectors), size):
        yield known[start : start + size], vectors[start : start + size]


@settings(max_examples=20, deadline=None)
@given(count=st.integers(1, 300), size=st.integers(1, 130), k=st.integers(1, 25))
def test_streamed_results_are_those_of_a_sort(count: int, size: int, k: int) -> None:
    rng = random(count * 1000 + size * 10 + k)
    vectors = rng.standard_normal((count, 8)).astype(np.float32)
    questions = rng.standard_normal((5, 8)).astype(np.float32)
    truth = exact_top_k(blocks(vectors, size), questions, k=k)
    cosines = (questions / np.linalg.norm(questions, axis=1, keepdims=True)) @ (
        vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    ).T
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    assert truth.rows == count
    np.testing.assert_allclose(truth.scores[:, : min(k, count)], np.take_along_axis(cosines, order, 1), atol=1e-5)
    place = {name.tobytes(): place for place, name in enumerate(names(count))}
    for found, scores, row in zip(truth.fingerprints, cosines, order, strict=True):
        assert len(set(found)) == len(found) == min(k, count)
        assert min(scores[place[name]] for name in found) >= scores[row[-1]] - 1e-6, "sums differ by as much"


def test_the_corpus_hash_is_of_the_set() -> None:
    rng = random()
    vectors = rng.standard_normal((50, 4)).astype(np.float32)
    none = np.zeros((0, 4), dtype=np.float32)
    first = exact_top_k(blocks(vectors, 7), none, k=3).corpus_hash
    assert first == exact_top_k(reversed(list(blocks(vectors, 11))), none, k=3).corpus_hash
    assert first != exact_top_k(blocks(vectors[:49], 7), none, k=3).corpus_hash


def test_equal_vectors_beyond_k_are_right_answers() -> None:
    vector = np.ones((1, 4), dtype=np.float32)
    vectors = np.concatenate([np.repeat(vector, 30, axis=0), -np.repeat(vector, 5, axis=0)])
    truth = exact_top_k(blocks(vectors, 8), vector, k=10)
    known = [name.tobytes() for name in names(35)]
    by_name = dict(zip(known, vectors, strict=True))

    def shares(found: list[bytes]) -> float:
        return float(
            recall_at(truth, vector, [found], k=10, vectors_of=lambda asked: {n: by_name[n] for n in asked})[0]
        )

    assert shares(known[20:30]) == 1.0
    assert shares(known[25:35]) == 0.5, "the last five point away"
    assert shares([known[0]] * 10) == 0.1, "a repeated result counts once"
    assert shares([]) == 0.0


def test_a_corpus_smaller_than_k_is_asked_for_all_it_has() -> None:
    rng = random()
    vectors = rng.standard_normal((3, 4)).astype(np.float32)
    truth = exact_top_k(blocks(vectors, 2), vectors[:1], k=20)
    known = [name.tobytes() for name in names(3)]
    assert recall_at(truth, vectors[:1], [known], k=10, vectors_of=lambda _: {})[0] == 1.0
    assert recall_at(truth, vectors[:1], [known[:2]], k=10, vectors_of=lambda _: {})[0] == pytest.approx(2 / 3)
    empty = exact_top_k([], vectors[:1], k=20)
    assert recall_at(empty, vectors[:1], [[]], k=10, vectors_of=lambda _: {})[0] == 1.0


def test_reading_ahead_passes_errors_on_and_stops_when_it_is_left() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise RuntimeError("stream broke")

    with pytest.raises(RuntimeError, match="stream broke"):
        list(ahead(broken()))
    for number in ahead(iter(range(10_000))):
        if number == 3:
            break
    assert list(ahead(iter(range(5)))) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("block_rows", [1, 7, 40, 1000])
def test_the_stream_from_postgres_holds_every_vector(db: Database, block_rows: int) -> None:
    texts = {f"d{number}": [f"text number {number} about matter {number % 7}"] for number in range(40)}
    version = add_tenant(db, "acme", texts)
    add_tenant(db, "other", {"x": ["of somebody else"]})
    with db.connect("writer", "acme") as conn:
        found = dict[bytes, Vectors]()
        for fingerprints, vectors in vector_blocks(
            conn, "acme", version, dims=256, storage="vector", block_rows=block_rows
        ):
            assert len(fingerprints) == len(vectors) <= block_rows
            found.update({name.tobytes(): vector for name, vector in zip(fingerprints, vectors, strict=True)})
        direct = vectors_of(conn, "acme", version, list(found))
    assert len(found) == rows(db, "acme") == 40
    for name, vector in direct.items():
        np.testing.assert_array_equal(found[name], vector)


def test_exact_results_equal_a_brute_force_scan_by_postgres(db: Database) -> None:
    rng = random()
    words = "index vector search recall page graph query build table row".split()
    texts = {f"d{n}": [" ".join(rng.choice(words, 12)) + f" {n}"] for n in range(300)}
    version = add_tenant(db, "acme", texts)
    questions = rng.standard_normal((6, 256)).astype(np.float32)
    with db.connect("writer", "acme") as conn:
        stream = vector_blocks(conn, "acme", version, dims=256, storage="vector", block_rows=64)
        truth = exact_top_k(stream, questions, k=20)
        query = f"SELECT fingerprint FROM kb.contents ORDER BY embedding_v{version} <=> %s LIMIT 20"
        scanned = [[bytes(row[0]) for row in conn.execute(query.encode(), (question,))] for question in questions]
        shares = recall_at(
            truth, questions, scanned, k=20, vectors_of=lambda asked: vectors_of(conn, "acme", version, asked)
        )
    assert shares.tolist() == [1.0] * 6
    assert [set(found) for found in truth.fingerprints] == [set(found) for found in scanned]
