"""The end of a repack: the partition's indexes on its copy, and the copy in the partition's place.

On the connection and under the lock of `store.repack`.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

from psycopg import Connection, sql
from psycopg.errors import LockNotAvailable
from psycopg.rows import TupleRow

from kb_pipeline.errors import KbError
from kb_pipeline.store.repack import SUFFIX, Copy, catch_up
from kb_pipeline.store.versions import LOCK_TIMEOUT_MS

WRITERS_WAIT_S = 0.85
"""Longest time writers wait for a try of the swap: below `deadlock_timeout` (1 s), so none of them is ever ended."""


@dataclass(frozen=True, slots=True)
class LeafIndex:
    """An index of the partition."""

    name: str
    definition: str
    """`CREATE INDEX` as `pg_get_indexdef` writes it."""
    constraint: str | None
    """Definition of the constraint it belongs to (`PRIMARY KEY (...)`)."""
    method: str
    tenant_id: str | None = None
    """Of the build it was made for."""
    version: int | None = None
    m: int = 0
    storage: str = ""


def leaf_indexes(conn: Connection[TupleRow], leaf: str) -> list[LeafIndex]:
    """Valid indexes of the partition: the primary key first, those of searches last."""
    rows = conn.execute(
        "SELECT c.relname, pg_get_indexdef(i.indexrelid), pg_get_constraintdef(k.oid), a.amname, b.tenant_id, "
        "b.version, coalesce((b.params ->> 'm')::int, 0), coalesce(b.params ->> 'storage', v.storage, '') "
        "FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam "
        "LEFT JOIN pg_constraint k ON k.conindid = i.indexrelid AND k.contype IN ('p', 'u') "
        "LEFT JOIN kb.builds b ON b.index_name = c.relname "
        "LEFT JOIN kb.embedding_versions v ON v.version = b.version "
        "WHERE i.indrelid = %s::regclass AND i.indisvalid ORDER BY k.oid IS NULL, a.amname = 'hnsw', i.indexrelid",
        (f"kb.{leaf}",),
    )
    return [LeafIndex(*row) for row in rows]


def build_index(conn: Connection[TupleRow], copy: Copy, index: LeafIndex, number: int) -> None:
    """Make an index of the partition on the copy, under a name of its own. Raises `KbError` for one that is not
    understood."""
    name = sql.Identifier(_temporary(copy.leaf, number))
    table = sql.Identifier(copy.name)
    if index.constraint is not None:
        conn.execute(
            sql.SQL("ALTER TABLE kb.{} ADD CONSTRAINT {} {}").format(table, name, sql.SQL(index.constraint))  # type: ignore[arg-type]
        )
        return
    head, found, tail = index.definition.partition(f" ON kb.{copy.leaf} USING ")
    if not found or not head.startswith(("CREATE INDEX ", "CREATE UNIQUE INDEX ")):
        raise KbError(f"the index {index.name} of kb.{copy.leaf} cannot be made again: {index.definition}")
    kind = sql.SQL("UNIQUE INDEX" if head.startswith("CREATE UNIQUE") else "INDEX")
    using = sql.SQL(tail)  # type: ignore[arg-type]
    conn.execute(sql.SQL("CREATE {} {} ON kb.{} USING {}").format(kind, name, table, using))


def swap(conn: Connection[TupleRow], copy: Copy, indexes: list[LeafIndex]) -> tuple[float, float] | None:
    """Put the copy in the partition's place: (seconds writers waited, seconds searches did). None: not this time.

    Writers wait while the last changes come over, searches only for renaming a few catalogue rows, and no try waits
    longer than 50 ms for the searches before it.
    """
    parent = sql.SQL("kb.contents")
    leaf = sql.SQL("kb.{}").format(sql.Identifier(copy.leaf))
    try:
        with conn.transaction():
            conn.execute("SET LOCAL lock_timeout = '2s'")
            conn.execute(sql.SQL("LOCK TABLE ONLY {} IN SHARE ROW EXCLUSIVE MODE").format(parent))
            began = time.monotonic()
            conn.execute(sql.SQL("LOCK TABLE ONLY {} IN SHARE ROW EXCLUSIVE MODE").format(leaf))
            while catch_up(conn, copy, rows=50):
                if time.monotonic() - began > WRITERS_WAIT_S / 2:
                    raise _NotNow
            _require_same(conn, copy, indexes)
            _exclude_searches(conn, parent, leaf, began)
            locked = time.monotonic()
            _exchange(conn, copy, indexes)
        return time.monotonic() - began, time.monotonic() - locked
    except (_NotNow, LockNotAvailable):
        return None


class _NotNow(Exception):
    """Rolls a try back."""


def _exclude_searches(conn: Connection[TupleRow], parent: sql.Composable, leaf: sql.Composable, began: float) -> None:
    while True:
        try:
            with conn.transaction():
                conn.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(LOCK_TIMEOUT_MS))
                for table in (parent, leaf):
                    conn.execute(sql.SQL("LOCK TABLE ONLY {} IN ACCESS EXCLUSIVE MODE").format(table))
            return
        except LockNotAvailable:
            if time.monotonic() - began > WRITERS_WAIT_S - 0.1:
                raise
            time.sleep(random.uniform(0.01, 0.05))


def _require_same(conn: Connection[TupleRow], copy: Copy, indexes: list[LeafIndex]) -> None:
    """That nobody else touched the copy, and that the partition has the indexes that were copied."""
    row = conn.execute(
        "SELECT to_regclass(%s)::oid, to_regclass(%s)::oid", (f"kb.{copy.leaf}", f"kb.{copy.name}")
    ).fetchone()
    now = {index.name for index in leaf_indexes(conn, copy.leaf)}
    if row != (copy.leaf_oid, copy.oid) or now != {index.name for index in indexes}:
        raise KbError(f"kb.{copy.leaf} was changed by somebody else while it was copied: run again")


def _exchange(conn: Connection[TupleRow], copy: Copy, indexes: list[LeafIndex]) -> None:
    leaf = sql.Identifier(copy.leaf)
    bound = conn.execute(
        "SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE oid = %s", (copy.leaf_oid,)
    ).fetchone()
    assert bound is not None
    conn.execute(sql.SQL("DROP TABLE kb.{}").format(leaf))
    conn.execute(sql.SQL("ALTER TABLE kb.{} RENAME TO {}").format(sql.Identifier(copy.name), leaf))
    for number, index in enumerate(indexes):
        conn.execute(
            sql.SQL("ALTER INDEX kb.{} RENAME TO {}").format(
                sql.Identifier(_temporary(copy.leaf, number)), sql.Identifier(index.name)
            )
        )
    conn.execute(sql.SQL("ALTER TABLE kb.contents ATTACH PARTITION kb.{} {}").format(leaf, sql.SQL(bound[0])))
    conn.execute(sql.SQL("ALTER TABLE kb.{} DROP CONSTRAINT {}").format(leaf, sql.Identifier(copy.bound)))
    conn.execute(
        "UPDATE kb.builds SET bytes = pg_relation_size(to_regclass('kb.' || quote_ident(index_name))) "
        "WHERE index_name = ANY(%s) AND state IN ('candidate', 'live', 'previous')",
        ([index.name for index in indexes],),
    )


def _temporary(leaf: str, number: int) -> str:
    return f"{leaf}{SUFFIX}_{number}"
