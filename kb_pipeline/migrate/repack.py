"""Gives the space of what has gone back to the disk: each partition is made anew beside itself while it is searched."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg

from kb_pipeline.errors import KbError
from kb_pipeline.index.memory import allowance, needed_mb
from kb_pipeline.index.recover import recover_locked
from kb_pipeline.planner.model import IndexParams
from kb_pipeline.store import repack as store
from kb_pipeline.store import repack_swap as swapping
from kb_pipeline.store.index_progress import see_other_sessions
from kb_pipeline.store.index_session import analyze, build_session, build_workers, server_limits
from kb_pipeline.store.locks import build_lock
from kb_pipeline.store.maintenance import vacuum
from kb_pipeline.store.versions import read_version

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.rows import TupleRow

    from kb_pipeline.config.schema import IndexConfig
    from kb_pipeline.session import Session
    from kb_pipeline.stages.context import Progress
    from kb_pipeline.store.database import Database

log = logging.getLogger(__name__)

FEW = 100
"""Changes that may be left for the swap, during which writers wait."""
GIVE_UP_S = 600.0
"""How long the copy is kept up to date while writers or old snapshots do not let it take the partition's place."""


@dataclass(frozen=True, slots=True)
class Repacked:
    """One partition."""

    partition: str
    rows: int
    bytes_before: int
    """With TOAST and all indexes."""
    bytes_after: int
    indexes: int
    """Indexes of builds that were made again."""
    changed_meanwhile: int
    seconds: float
    writers_waited_ms: float
    searches_waited_ms: float

    def line(self) -> str:
        """For a person."""
        return (
            f"{self.partition}: {self.bytes_before / 2**20:,.1f} -> {self.bytes_after / 2**20:,.1f} MB, "
            f"{self.rows:,} rows, {self.indexes} search indexes, {self.seconds:.1f} s; {self.changed_meanwhile:,} "
            f"changes came over; writers waited {self.writers_waited_ms:.0f} ms, searches {self.searches_waited_ms:.0f}"
        )


def repack(session: Session) -> Iterator[Repacked]:
    """Every partition that takes any space, one after the other; between two of them index builds get their turn.

    Searches, runs and other maintenance go on. A crash leaves the partition as it was; what is left beside it goes with
    the next run or `kb maintain`. Raises `KbError` when a partition cannot be exchanged: those before it are done.
    """
    from kb_pipeline.log_progress import LogProgress

    progress = session.progress or LogProgress()
    for leaf in store.leaf_names():
        with session.db.connect("owner", autocommit=True) as conn:
            analyze(conn, leaf)
            size, rows = store.sizes(conn, leaf)
        if not rows and size <= _empty_bytes(session.db, leaf):
            continue
        done = repack_partition(session.db, leaf, session.settings.index, progress)
        log.info("repacked %s", done.line())
        yield done


def repack_partition(db: Database, leaf: str, config: IndexConfig, progress: Progress) -> Repacked:
    """One partition, under the build lock. Raises `KbError`; then nothing is left of the copy."""
    with build_lock(db):
        recover_locked(db)
        with db.connect("owner", autocommit=True) as conn:
            store.drop_leftovers(conn)
            before, rows = store.sizes(conn, leaf)
            _require_room(db, before)
        try:
            with db.connect("owner", autocommit=True) as conn:
                return _made_anew(db, conn, leaf, before, rows, config, progress)
        except BaseException:
            with suppress(psycopg.Error, KbError), db.connect("owner", autocommit=True) as conn:
                store.drop_leftovers(conn)
            raise


