"""Fits `ef_search` of a new build to a recall, on the questions of its evaluation (`[index] ef_search`)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
from psycopg import Connection
from psycopg.rows import TupleRow

from evals.fit_questions import Group, for_floor, for_target
from evals.ground_truth import BLOCK_ROWS
from evals.measure import Asked
from kb_pipeline.index.exact import nearest_distances, recall_of
from kb_pipeline.index.fit import HOLD, WIDTHS, Curve, mean_and_error, reaches, smallest_width, targets
from kb_pipeline.search.profiles import PROFILES
from kb_pipeline.stages.context import StageContext
from kb_pipeline.store.builds import Fitted, keep_fitted, read_fitted
from kb_pipeline.store.eval_reads import BuildRow
from kb_pipeline.store.eval_vectors import vector_blocks
from kb_pipeline.store.search_sql import search_build

log = logging.getLogger(__name__)

K = 10
WIDEST = 4
"""So many times its usual width a profile is raised at most: a search takes longer in proportion."""


def fitted(
    ctx: StageContext, conn: Connection[TupleRow], build: BuildRow, asked: Asked, golden: Mapping[str, str]
) -> BuildRow:
    """The build with ef_search by profile in its parameters, where searches find it, once for each build and recall.

    `auto` is fitted to `[index] target_recall`; where nothing is said, the usual widths are raised if recall could be
    under `[eval] recall_floor` with them; a number stays. `conn` is the tenant's writer, `golden` the texts of the
    golden questions.
    """
    index = ctx.tenant.index
    if build.method != "hnsw" or isinstance(index.ef_search, int):
        return build
    auto = index.ef_search == "auto"
    wanted = Fitted(index.target_recall if auto else ctx.tenant.eval.recall_floor, auto)
    if read_fitted(conn, ctx.tenant_id, build.build_id) == wanted:
        return build
    groups = (for_target if auto else for_floor)(ctx, conn, build, asked, golden)
    if not groups:
        return build
    widths = fit(ctx, conn, build, groups, wanted)
    with ctx.db.connect("owner") as owner:
        keep_fitted(owner, ctx.tenant_id, build.build_id, widths, wanted)
    kept = {name: value for name, value in build.params.items() if name != "ef_search"}
    if not widths:
        return replace(build, params=kept)
    log.info("build %d: ef_search fitted to recall %g: %s", build.build_id, wanted.recall, widths)
    return replace(build, params={**kept, "ef_search": widths})


def fit(
    ctx: StageContext, conn: Connection[TupleRow], build: BuildRow, groups: Sequence[Group], wanted: Fitted
) -> dict[str, int]:
    """ef_search by profile with which every group reaches what is wanted; none where the usual widths do."""
    tenant_id = ctx.tenant_id
    questions = np.concatenate([group.vectors for group in groups])
    blocks = vector_blocks(
        conn, tenant_id, build.version, dims=build.dims, storage=build.storage, block_rows=BLOCK_ROWS
    )
    exact = nearest_distances((vectors for _, vectors in blocks), questions, K + 1)
    task = ctx.progress.task("fit ef_search", None, "widths")
    with ctx.db.connect("reader", tenant_id, autocommit=True) as reader:

        @cache
        def curve(width: int) -> tuple[float, float]:
            """Of the group that is worst off."""
            task.advance(1, ef_search=width)
            found: list[tuple[float, float]] = []
            first = 0
            for group in groups:
                own = int(group.stored)  # a stored vector finds itself, which says nothing
                recalls: list[float] = []
                for place, question in enumerate(group.vectors, first):
                    answer = search_build(reader, tenant_id, build.build_id, question, K + own, width)
                    recalls.append(recall_of([distance for _, distance in answer[own:]], exact[place, own : K + own]))
                found.append(mean_and_error(np.array(recalls), group.question))
                first += len(group.vectors)
            return min(found, key=lambda one: one[0] - one[1])

        widths = _fitted(curve, wanted.recall) if wanted.auto else _raised(curve, wanted.recall)
    task.done()
    return widths


def _fitted(curve: Curve, recall: float) -> dict[str, int]:
    return {profile: smallest_width(curve, target) for profile, target in targets(recall).items()}


def _raised(curve: Curve, recall: float) -> dict[str, int]:
    """The usual widths in proportion, so that the default profile's holds the recall."""
    usual = PROFILES["default"]
    if reaches(curve(usual), recall, aim=HOLD):
        return {}
    wider = [width for width in WIDTHS if usual < width <= WIDEST * usual]
    raised = smallest_width(curve, recall, wider, aim=HOLD)
    return {profile: min(1000, round(width * raised / usual)) for profile, width in PROFILES.items()}
