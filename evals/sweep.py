"""Recall of a build against exact search, at several widths of the search, and what each width costs in time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evals.ground_truth import Truth, recall_at
from evals.measured import SweepPoint
from evals.searchers import Searcher
from kb_pipeline.embed.protocol import Vectors

EF_SEARCH = (10, 20, 40, 80, 160, 320, 640)
"""Not clamped as serving is: the curve must show what too small a value would do."""
K = 20


@dataclass(frozen=True, slots=True)
class Swept:
    """A point of the sweep with its value for every question."""

    point: SweepPoint
    recall_10: npt.NDArray[np.float64]
    recall_20: npt.NDArray[np.float64]


def sweep(
    searcher: Searcher,
    truth: Truth,
    questions: Vectors,
    *,
    default: int | None,
    widths: Sequence[int],
    vectors_of: Callable[[Sequence[bytes]], Mapping[bytes, Vectors]],
) -> list[Swept]:
    """The default profile first, served as requests are (`default` is its width, for show), then one point per width.

    10 and 20 results are asked for apart, because asking for more lets a search look further. One query at a time on
    one connection.
    """
    points: list[Swept] = []
    for wanted, shown in ((None, default), *((width, width) for width in widths)):
        values: list[npt.NDArray[np.float64]] = []
        seconds: list[float] = []
        for k in (K, 10):
            results: list[list[bytes]] = []
            seconds.clear()
            for question in questions:
                began = time.perf_counter()
                results.append(searcher(question, k, wanted))
                seconds.append(time.perf_counter() - began)
            values.append(recall_at(truth, questions, results, k=k, vectors_of=vectors_of))
        at_20, at_10 = values
        p50, p95 = (float(value) * 1000 for value in np.percentile(seconds or [0.0], (50, 95)))
        mean_10, mean_20 = (float(found.mean()) if found.size else 1.0 for found in (at_10, at_20))
        point = SweepPoint(shown, mean_10, mean_20, p50, p95, default=wanted is None)
        points.append(Swept(point, at_10, at_20))
    return points