def _made_anew(
    db: Database,
    conn: Connection[TupleRow],
    leaf: str,
    before: int,
    rows: int,
    config: IndexConfig,
    progress: Progress,
) -> Repacked:
    """All on one connection: when it is lost, nothing goes on with a list of changes that a crash has emptied."""
    started = time.monotonic()
    # A swap is flushed to disk with everything before it. The planner shall walk the primary key, whatever it believes.
    conn.execute(
        "SELECT set_config('synchronous_commit', 'off', false), set_config('enable_seqscan', 'off', false), "
        "set_config('idle_session_timeout', '0', false), set_config('statement_timeout', '0', false)"
    )
    copy = store.begin_copy(conn, leaf)
    task = progress.task(f"repack {leaf}", rows, "rows")
    copied = 0
    for count in store.copy_rows(conn, copy):
        copied += count
        task.advance(count)
    task.done()
    indexes = swapping.leaf_indexes(conn, leaf)
    changed = _build_all(conn, copy, indexes, config, progress)
    mark = store.snapshot_mark(conn)
    waited: tuple[float, float] | None = None
    deadline = time.monotonic() + GIVE_UP_S
    while waited is None:
        while store.changes_left(conn, copy, most=FEW + 1) > FEW:
            changed += store.catch_up(conn, copy)
            _require_time(deadline, leaf, "too much was written meanwhile")
        if older := _older(db, mark):
            _require_time(deadline, leaf, f"the snapshot of {older[0]} is older than the copy")
        else:
            conn.execute("SELECT set_config('synchronous_commit', 'on', false)")
            waited = swapping.swap(conn, copy, indexes)
            conn.execute("SELECT set_config('synchronous_commit', 'off', false)")
            if waited is None:
                _require_time(deadline, leaf, "its lock could not be got within 50 ms")
        if waited is None:
            time.sleep(random.uniform(0.1, 0.5))
    after, _ = store.sizes(conn, leaf)
    searched = sum(index.method == "hnsw" for index in indexes)
    writers, searches = waited
    return Repacked(
        leaf, copied, before, after, searched, changed, time.monotonic() - started, writers * 1000, searches * 1000
    )


def _build_all(
    conn: Connection[TupleRow],
    copy: store.Copy,
    indexes: list[swapping.LeafIndex],
    config: IndexConfig,
    progress: Progress,
) -> int:
    """Every index of the partition on the copy, most of what changed meanwhile before the dear ones; changes that came
    over."""
    limits = server_limits(conn)
    allowed = allowance(config.build_memory_mb, limits.maintenance_mb, limits.shared_buffers_mb, local=limits.local)
    workers = build_workers(config.build_workers, limits)
    changed, current = 0, False
    for number, index in enumerate(indexes):
        memory_mb = limits.maintenance_mb
        if index.method == "hnsw":
            if not current:
                current = True
                while count := store.catch_up(conn, copy):
                    changed += count
                vacuum(conn, copy.name)
            memory_mb = min(_memory(conn, index), allowed.mb)
        task = progress.task(f"repack {copy.leaf}: {index.name}", None, "rows")
        with build_session(conn, copy.name, memory_mb=max(memory_mb, limits.maintenance_mb), workers=workers):
            swapping.build_index(conn, copy, index, number)
        task.done()
    analyze(conn, copy.name)
    return changed


def _memory(conn: Connection[TupleRow], index: swapping.LeafIndex) -> int:
    """Megabytes in which the graph is built; less only makes it slower."""
    if index.version is None or index.tenant_id is None:
        return 0
    from kb_pipeline.store.builds import rows_with_vector

    _, rows = rows_with_vector(conn, index.tenant_id, index.version)
    dims = read_version(conn, index.version).spec.dims
    return needed_mb(rows, IndexParams(index.m, 0, index.storage), dims)


def _older(db: Database, mark: str) -> list[str]:
    with db.connect("owner", autocommit=True) as conn:
        see_other_sessions(conn)
        return store.older_sessions(conn, mark)


def _require_time(deadline: float, leaf: str, why: str) -> None:
    if time.monotonic() > deadline:
        raise KbError(f"kb.{leaf} could not be exchanged for its copy in {GIVE_UP_S:g} s: {why}. Run again later")


def _require_room(db: Database, needed: int) -> None:
    """Where the server's disk is this machine's: room for the copy and what is logged of it."""
    import shutil

    with db.connect("owner", autocommit=True) as conn:
        see_other_sessions(conn)
        if not server_limits(conn).local:
            return
        try:
            row = conn.execute("SELECT current_setting('data_directory')").fetchone()
            free = shutil.disk_usage(row[0]).free if row else None
        except (psycopg.errors.InsufficientPrivilege, OSError):
            return
    if free is not None and free < 2 * needed:
        raise KbError(
            f"a copy of {needed / 2**20:,.0f} MB and its log need {2 * needed / 2**20:,.0f} MB of disk, "
            f"{free / 2**20:,.0f} are free: make room, then run again"
        )


def _empty_bytes(db: Database, leaf: str) -> int:
    """Bytes of a partition that never held a row: a page for each of its indexes, and one more for the text search."""
    with db.connect("owner", autocommit=True) as conn:
        return 8192 * (2 * len(swapping.leaf_indexes(conn, leaf)) + 1)
