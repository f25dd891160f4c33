"""Retrieval metrics with one value per question, equal to those of `ir_measures` (trec_eval's definitions) to 1e-9.

A question that got no answer counts as zero. A judgment of 0 or less is "not relevant". Gains are linear.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

Judgments = Mapping[str, Mapping[str, int]]
"""Question id -> document id -> grade."""
Run = Mapping[str, Sequence[str]]
"""Question id -> document ids, best first, each once."""


def ndcg(grades: Mapping[str, int], ranking: Sequence[str], k: int) -> float:
    """Discounted gain of the first k over that of the best possible order (Järvelin and Kekäläinen 2002), 0 to 1."""
    best = sum(gain / math.log2(place + 2) for place, gain in enumerate(_ideal(grades)[:k]))
    got = sum(max(grades.get(doc, 0), 0) / math.log2(place + 2) for place, doc in enumerate(ranking[:k]))
    return got / best if best else 0.0


def reciprocal_rank(grades: Mapping[str, int], ranking: Sequence[str], k: int) -> float:
    """1 / rank of the first relevant document among the first k, 0 where there is none."""
    return next((1 / place for place, doc in enumerate(ranking[:k], 1) if grades.get(doc, 0) > 0), 0.0)


def recall(grades: Mapping[str, int], ranking: Sequence[str], k: int) -> float:
    """Share of the relevant documents that stand among the first k."""
    relevant = len(_ideal(grades))
    return sum(grades.get(doc, 0) > 0 for doc in ranking[:k]) / relevant if relevant else 0.0


def hit(grades: Mapping[str, int], ranking: Sequence[str], k: int) -> float:
    """1 when a relevant document stands among the first k, else 0 (trec_eval calls it success)."""
    return float(any(grades.get(doc, 0) > 0 for doc in ranking[:k]))


def average_precision(grades: Mapping[str, int], ranking: Sequence[str], k: int) -> float:
    """Mean over the relevant documents of the precision at their rank, down to rank k."""
    relevant, found, total = len(_ideal(grades)), 0, 0.0
    for place, doc in enumerate(ranking[:k], 1):
        if grades.get(doc, 0) > 0:
            found += 1
            total += found / place
    return total / relevant if relevant else 0.0


Metric = Callable[[Mapping[str, int], Sequence[str], int], float]

DEPTH = 100
"""How many documents are ranked for each question; MAP looks no deeper."""
MAIN = "ndcg@10"
"""The metric that the verdict compares."""
METRICS: Mapping[str, tuple[Metric, int]] = {
    "ndcg@10": (ndcg, 10),
    "mrr@10": (reciprocal_rank, 10),
    "recall@10": (recall, 10),
    "recall@20": (recall, 20),
    "recall@100": (recall, 100),
    "hit@1": (hit, 1),
    "hit@3": (hit, 3),
    "map@100": (average_precision, 100),
}


LABELS: Mapping[str, str] = {
    "ndcg@10": "nDCG@10",
    "mrr@10": "MRR@10",
    "recall@10": "Recall@10",
    "recall@20": "Recall@20",
    "recall@100": "Recall@100",
    "hit@1": "Hit@1",
    "hit@3": "Hit@3",
    "map@100": "MAP@100",
}
"""How people write them."""


def score(judgments: Judgments, run: Run, *, metrics: Sequence[str] = tuple(METRICS)) -> dict[str, dict[str, float]]:
    """Metric -> question id -> value, for every judged question in the order of the judgments."""
    return {
        name: {qid: METRICS[name][0](grades, run.get(qid, ()), METRICS[name][1]) for qid, grades in judgments.items()}
        for name in metrics
    }


def _ideal(grades: Mapping[str, int]) -> list[int]:
    """Grades of the relevant documents, best first."""
    return sorted((grade for grade in grades.values() if grade > 0), reverse=True)
