"""Makes a candidate build beside what is live. Searches neither wait for it nor see it."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg
from psycopg import Connection
from psycopg.rows import TupleRow

from kb_pipeline.config.schema import IndexConfig
from kb_pipeline.errors import IndexBuildError
from kb_pipeline.index.memory import allowance, maintenance_work_mem
from kb_pipeline.index.placement import free_slot
from kb_pipeline.index.progress import watched
from kb_pipeline.index.recover import drop_build_locked, recover_locked
from kb_pipeline.planner.model import Build, IndexParams
from kb_pipeline.store.builds import add_build, fail_build, finish_build, rows_with_vector, standing_builds
from kb_pipeline.store.index_ddl import create_index, drop_index, index_name, leaf_partition
from kb_pipeline.store.index_progress import announce_build, withdraw_build
from kb_pipeline.store.index_session import analyze, build_session, build_workers, server_limits
from kb_pipeline.store.locks import build_lock
from kb_pipeline.store.versions import Version

if TYPE_CHECKING:
    from kb_pipeline.stages.context import Progress
    from kb_pipeline.store.database import Database

log = logging.getLogger(__name__)

SPILLED = "no longer fits into maintenance_work_mem"
"""Of pgvector's notice (hnswbuild.c); from there on a build takes many times as long."""


@dataclass(frozen=True, slots=True)
class Built:
    """A new candidate."""

    build_id: int
    slot: str | None
    rows: int
    seconds: float = 0.0
    bytes: int = 0
    memory_mb: int = 0
    allowed_mb: int = 0
    workers: int = 0
    dropped: int | None = None
    """The build that gave up its slot."""


def build_exact(db: Database, tenant_id: str, action: Build, version: Version, *, run_id: str) -> Built:
    """A candidate that is searched by scanning: a row, no index."""
    with build_lock(db), db.connect("owner", autocommit=True) as conn:
        analyze(conn, leaf_partition(conn, tenant_id))
        rows, _ = rows_with_vector(conn, tenant_id, version.version)
        detail = {"trigger": action.trigger, "reason": action.reason, "numbers": dict(action.numbers)}
        build_id = add_build(
            conn,
            tenant_id,
            version=version.version,
            slot=None,
            params=None,
            rows=rows,
            state="candidate",
            run_id=run_id,
            detail=detail,
        )
    return Built(build_id, None, rows)


