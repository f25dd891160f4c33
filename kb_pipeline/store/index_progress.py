"""How far an index build is, and whether its backend is still there, as the server sees it."""

from __future__ import annotations

from dataclasses import dataclass

from psycopg import Connection
from psycopg.rows import TupleRow

_CLASS = 0x6B62_6278
"""First key of the advisory lock that a backend holds while it builds ("kbbx"); the second is the build's number."""


@dataclass(frozen=True, slots=True)
class BuildProgress:
    """A line of `pg_stat_progress_create_index`."""

    phase: str
    tuples_done: int


def see_other_sessions(conn: Connection[TupleRow]) -> None:
    """Back to the login user, who may see (and end) its other sessions; kb_owner may not. `conn` is in autocommit."""
    conn.execute("SELECT set_config('role', 'none', false)")


def build_progress(conn: Connection[TupleRow], pid: int) -> BuildProgress | None:
    """How far the CREATE INDEX of backend `pid` is; None before it starts and after it ends."""
    row = conn.execute(
        "SELECT phase, coalesce(tuples_done, 0) FROM pg_stat_progress_create_index WHERE pid = %s", (pid,)
    ).fetchone()
    return BuildProgress(*row) if row else None


def announce_build(conn: Connection[TupleRow], build_id: int) -> None:
    """Marks this backend as the one that builds, as long as it lives: it may outlive the process that started it."""
    conn.execute("SELECT pg_advisory_lock(%s::int, %s::int)", (_CLASS, build_id))


def withdraw_build(conn: Connection[TupleRow], build_id: int) -> None:
    """The end of `announce_build`."""
    conn.execute("SELECT pg_advisory_unlock(%s::int, %s::int)", (_CLASS, build_id))


def building_backend(conn: Connection[TupleRow], build_id: int) -> int | None:
    """The backend that is building this build now."""
    row = conn.execute(
        "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 2 "
        "AND classid::bigint = %s AND objid::bigint = %s "
        "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
        (_CLASS, build_id),
    ).fetchone()
    return row[0] if row else None


def end_backend(conn: Connection[TupleRow], pid: int) -> None:
    """Ends a backend of the same login user."""
    conn.execute("SELECT pg_terminate_backend(%s)", (pid,))
