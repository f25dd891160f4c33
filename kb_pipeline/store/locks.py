"""Who works on what: session-level advisory locks on a direct connection of their own.

They are polled, never waited for: a blocked `pg_advisory_lock()` holds a snapshot, and CREATE INDEX CONCURRENTLY waits
for it. The connection does nothing else and holds no transaction. A process that dies lets go of its locks.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Generator
from contextlib import contextmanager
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from kb_pipeline.errors import TenantBusy

if TYPE_CHECKING:
    import psycopg

    from kb_pipeline.store.database import Database

log = logging.getLogger(__name__)

_POLL_S = 0.2


@contextmanager
def tenant_lock(db: Database, tenant_id: str, *, wait_s: float | None) -> Generator[None]:
    """Excludes other runs of the tenant.

    Waits `wait_s` seconds (0: not at all, None: without end), then raises `TenantBusy`, which names the holder.
    """
    with _lock(db, f"tenant:{tenant_id}", f"tenant {tenant_id!r}", wait_s):
        yield


def awaited(conn: psycopg.Connection[Any], tenant_id: str) -> bool:
    """Whether somebody waits for the tenant's lock: long work that can be taken up again gives way."""
    return _held(conn, _waiting_key(f"tenant:{tenant_id}"))


def building(conn: psycopg.Connection[Any]) -> bool:
    """Whether somebody holds the build lock. A process that was killed does not."""
    return _held(conn, _key("build"))


@contextmanager
def build_lock(db: Database, *, wait_s: float | None = None) -> Generator[None]:
    """One index build or column change at a time in this database: concurrent builds wait for each other anyway.

    Waits and raises as `tenant_lock` does.
    """
    with _lock(db, "build", "the index build lock", wait_s):
        yield


@contextmanager
def _lock(db: Database, name: str, what: str, wait_s: float | None) -> Generator[None]:
    key = _key(name)
    deadline = None if wait_s is None else time.monotonic() + wait_s
    with db.connect("owner", autocommit=True) as connection:
        # A managed server may close idle sessions, and the lock with them. The holder is looked up as the login user,
        # who may see its other sessions.
        connection.execute("SELECT set_config('idle_session_timeout', '0', false), set_config('role', 'none', false)")
        announced = False
        while not _taken(connection, key):
            if not announced and wait_s != 0:
                connection.execute("SELECT pg_try_advisory_lock_shared(%s)", (_waiting_key(name),))
                announced = True
            if deadline is not None and time.monotonic() >= deadline:
                raise TenantBusy(f"{what} is held by {_holder(connection, key)}; run again when it is done")
            time.sleep(_POLL_S)
        if announced:
            connection.execute("SELECT pg_advisory_unlock_shared(%s)", (_waiting_key(name),))
        try:
            yield
        finally:
            _let_go(connection, key, what)


def _key(name: str) -> int:
    return int.from_bytes(sha256(b"kb:" + name.encode()).digest()[:8], "big", signed=True)


def _waiting_key(name: str) -> int:
    """Of the shared lock that those hold who wait for `name`."""
    return _key(f"waiting:{name}")


def _held(conn: psycopg.Connection[Any], key: int) -> bool:
    row = conn.execute(
        "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1 "
        "AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) "
        "AND classid::bigint = (%(key)s::bigint >> 32) & 4294967295 AND objid::bigint = %(key)s::bigint & 4294967295)",
        {"key": key},
    ).fetchone()
    return bool(row and row[0])


def _let_go(connection: psycopg.Connection[Any], key: int, what: str) -> None:
    """Never hides how the work under the lock ended: a lost connection has let go of the lock already."""
    import psycopg

    try:
        connection.execute("SELECT pg_advisory_unlock(%s)", (key,))
    except psycopg.OperationalError as error:
        log.warning("the connection that held %s was lost: %s", what, error)


def _taken(connection: psycopg.Connection[Any], key: int) -> bool:
    row = connection.execute("SELECT pg_try_advisory_lock(%s)", (key,)).fetchone()
    return bool(row and row[0])


def _holder(connection: psycopg.Connection[Any], key: int) -> str:
    """Who has it and since when: the holder's last statement is the one that took it."""
    row = connection.execute(
        "SELECT a.application_name, a.pid, to_char(a.query_start, 'YYYY-MM-DD HH24:MI:SS TZ') "
        "FROM pg_locks l JOIN pg_stat_activity a USING (pid) "
        "WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 "
        "AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) "
        "AND l.classid::bigint = (%(key)s::bigint >> 32) & 4294967295 "
        "AND l.objid::bigint = %(key)s::bigint & 4294967295",
        {"key": key},
    ).fetchone()
    return f"{row[0]} (backend {row[1]}, since {row[2] or 'unknown'})" if row else "a process that has just finished"
