"""`kb tune`: recall and latency of a grid of parameters on the tenant's own vectors, and what to choose from it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from kb_pipeline.errors import NotLive
from kb_pipeline.index.exact import Vectors, nearest_distances, recall_of
from kb_pipeline.index.memory import needed_mb
from kb_pipeline.index.params import MAX_DIMS, PRESETS
from kb_pipeline.planner.model import IndexParams
from kb_pipeline.store.tuning import Scratch, scratch

if TYPE_CHECKING:
    from kb_pipeline.stages.context import Progress
    from kb_pipeline.store.database import Database
    from kb_pipeline.store.versions import Version

K = 10
QUERIES = 200
SAMPLE = 25_000
"""Vectors that are indexed. Recall of more is lower for the same ef_search, which `auto` and the evaluation see to; the
order of the parameters stays."""
WIDTHS = (10, 20, 40, 80, 160, 320)
FINER = 2
"""Further widths where recall crosses the target, each in the middle of what is left: a width is proposed that is at
most a fifth more than needed."""
ENOUGH = 0.9995
"""Recall from which wider searches are not measured any more."""


@dataclass(frozen=True, slots=True)
class Point:
    """One set of parameters with one width, measured."""

    params: IndexParams
    ef_search: int
    recall: float
    """Recall@10 on held-out vectors."""
    p50_ms: float
    p95_ms: float
    """One search at a time, without looking up places."""
    bytes: int
    """Of the sample's index."""
    build_s: float


@dataclass(frozen=True, slots=True)
class Tuned:
    """All that was measured."""

    rows: int
    """Vectors that were indexed."""
    of_rows: int
    """Vectors that the tenant has."""
    queries: int
    points: list[Point]
    left_out: list[IndexParams]
    """Not measured, because the time was over."""
    seconds: float


def grid(dims: int, column_storage: str, storages: Sequence[str] = ()) -> list[IndexParams]:
    """The presets in each index storage that takes the dims, the most likely choices first."""
    fitting = [one for one in ("vector", "halfvec") if dims <= MAX_DIMS[one]]
    if column_storage == "halfvec":
        fitting = [one for one in fitting if one == "halfvec"]
    chosen = [one for one in (storages or fitting or ["binary"]) if dims <= MAX_DIMS[one]]
    order = ("balanced", "high", "dev", "max")
    return [IndexParams(*PRESETS[preset], storage) for preset in order for storage in chosen]


def tune(
    db: Database,
    tenant_id: str,
    version: Version,
    params: Sequence[IndexParams],
    *,
    target_recall: float = 0.95,
    sample: int = SAMPLE,
    seconds: float = 240.0,
    progress: Progress,
) -> Tuned:
    """Measures each set of parameters on a copy of a sample in a temporary table; nothing of the tenant is touched, and
    nothing is left. Held-out vectors of the tenant are the queries. Stops beginning anew when the time is over. Raises
    `NotLive` for a tenant without enough vectors."""
    began = time.perf_counter()
    with scratch(db, tenant_id, version, rows=sample, queries=QUERIES) as made:
        if made.rows < 2 * K:
            raise NotLive(f"tenant {tenant_id} has {made.of_rows:,} vectors: too few to tune an index on")
        exact = nearest_distances(made.blocks(), made.queries, K)
        task = progress.task("tune", len(params), "parameters")
        points: list[Point] = []
        left_out: list[IndexParams] = []
        pace = 0.0
        for one in params:
            guess = pace * _work(one)
            if points and time.perf_counter() - began + guess > seconds:
                left_out.append(one)
            else:
                turn = time.perf_counter()
                points += _measured(made, one, exact, target_recall)
                pace = max(pace, (time.perf_counter() - turn) / _work(one))
            task.advance(1, m=one.m, ef_construction=one.ef_construction, storage=one.storage)
        task.done()
    return Tuned(made.rows, made.of_rows, len(made.queries), points, left_out, time.perf_counter() - began)


