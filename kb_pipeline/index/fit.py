"""`ef_search = "auto"`: the smallest width that reaches the target recall, from a build's own curve."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from kb_pipeline.index.exact import nearest_distances, recall_of
from kb_pipeline.store.builds import BuildRow, keep_fitted
from kb_pipeline.store.eval_vectors import vector_blocks
from kb_pipeline.store.search_sql import search_build
from kb_pipeline.store.vector_samples import sample_vectors
from kb_pipeline.store.versions import Version

if TYPE_CHECKING:
    from kb_pipeline.stages.context import StageContext

log = logging.getLogger(__name__)

K = 10
QUERIES = 400
BLOCK_ROWS = 8192
WIDTHS = tuple(sorted({round(10 * 1.1**step) for step in range(48)} | {1000}))
"""10 to 1,000 in steps of a tenth: a width is missed by at most that much."""
MARGIN = 0.6
"""Of what the target allows to miss: a graph finds its own elements, which are asked for here, more easily."""
Curve = Callable[[int], tuple[float, float]]
"""ef_search -> (recall, its standard error)."""


def targets(target_recall: float) -> dict[str, float]:
    """Recall that each profile aims at: `default` at the target, `interactive` may miss twice as much, `offline` a
    quarter."""
    missed = 1 - target_recall
    return {"interactive": 1 - 2 * missed, "default": target_recall, "offline": 1 - missed / 4}


def smallest_width(curve: Curve, target: float) -> int:
    """The smallest of `WIDTHS` whose recall surely reaches the target, found by halving; 1,000 when none
    does."""
    low, high = 0, len(WIDTHS) - 1
    while low < high:
        middle = (low + high) // 2
        recall, error = curve(WIDTHS[middle])
        if recall - error >= 1 - (1 - target) * MARGIN:
            high = middle
        else:
            low = middle + 1
    return WIDTHS[low]


def fit(ctx: StageContext, build: BuildRow, version: Version) -> dict[str, int]:
    """ef_search by profile, kept with the build, where searches find it.

    Asked are stored vectors, for their neighbours beside themselves; that costs no embedding. The evaluation that
    follows asks real questions, and refuses a build whose recall is under the floor.
    """
    tenant_id = ctx.tenant_id
    with ctx.db.connect("writer", tenant_id, autocommit=True) as conn:
        queries = sample_vectors(conn, tenant_id, version.version, QUERIES)
        if not len(queries):
            return {}
        blocks = vector_blocks(
            conn, tenant_id, version.version,
            dims=version.spec.dims, storage=version.storage, block_rows=BLOCK_ROWS,
        )  # fmt: skip
        exact = nearest_distances((vectors for _, vectors in blocks), queries, K + 1)[:, 1:]
    task = ctx.progress.task("fit ef_search", None, "widths")
    with ctx.db.connect("reader", tenant_id, autocommit=True) as conn:

        @cache
        def curve(width: int) -> tuple[float, float]:
            task.advance(1, ef_search=width)
            answers = (search_build(conn, tenant_id, build.build_id, query, K + 1, width) for query in queries)
            found = [
                recall_of([distance for _, distance in answer[1:]], row)
                for answer, row in zip(answers, exact, strict=True)
            ]
            return float(np.mean(found)), float(np.std(found) / np.sqrt(len(found)))

        fitted = {
            profile: smallest_width(curve, target)
            for profile, target in targets(ctx.tenant.index.target_recall).items()
        }
    task.done()
    with ctx.db.connect("owner") as conn:
        keep_fitted(conn, tenant_id, build.build_id, fitted)
    log.info("build %d: ef_search fitted to recall %g: %s", build.build_id, ctx.tenant.index.target_recall, fitted)
    return fitted
