"""Recall of searches with a condition on metadata: filters that about 50 %, 10 % and 1 % of the chunks pass."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from psycopg import Connection
from psycopg.rows import TupleRow

from evals.ground_truth import BLOCK_ROWS, Block, exact_top_k, recall_at
from evals.measured import FilteredRecall
from evals.statistics import bootstrap
from kb_pipeline.embed.protocol import Vectors
from kb_pipeline.search.filters import Condition, wire
from kb_pipeline.store import eval_reads
from kb_pipeline.store.database import Database
from kb_pipeline.store.eval_reads import BuildRow
from kb_pipeline.store.eval_vectors import vector_blocks, vectors_of
from kb_pipeline.store.search_sql import search_build

TARGETS = (0.5, 0.1, 0.01)
NEAR = 2.0
"""A filter stands for a target when its share is at most this many times larger or smaller."""
QUESTIONS = 50
K = 10


@dataclass(frozen=True, slots=True)
class Filter:
    """A condition and how much of the corpus passes it."""

    target: float
    share: float
    key: str
    value: Any


def chosen_filters(shares: Sequence[tuple[str, Any, int]], chunks: int) -> list[Filter]:
    """For each target the (key, value) whose share of the chunks is nearest to it, where one is near at all.

    `shares`: (key, value, chunks that pass).
    """
    chosen: list[Filter] = []
    for target in TARGETS:
        near = [
            Filter(target, count / chunks, key, value)
            for key, value, count in shares
            if chunks and target / NEAR <= count / chunks <= min(0.9, target * NEAR)
        ]
        if near:
            chosen.append(min(near, key=lambda one: (abs(np.log(one.share / target)), one.key, str(one.value))))
    return chosen


def filtered_recall(
    db: Database,
    tenant_id: str,
    build: BuildRow,
    questions: Vectors,
    filters: Sequence[Filter],
    *,
    ef_search: int | None,
) -> tuple[FilteredRecall, ...]:
    """Recall@10 of the build under each filter against an exact search of what passes it."""
    return tuple(_measure(db, tenant_id, build, questions[:QUESTIONS], one, ef_search) for one in filters)


def _measure(
    db: Database, tenant_id: str, build: BuildRow, questions: Vectors, one: Filter, ef_search: int | None
) -> FilteredRecall:
    condition = wire([Condition(one.key, "eq", one.value)])
    with db.connect("writer", tenant_id) as conn:
        allowed = eval_reads.passing(conn, tenant_id, one.key, one.value)
        blocks = vector_blocks(
            conn, tenant_id, build.version, dims=build.dims, storage=build.storage, block_rows=BLOCK_ROWS
        )
        truth = exact_top_k(_only(blocks, allowed), questions, k=K)
    found: list[list[bytes]] = []
    seconds: list[float] = []
    with db.connect("reader", tenant_id, autocommit=True) as conn:
        for question in questions:
            began = time.perf_counter()
            hits = search_build(conn, tenant_id, build.build_id, question, K, ef_search, condition)
            seconds.append(time.perf_counter() - began)
            found.append([fingerprint for fingerprint, _ in hits if fingerprint in allowed])
    with db.connect("writer", tenant_id, autocommit=True) as conn:
        values = recall_at(
            truth, questions, found, k=K, vectors_of=lambda names: _vectors(conn, tenant_id, build, names)
        )
    p50 = float(np.median(seconds)) * 1000 if seconds else 0.0
    return FilteredRecall(one.target, one.share, f"{one.key} = {one.value}", bootstrap(values), p50)


def _vectors(
    conn: Connection[TupleRow], tenant_id: str, build: BuildRow, names: Sequence[bytes]
) -> dict[bytes, Vectors]:
    return vectors_of(conn, tenant_id, build.version, names)


def _only(blocks: Iterable[Block], allowed: set[bytes]) -> Iterable[Block]:
    for fingerprints, vectors in blocks:
        keep = np.fromiter((name.tobytes() in allowed for name in fingerprints), dtype=bool, count=len(fingerprints))
        if keep.any():
            yield fingerprints[keep], vectors[keep]
