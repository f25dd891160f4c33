"""The session that builds an index: what the server allows, what is set for the build, and taken back after it."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
from psycopg import Connection, sql
from psycopg.rows import TupleRow


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """What matters of the server's settings."""

    maintenance_mb: int
    shared_buffers_mb: int
    workers: int
    """`max_parallel_maintenance_workers`."""
    local: bool
    """The server runs on this machine."""


def server_limits(conn: Connection[TupleRow]) -> ServerLimits:
    """Read from the server."""
    row = conn.execute(
        "SELECT pg_size_bytes(current_setting('maintenance_work_mem')) / 1048576, "
        "pg_size_bytes(current_setting('shared_buffers')) / 1048576, "
        "current_setting('max_parallel_maintenance_workers')::int"
    ).fetchone()
    assert row is not None
    host = conn.info.host
    return ServerLimits(
        row[0], row[1], row[2], local=not host or host.startswith("/") or host in ("localhost", "127.0.0.1", "::1")
    )


def build_workers(asked: int | None, limits: ServerLimits) -> int:
    """Workers beside the leader: as asked; else one for each core of this machine, as the server allows.

    With one fewer a build took 1.16 to 1.5 times a plain CREATE INDEX of the same machine under load, with as many 1.0.
    """
    if asked is not None:
        return asked
    return min(limits.workers, os.cpu_count() or 1) if limits.local else limits.workers


@contextmanager
def build_session(conn: Connection[TupleRow], leaf: str, *, memory_mb: int, workers: int) -> Generator[None]:
    """Memory and workers for CREATE INDEX CONCURRENTLY on `leaf`; `conn` is in autocommit and used for one build only.

    Set for the session: SET LOCAL has no effect with CONCURRENTLY. The table's `parallel_workers` overrides the
    server's guess from the table's size, which leaves TOAST out, and is reset, because it would also make searches
    parallel.
    """
    settings = {
        "maintenance_work_mem": f"{memory_mb}MB",
        "max_parallel_maintenance_workers": str(workers),
        "statement_timeout": "0",
        "lock_timeout": "0",
        "client_min_messages": "notice",  # "hnsw graph no longer fits into maintenance_work_mem"
    }
    for name, value in settings.items():
        conn.execute("SELECT set_config(%s, %s, false)", (name, value))
    try:  # the backend of a killed process ends by itself; not every platform can tell
        conn.execute("SELECT set_config('client_connection_check_interval', '1s', false)")
    except psycopg.errors.InvalidParameterValue:
        pass
    table = sql.Identifier("kb", leaf)
    conn.execute(sql.SQL("ALTER TABLE {} SET (parallel_workers = {})").format(table, sql.Literal(workers)))
    try:
        yield
    finally:
        if not conn.closed:
            conn.execute(sql.SQL("ALTER TABLE {} RESET (parallel_workers)").format(table))


def analyze(conn: Connection[TupleRow], leaf: str) -> None:
    """Statistics after a bulk change. Not of the vectors and texts: they help no plan, and to sample them reads them
    from TOAST."""
    conn.execute(sql.SQL("ANALYZE {} (tenant_id, fingerprint, orphaned_at)").format(sql.Identifier("kb", leaf)))
    conn.execute(
        "ANALYZE kb.chunks (tenant_id, doc_id, ordinal, fingerprint), kb.documents (tenant_id, doc_id, metadata)"
    )
