"""`ef_search = "auto"`: the smallest width that reaches the target recall, from a build's own curve."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from kb_pipeline.index.exact import Vectors, nearest_distances, recall_of, unit
from kb_pipeline.store.builds import BuildRow, keep_fitted
from kb_pipeline.store.eval_vectors import vector_blocks, vectors_of
from kb_pipeline.store.search_sql import search_build
from kb_pipeline.store.vector_samples import sample_vectors
from kb_pipeline.store.versions import Version

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.rows import TupleRow

    from kb_pipeline.stages.context import StageContext

log = logging.getLogger(__name__)

K = 10
NEAR = 10
QUERIES = 400
BLOCK_ROWS = 8192
WIDTHS = tuple(sorted({round(10 * 1.1**step) for step in range(48)} | {1000}))
"""10 to 1,000 in steps of a tenth: a width is missed by at most that much."""
Curve = Callable[[int], tuple[float, float]]
"""ef_search -> (recall, its standard error)."""


def targets(target_recall: float) -> dict[str, float]:
    """Recall that each profile aims at: `default` at the target, `interactive` may miss twice as much, `offline` a
    quarter."""
    missed = 1 - target_recall
    return {"interactive": 1 - 2 * missed, "default": target_recall, "offline": 1 - missed / 4}


def smallest_width(curve: Curve, target: float) -> int:
    """The smallest of `WIDTHS` whose recall reaches the target by one standard error, found by halving; 1,000 when none
    does."""
    low, high = 0, len(WIDTHS) - 1
    while low < high:
        middle = (low + high) // 2
        recall, error = curve(WIDTHS[middle])
        if recall - error >= target:
            high = middle
        else:
            low = middle + 1
    return WIDTHS[low]


def neighbourhood(conn: Connection[TupleRow], tenant_id: str, build_id: int, version: int, vector: Vectors) -> Vectors:
    """The nearest stored vectors, `(n, dims)`."""
    found = search_build(conn, tenant_id, build_id, vector, NEAR, 10 * NEAR)
    vectors = vectors_of(conn, tenant_id, version, [name for name, _ in found])
    return np.array(list(vectors.values()), dtype=np.float32)


def unseen(vector: Vectors, near: Vectors, turn: int) -> Vectors:
    """A further vector of the same neighbourhood: its middle, and from there as far as stored ones are, in a direction
    between those of two of them."""
    vector, near = unit(vector[None])[0], unit(near)
    middle = near.mean(axis=0)
    other = near[turn % len(near)]
    return unit((middle + (vector - middle + other - middle) / np.sqrt(2))[None])[0]


def fit(ctx: StageContext, build: BuildRow, version: Version) -> dict[str, int]:
    """ef_search by profile, kept with the build, where searches find it.

    Asked are made vectors that could be stored ones but are not in the graph: it finds its own elements too easily (at
    the same width 0.95 of them, and 0.88 of others). They cost no embedding.
    """
    tenant_id = ctx.tenant_id
    with ctx.db.connect("writer", tenant_id, autocommit=True) as conn:
        stored = sample_vectors(conn, tenant_id, version.version, QUERIES)
        if not len(stored):
            return {}
        around = [neighbourhood(conn, tenant_id, build.build_id, version.version, vector) for vector in stored]
        queries = np.array(
            [unseen(vector, near, turn) for turn, (vector, near) in enumerate(zip(stored, around, strict=True))]
        )
        blocks = vector_blocks(
            conn, tenant_id, version.version,
            dims=version.spec.dims, storage=version.storage, block_rows=BLOCK_ROWS,
        )  # fmt: skip
        exact = nearest_distances((vectors for _, vectors in blocks), queries, K)
    task = ctx.progress.task("fit ef_search", None, "widths")
    with ctx.db.connect("reader", tenant_id, autocommit=True) as conn:

        @cache
        def curve(width: int) -> tuple[float, float]:
            task.advance(1, ef_search=width)
            found = [
                recall_of(
                    [distance for _, distance in search_build(conn, tenant_id, build.build_id, query, K + 1, width)][
                        1:
                    ],
                    row,
                )
                for query, row in zip(queries, exact, strict=True)
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