def _work(params: IndexParams) -> float:
    """Time of a build grows about with ef_construction and the root of m."""
    return params.ef_construction * params.m**0.5


def _measured(
    made: Scratch, params: IndexParams, exact: np.ndarray[tuple[int, ...], np.dtype[np.float64]], target: float
) -> list[Point]:
    build_s, size = made.build(params, memory_mb=needed_mb(made.rows, params, made.dims))

    def measured(width: int) -> Point:
        recall, times = asked(made.queries, exact, partial(made.search, params=params, k=K, ef_search=width))
        p50, p95 = (float(value) * 1000 for value in np.percentile(times, (50, 95)))
        return Point(params, width, recall, p50, p95, size, build_s)

    points: list[Point] = []
    for width in WIDTHS:
        points.append(measured(width))
        if points[-1].recall >= ENOUGH:
            break
    for _ in range(FINER):
        low = max((one.ef_search for one in points if one.recall < target), default=None)
        high = min((one.ef_search for one in points if one.recall >= target), default=None)
        if low is None or high is None or not low < (middle := round((low * high) ** 0.5)) < high:
            break
        points.append(measured(middle))
    made.drop()
    return sorted(points, key=lambda one: one.ef_search)


def asked(
    queries: Vectors,
    exact: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    search: Callable[[Vectors], list[float]],
) -> tuple[float, list[float]]:
    """(mean recall, seconds of each search)."""
    for query in queries[:20]:
        search(query)
    recalls: list[float] = []
    times: list[float] = []
    for query, row in zip(queries, exact, strict=True):
        began = time.perf_counter()
        found = search(query)
        times.append(time.perf_counter() - began)
        recalls.append(recall_of(found, row))
    return float(np.mean(recalls)), times


def pareto(points: Sequence[Point]) -> list[Point]:
    """Points that no other beats: none has as much recall in as little time with as small an index, and one of them
    better. In the order of recall."""

    def beats(one: Point, other: Point) -> bool:
        as_good = one.recall >= other.recall and one.p95_ms <= other.p95_ms and one.bytes <= other.bytes
        better = one.recall > other.recall or one.p95_ms < other.p95_ms or one.bytes < other.bytes
        return as_good and better

    front = [point for point in points if not any(beats(other, point) for other in points)]
    return sorted(front, key=lambda point: (point.recall, -point.p95_ms))


@dataclass(frozen=True, slots=True)
class Proposal:
    """A choice, and what speaks for it."""

    name: str
    """`smallest` or `quickest`; `nearest` when the target was not reached."""
    point: Point

    def toml(self) -> str:
        """Lines for kb.toml."""
        one = self.point
        return (
            f"[index]\nm = {one.params.m}\nef_construction = {one.params.ef_construction}\n"
            f'storage = "{one.params.storage}"\nef_search = "auto"  # {one.ef_search} on the sample'
        )


def proposals(points: Sequence[Point], *, target_recall: float, target_p95_ms: float | None) -> list[Proposal]:
    """What reaches the targets with the smallest index and build, and with the least time; what comes nearest when
    nothing does."""
    good = [
        point
        for point in points
        if point.recall >= target_recall and (target_p95_ms is None or point.p95_ms <= target_p95_ms)
    ]
    if not good:
        nearest = min(
            points,
            key=lambda point: (
                max(0.0, target_recall - point.recall) / (1 - target_recall + 1e-9)
                + (max(0.0, point.p95_ms / target_p95_ms - 1) if target_p95_ms else 0.0),
                point.p95_ms,
            ),
            default=None,
        )
        return [] if nearest is None else [Proposal("nearest", nearest)]
    small = min(good, key=lambda point: (round(point.bytes / 2**20), point.build_s, point.p95_ms))
    quick = min(good, key=lambda point: (point.p95_ms, point.bytes))
    return [Proposal("smallest", small)] + ([] if quick == small else [Proposal("quickest", quick)])
