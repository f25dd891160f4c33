"""Puts right what a crash left: builds without a builder, INVALID indexes, indexes without a build."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import Connection
from psycopg.rows import TupleRow

from kb_pipeline.errors import TenantBusy
from kb_pipeline.store.builds import fail_build, mark_dropped, standing_index_names, unfinished_builds
from kb_pipeline.store.index_ddl import drop_index, our_indexes
from kb_pipeline.store.index_progress import building_backend, end_backend, see_other_sessions
from kb_pipeline.store.locks import build_lock
from kb_pipeline.store.repack import drop_leftovers

if TYPE_CHECKING:
    from kb_pipeline.store.database import Database

log = logging.getLogger(__name__)

LET_GO_S = 3.0
"""How long a backend whose client died may take to notice (client_connection_check_interval is 1 s) before it is ended.
"""


@dataclass(frozen=True, slots=True)
class Recovered:
    """What was found and put right."""

    failed_builds: tuple[int, ...] = ()
    dropped_indexes: tuple[str, ...] = ()
    busy: bool = False
    """A build is going on, so nothing was touched."""


def recover(db: Database) -> Recovered:
    """Cleans the whole database; does nothing while another process builds. Never touches what is live. Repeatable."""
    try:
        with build_lock(db, wait_s=0):
            return recover_locked(db)
    except TenantBusy:
        return Recovered(busy=True)


def recover_locked(db: Database) -> Recovered:
    """`recover` for one who holds the build lock, which proves that no process is building."""
    with db.connect("owner", autocommit=True) as conn:
        unfinished = unfinished_builds(conn)
        for build_id, tenant_id in unfinished:
            _end_builder(db, build_id)
            fail_build(conn, build_id, "the process that built it ended before it was done")
            log.warning("build %d of tenant %s was left unfinished and is marked failed", build_id, tenant_id)
        dropped = (*_drop_strays(conn), *drop_leftovers(conn))
    return Recovered(tuple(build_id for build_id, _ in unfinished), dropped)


def drop_build(db: Database, tenant_id: str, build_id: int) -> bool:
    """Gives up a candidate or previous build: from now on nobody can go to it, and its index is dropped concurrently.

    A crash in between leaves an index that `recover` drops. False when it is not such a build (any more).
    """
    with build_lock(db), db.connect("owner", autocommit=True) as conn:
        return drop_build_locked(conn, tenant_id, build_id)


def drop_build_locked(conn: Connection[TupleRow], tenant_id: str, build_id: int) -> bool:
    """`drop_build` for one who holds the build lock, on an owner's connection in autocommit."""
    if not mark_dropped(conn, tenant_id, build_id):
        return False
    _drop_strays(conn)
    return True


def _drop_strays(conn: Connection[TupleRow]) -> tuple[str, ...]:
    """Drops our indexes that no standing build has a claim to; one that a crash left INVALID is always such a one."""
    standing = standing_index_names(conn)
    strays = [name for name in our_indexes(conn) if name not in standing]
    for name in strays:
        drop_index(conn, name)
        log.info("dropped index %s", name)
    return tuple(strays)


def _end_builder(db: Database, build_id: int) -> None:
    """Waits for the backend of a dead process to notice, then ends it: only one backend may touch an index."""
    with db.connect("owner", autocommit=True) as conn:
        see_other_sessions(conn)
        deadline = time.monotonic() + LET_GO_S
        while (pid := building_backend(conn, build_id)) is not None:
            if time.monotonic() > deadline:
                end_backend(conn, pid)
                deadline = time.monotonic() + LET_GO_S
            time.sleep(0.05)
