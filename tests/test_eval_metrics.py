"""Our metrics against `ir_measures`, and how sure the statistics are."""

from __future__ import annotations

import random
import warnings
from pathlib import Path

import numpy as np
import pytest

from evals.golden import read_golden
from evals.measure import folded
from evals.metrics import METRICS, score
from evals.statistics import bootstrap, compare, questions_needed

NAMES = {
    "ndcg@10": "nDCG@10",
    "mrr@10": "RR@10",
    "recall@10": "R@10",
    "recall@20": "R@20",
    "recall@100": "R@100",
    "hit@1": "Success@1",
    "hit@3": "Success@3",
    "map@100": "AP@100",
}


def assert_equal_to_ir_measures(judgments: dict[str, dict[str, int]], run: dict[str, list[str]]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ir_measures

        scored = {qid: {doc: float(len(docs) - place) for place, doc in enumerate(docs)} for qid, docs in run.items()}
        measures = {name: ir_measures.parse_measure(text) for name, text in NAMES.items()}
        theirs = {
            (str(value.measure), value.query_id): value.value
            for value in ir_measures.iter_calc(list(measures.values()), judgments, scored)
        }
    ours = score(judgments, run)
    assert set(ours) == set(METRICS) == set(NAMES)
    for name, values in ours.items():
        for qid, value in values.items():
            expected = theirs.get((str(measures[name]), qid), 0.0)
            assert value == pytest.approx(expected, abs=1e-9), (name, qid)


def mixed_run(judgments: dict[str, dict[str, int]], documents: list[str], seed: int) -> dict[str, list[str]]:
    """Random lists with some of the relevant documents near the top; every seventh question goes unanswered."""
    rng = random.Random(seed)
    run: dict[str, list[str]] = {}
    for number, (qid, grades) in enumerate(judgments.items()):
        if number % 7 == 6:
            continue
        relevant = [doc for doc in grades if rng.random() < 0.6]
        others = rng.sample(documents, min(len(documents), 150))
        ranked = sorted(
            dict.fromkeys(relevant + others), key=lambda doc: rng.random() * (0.3 if doc in relevant else 1.0)
        )
        run[qid] = ranked[: rng.choice([3, 40, 100])]
    return run


def test_metrics_equal_ir_measures_on_graded_judgments_with_unanswered_questions() -> None:
    rng = random.Random(3)
    documents = [f"d{number}" for number in range(300)]
    judgments = {
        f"q{number}": {doc: rng.choice([-1, 0, 1, 2, 3]) for doc in rng.sample(documents, 12)} for number in range(80)
    }
    assert_equal_to_ir_measures(judgments, mixed_run(judgments, documents, seed=1))


@pytest.mark.parametrize("name", ["adi", "anthropic-docs", "cacm", "cosqa", "cranfield", "npl"])
def test_metrics_equal_ir_measures_on_public_sets(test_data: Path, name: str) -> None:
    golden = read_golden(test_data / "beir" / name)
    judgments = {qid: dict(grades) for qid, grades in golden.judgments.items()}
    documents = sorted({doc for grades in judgments.values() for doc in grades})
    assert_equal_to_ir_measures(judgments, mixed_run(judgments, documents, seed=2))


def test_chunks_fold_to_documents_by_their_best_chunk() -> None:
    places = {b"1": ("a",), b"2": ("b", "c"), b"3": ("a", "d")}
    assert folded([b"1", b"2", b"9", b"3"], places, depth=10) == ["a", "b", "c", "d"]
    assert folded([b"1", b"2", b"3"], places, depth=2) == ["a", "b"]


def test_the_bootstrap_interval_holds_the_mean_and_agrees_with_scipy() -> None:
    from scipy import stats

    values = np.random.default_rng(0).beta(2, 3, 200)
    ours = bootstrap(values)
    theirs = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=5000, rng=np.random.default_rng(1))
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.005)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.005)
    assert ours.low < ours.mean < ours.high
    assert bootstrap([]).n == 0 and bootstrap([0.5]).low == 0.5


def test_the_paired_test_agrees_with_scipy() -> None:
    from scipy import stats

    rng = np.random.default_rng(4)
    old = rng.random(60)
    new = old + rng.normal(0.04, 0.12, 60)
    theirs = stats.permutation_test(
        (old, new), lambda a, b: np.mean(b - a), permutation_type="samples", n_resamples=20_000, rng=rng
    )
    assert compare(list(old), list(new)).p == pytest.approx(theirs.pvalue, abs=0.01)


def test_five_percent_worse_questions_are_detected_with_500() -> None:
    rng = np.random.default_rng(5)
    old = rng.choice([0.0, 0.39, 0.63, 1.0], 500)
    new = old.copy()
    hurt = rng.choice(np.flatnonzero(old > 0), 25, replace=False)
    new[hurt] = 0.0
    comparison = compare(list(old), list(new))
    assert comparison.detected and comparison.difference.high < 0 and comparison.worse == 25


def test_chance_alone_is_rarely_called_a_difference() -> None:
    alarms = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        truth = rng.random(500)
        alarms += compare(list(truth + rng.normal(0, 0.2, 500)), list(truth + rng.normal(0, 0.2, 500))).detected
    assert alarms <= 11


def test_questions_needed_are_enough_and_no_change_needs_none() -> None:
    needed = questions_needed(0.05, 0.3)
    assert needed == 283
    seen = 0
    for seed in range(60):
        new = np.random.default_rng(seed).normal(0.05, 0.3, needed)
        seen += compare([0.0] * needed, list(new)).detected
    assert 38 <= seen <= 57, "power is near 80 %"
    same = compare([0.1, 0.5], [0.1, 0.5])
    assert same.p == 1.0 and same.questions_needed is None and same.equal == 2