def build_hnsw(
    db: Database,
    tenant_id: str,
    action: Build,
    version: Version,
    config: IndexConfig,
    *,
    run_id: str,
    progress: Progress,
) -> Built:
    """A candidate with an HNSW index in the free slot. Raises `IndexBuildError`; then nothing is left of it but a
    `failed` row."""
    params = action.params
    assert params is not None, "an hnsw build has parameters"
    with build_lock(db):
        recover_locked(db)
        with db.connect("owner", autocommit=True) as conn:
            leaf = leaf_partition(conn, tenant_id)
            analyze(conn, leaf)
            rows, indexed = rows_with_vector(conn, tenant_id, version.version)
            limits = server_limits(conn)
            allowed = allowance(
                config.build_memory_mb, limits.maintenance_mb, limits.shared_buffers_mb, local=limits.local
            )
            memory_mb = maintenance_work_mem(indexed, params, version.spec.dims, allowed)
            workers = build_workers(config.build_workers, limits)
            slot, leaving = free_slot(standing_builds(conn, tenant_id), version.version)
            if leaving is not None:
                drop_build_locked(conn, tenant_id, leaving.build_id)
            detail = {
                "trigger": action.trigger, "reason": action.reason, "numbers": dict(action.numbers),
                "memory_mb": memory_mb, "allowed_mb": allowed.mb, "allowed_by": allowed.source, "workers": workers,
                "indexed_rows": indexed,
            }  # fmt: skip
            build_id = add_build(
                conn,
                tenant_id,
                version=version.version,
                slot=slot,
                params=params,
                rows=rows,
                state="building",
                run_id=run_id,
                detail=detail,
            )
        try:
            work = _Work(tenant_id, build_id, leaf, slot, params, version, memory_mb, workers, indexed)
            seconds, workers = _create(db, work, progress)
            with db.connect("owner", autocommit=True) as conn:
                state, size = finish_build(conn, build_id, seconds=seconds, detail={"workers": workers})
            if state != "candidate":
                raise IndexBuildError(
                    f"the index of build {build_id} is not valid after it was built; see the server's log"
                )
        except BaseException as error:
            with suppress(psycopg.Error):  # a server that is gone is put right by the next run
                with db.connect("owner", autocommit=True) as conn:
                    fail_build(conn, build_id, f"{type(error).__name__}: {error}")
                recover_locked(db)
            if isinstance(error, psycopg.Error):
                raise IndexBuildError(
                    f"Postgres ended the build of {index_name(build_id)}: {error}. What is live was not touched"
                ) from error
            raise
    log.info("built %s: %d rows in %.1f s, %d MB", index_name(build_id), indexed, seconds, size // 2**20)
    return Built(
        build_id,
        slot,
        rows,
        seconds,
        size,
        memory_mb,
        allowed.mb,
        workers,
        None if leaving is None else leaving.build_id,
    )


@dataclass(frozen=True, slots=True)
class _Work:
    tenant_id: str
    build_id: int
    leaf: str
    slot: str
    params: IndexParams
    version: Version
    memory_mb: int
    workers: int
    rows: int


def _create(db: Database, work: _Work, progress: Progress) -> tuple[float, int]:
    """Runs CREATE INDEX; seconds it took and the workers it had. A container's small /dev/shm costs the workers, not
    the build."""
    for workers in dict.fromkeys((work.workers, 0)):
        try:
            with db.connect("owner", autocommit=True) as conn:
                return _create_with(db, conn, work, workers, progress), workers
        except psycopg.errors.DiskFull as error:
            if not workers or "shared memory" not in str(error):
                raise
            log.warning("no shared memory for %d MB (/dev/shm): building without parallel workers", work.memory_mb)
            with db.connect("owner", autocommit=True) as conn:
                drop_index(conn, index_name(work.build_id))
    raise AssertionError("the last try returns or raises")


def _create_with(db: Database, conn: Connection[TupleRow], work: _Work, workers: int, progress: Progress) -> float:
    statement = create_index(
        work.tenant_id, work.build_id, work.leaf,
        version=work.version.version, slot=work.slot, params=work.params,
        dims=work.version.spec.dims, column_storage=work.version.storage,
    )  # fmt: skip
    spilled: list[str] = []

    def on_notice(diagnostic: psycopg.errors.Diagnostic) -> None:
        if SPILLED in (diagnostic.message_primary or ""):
            spilled.append(diagnostic.message_primary or "")
            conn.cancel()

    conn.add_notice_handler(on_notice)
    announce_build(conn, work.build_id)
    try:
        with (
            build_session(conn, work.leaf, memory_mb=work.memory_mb, workers=workers),
            watched(
                db, conn.info.backend_pid, progress, f"hnsw index ({work.params.storage}, m={work.params.m})", work.rows
            ),
        ):
            started = time.perf_counter()
            conn.execute(statement)
            seconds = time.perf_counter() - started
    except psycopg.errors.QueryCanceled as error:
        if not spilled:
            raise
        raise IndexBuildError(
            f"the index of {work.rows:,} rows did not fit the computed {work.memory_mb:,} MB ({spilled[0]}): "
            f"set [index] build_memory_mb = {2 * work.memory_mb} or more"
        ) from error
    if spilled:
        raise IndexBuildError(f"{spilled[0]}: set [index] build_memory_mb = {2 * work.memory_mb} or more")
    withdraw_build(conn, work.build_id)
    return seconds
