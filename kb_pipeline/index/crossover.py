"""`kb tune --placement`: from how many contents on an index is worth having, measured on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kb_pipeline.errors import NotLive
from kb_pipeline.index.exact import nearest_distances
from kb_pipeline.index.memory import needed_mb
from kb_pipeline.index.tune import K, asked
from kb_pipeline.planner.model import IndexParams
from kb_pipeline.store.tuning import Scratch, scratch

if TYPE_CHECKING:
    from kb_pipeline.store.database import Database
    from kb_pipeline.store.versions import Version

STEPS = (500, 1_000, 2_000, 4_000, 8_000, 16_000)
SMALL_MS = 5.0
"""A scan that takes no longer is as good as an index: it is exact, costs no build, and no writer feels it."""


@dataclass(frozen=True, slots=True)
class Step:
    """One size."""

    rows: int
    exact_ms: float
    """p95 of a scan."""
    hnsw_ms: float
    """p95 of an index over as many rows."""


@dataclass(frozen=True, slots=True)
class Crossover:
    """What was measured, and the number to set."""

    steps: list[Step]
    exact_below: int


def measure_crossover(
    db: Database, tenant_id: str, version: Version, params: IndexParams, *, ef_search: int = 100
) -> Crossover:
    """Scans and searches tables of growing size with the tenant's own vectors. Raises `NotLive` without enough."""
    with scratch(db, tenant_id, version, rows=max(STEPS), queries=100) as made:
        if made.rows < STEPS[1]:
            raise NotLive(
                f"tenant {tenant_id} has {made.of_rows:,} vectors, {STEPS[1]:,} are needed to see where an index pays"
            )
        exact = nearest_distances(made.blocks(), made.queries, K)
        scans = [(rows, _scan_ms(made, rows, exact)) for rows in STEPS if rows <= made.rows]
        memory = needed_mb(made.rows, params, made.dims)
        made.build(params, memory_mb=memory)
        _, times = asked(made.queries, exact, lambda query: made.search(query, params, K, ef_search))
        # The time of a search grows with the logarithm of the rows: one measurement serves for all sizes.
        hnsw = float(np.percentile(times, 95)) * 1000
    steps = [Step(rows, scan, hnsw * np.log(rows) / np.log(made.rows)) for rows, scan in scans]
    return Crossover(steps, crossover(steps))


def crossover(steps: list[Step]) -> int:
    """Rows up to which a scan is good enough: it takes 5 ms or less, or no longer than the index. Between the sizes
    that were measured and beyond them a scan's time is proportional."""
    per_row = float(np.polyfit([step.rows for step in steps], [step.exact_ms for step in steps], 1)[0])
    base = float(np.median([step.exact_ms - per_row * step.rows for step in steps]))
    limit = max(SMALL_MS, max(step.hnsw_ms for step in steps))
    return max(0, 100 * round((limit - base) / per_row / 100)) if per_row > 0 else 10 * steps[-1].rows


def _scan_ms(made: Scratch, rows: int, exact: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> float:
    queries = made.queries[:50]
    _, times = asked(queries, exact[:50], lambda query: made.scan(query, K, rows))
    return float(np.percentile(times, 95)) * 1000
