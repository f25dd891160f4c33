"""Fits `ef_search` of a new build to the target recall, on the questions of its evaluation (`[index] ef_search`)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import cache

import numpy as np
from psycopg import Connection
from psycopg.rows import TupleRow

from evals.ground_truth import BLOCK_ROWS
from evals.measure import Asked
from evals.questions import probes, sampled_questions
from evals.serving import embedder_of
from kb_pipeline.embed.protocol import Vectors
from kb_pipeline.index.exact import nearest_distances, recall_of
from kb_pipeline.index.fit import smallest_width, targets
from kb_pipeline.stages.context import StageContext
from kb_pipeline.store import eval_reads
from kb_pipeline.store.builds import fitted_target, keep_fitted
from kb_pipeline.store.eval_reads import BuildRow
from kb_pipeline.store.eval_vectors import vector_blocks
from kb_pipeline.store.search_sql import search_build
from kb_pipeline.store.vector_samples import sample_vectors

log = logging.getLogger(__name__)

K = 10
ENOUGH_JUDGED = 30
"""Questions of people from which on only those decide: how hard a corpus is to search depends on what is asked (with
m = 8, 20 to 600 in place of 30 for recall 0.95 in five BEIR collections)."""
SENTENCES = 600
"""Without them: so many sentences of the corpus, because the mean of 200 is off by a third of what 0.95 may miss."""
STORED = 200
"""And stored vectors, asked for their neighbours beside themselves; whichever needs more decides."""


def fitted(ctx: StageContext, conn: Connection[TupleRow], build: BuildRow, asked: Asked) -> BuildRow:
    """The build with ef_search by profile in its parameters, where searches find it. `auto` is fitted once for each
    build and target; what does not ask for it stays as it is. `conn` is the tenant's writer."""
    index = ctx.tenant.index
    if index.ef_search != "auto" or build.method != "hnsw":
        return build
    target = index.target_recall
    if fitted_target(conn, ctx.tenant_id, build.build_id) == target:
        return build
    widths = fit(ctx, conn, build, question_groups(ctx, conn, build, asked))
    if not widths:
        return build
    with ctx.db.connect("owner") as owner:
        keep_fitted(owner, ctx.tenant_id, build.build_id, widths, target=target)
    log.info("build %d: ef_search fitted to recall %g: %s", build.build_id, target, widths)
    return replace(build, params={**build.params, "ef_search": widths})


def question_groups(
    ctx: StageContext, conn: Connection[TupleRow], build: BuildRow, asked: Asked
) -> list[tuple[Vectors, bool]]:
    """(questions, whether each one is a stored vector), each group `(n, dims) float32` with n > 0: the golden set's
    where it is large enough, else sentences of the corpus, and stored vectors."""
    if len(asked.golden) >= ENOUGH_JUDGED:
        return [(np.stack(list(asked.golden.values())), False)]
    groups = [(asked.recall, False), (sample_vectors(conn, ctx.tenant_id, build.version, STORED), True)]
    if len(asked.recall) and (more := _further_sentences(ctx, conn, build, len(asked.recall))) is not None:
        groups[0] = (np.concatenate([asked.recall, more]), False)
    return [group for group in groups if len(group[0])]


def fit(
    ctx: StageContext, conn: Connection[TupleRow], build: BuildRow, groups: list[tuple[Vectors, bool]]
) -> Mapping[str, int]:
    """The smallest ef_search by profile with which every group reaches the profile's target; nothing without groups."""
    if not groups:
        return {}
    tenant_id = ctx.tenant_id
    questions = np.concatenate([vectors for vectors, _ in groups])
    blocks = vector_blocks(
        conn, tenant_id, build.version, dims=build.dims, storage=build.storage, block_rows=BLOCK_ROWS
    )
    exact = nearest_distances((vectors for _, vectors in blocks), questions, K + 1)
    task = ctx.progress.task("fit ef_search", None, "widths")
    with ctx.db.connect("reader", tenant_id, autocommit=True) as reader:

        @cache
        def curve(width: int) -> float:
            task.advance(1, ef_search=width)
            worst, first = 1.0, 0
            for vectors, stored in groups:
                own = int(stored)  # a stored vector finds itself, which says nothing
                found: list[float] = []
                for place, question in enumerate(vectors, first):
                    answer = search_build(reader, tenant_id, build.build_id, question, K + own, width)
                    found.append(recall_of([distance for _, distance in answer[own:]], exact[place, own : K + own]))
                worst = min(worst, float(np.mean(found)))
                first += len(vectors)
            return worst

        widths = {
            profile: smallest_width(curve, target)
            for profile, target in targets(ctx.tenant.index.target_recall).items()
        }
    task.done()
    return widths


def _further_sentences(ctx: StageContext, conn: Connection[TupleRow], build: BuildRow, asked: int) -> Vectors | None:
    """Sentences beyond those that the evaluation asks, embedded; None when there are none."""
    places = probes(ctx.tenant_id, SENTENCES)[ctx.tenant.eval.queries :]
    texts = [one.text for one in sampled_questions(eval_reads.sampled_bodies(conn, ctx.tenant_id, places))]
    texts = texts[: max(0, SENTENCES - asked)]
    return embedder_of(ctx.tenant.embedder, build).embed_queries(texts).vectors if texts else None
