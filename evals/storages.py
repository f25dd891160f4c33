"""What each way of storing an index would cost in recall, on demand: one of each is built on a copy of the vectors."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from evals.measured import StorageMeasured, StorageTrial, SweepPoint
from evals.sweep import EF_SEARCH, K
from kb_pipeline.embed.protocol import Vectors
from kb_pipeline.errors import ConfigError
from kb_pipeline.index.exact import nearest_distances, recall_of
from kb_pipeline.index.memory import needed_mb
from kb_pipeline.index.params import MAX_DIMS, index_storage, resolve_params
from kb_pipeline.planner.model import IndexParams
from kb_pipeline.stages.context import Progress, StageContext
from kb_pipeline.store.database import Database
from kb_pipeline.store.eval_reads import BuildRow
from kb_pipeline.store.tuning import Scratch, scratch
from kb_pipeline.store.versions import Version, read_version

ROWS = 100_000
"""Vectors copied at most: they and one index stand in the session's memory."""


def storages_beside(
    ctx: StageContext, build: BuildRow, questions: Vectors, storages: Sequence[str]
) -> StorageTrial | None:
    """The storages an eval run was asked for, tried with its questions and the build's parameters (of an exact build:
    with those configured); None where none was asked for."""
    if not storages:
        return None
    params = resolve_params(ctx.tenant.index, build.dims, build.storage)
    if build.params.get("m"):
        params = replace(params, m=build.params["m"], ef_construction=build.params["ef_construction"])
    with ctx.db.connect("owner") as conn:
        version = read_version(conn, build.version)
    wanted = wanted_storages(storages, build.dims, build.storage)
    return measure_storages(ctx.db, ctx.tenant_id, version, params, wanted, questions, progress=ctx.progress)


def wanted_storages(asked: Sequence[str], dims: int, column_storage: str) -> list[str]:
    """The storages to try; `all` means every one that takes the dims. Raises `ConfigError` for one that does not, or
    is none."""
    unknown = [name for name in asked if name not in (*MAX_DIMS, "all")]
    if unknown:
        raise ConfigError(f"--storage {unknown[0]} is none of {', '.join(MAX_DIMS)} or all")
    if "all" not in asked:
        return [index_storage(name, dims, column_storage) for name in dict.fromkeys(asked)]
    return [name for name in MAX_DIMS if _fits(name, dims, column_storage)]


def measure_storages(
    db: Database,
    tenant_id: str,
    version: Version,
    params: IndexParams,
    storages: Sequence[str],
    questions: Vectors,
    *,
    rows: int = ROWS,
    progress: Progress,
) -> StorageTrial | None:
    """Recall@10 and @20 of each storage at every width against an exact search of the same vectors, with the `m` and
    `ef_construction` of `params`. Nothing that is searched is touched, nothing is left. None without vectors or
    questions."""
    with scratch(db, tenant_id, version, rows=rows, queries=0) as made:
        if not made.rows or not len(questions):
            return None
        made.conn.execute("SELECT set_config('hnsw.iterative_scan', 'strict_order', false)")  # as serving does
        exact = nearest_distances(made.blocks(), questions, K)
        task = progress.task("index storages", len(storages), "storages")
        variants: list[StorageMeasured] = []
        for storage in storages:
            one = IndexParams(params.m, params.ef_construction, storage)
            variants.append(_measured(made, one, questions, exact))
            task.advance(1, storage=storage)
        task.done()
        return StorageTrial(
            made.rows, made.of_rows, len(questions), params.m, params.ef_construction, tuple(variants)
        )  # fmt: skip


def _measured(
    made: Scratch,
    params: IndexParams,
    questions: Vectors,
    exact: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
) -> StorageMeasured:
    build_s, size = made.build(params, memory_mb=needed_mb(made.rows, params, made.dims))
    points: list[SweepPoint] = []
    for width in EF_SEARCH:
        recall: dict[int, float] = {}
        seconds: list[float] = []
        for k in (K, 10):
            seconds.clear()
            shares: list[float] = []
            for question, best in zip(questions, exact, strict=True):
                began = time.perf_counter()
                found = made.search(question, params, k, width)
                seconds.append(time.perf_counter() - began)
                shares.append(recall_of(found, best[:k]))
            recall[k] = float(np.mean(shares))
        p50, p95 = (float(value) * 1000 for value in np.percentile(seconds, (50, 95)))
        points.append(SweepPoint(width, recall[10], recall[K], p50, p95))
    made.drop()
    return StorageMeasured(params.storage, build_s, size, tuple(points))


def _fits(storage: str, dims: int, column_storage: str) -> bool:
    try:
        return index_storage(storage, dims, column_storage) == storage
    except ConfigError:
        return False
