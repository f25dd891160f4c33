"""A partition of `kb.contents` made anew beside itself: copy, what changed meanwhile, indexes, and the swap.

All statements are the owner's, on one connection in autocommit, by one who holds the build lock. Nothing here looks at
what a search sees before `swap`, which is one transaction: a crash leaves the partition as it was, and a copy, a
trigger and a list that `drop_leftovers` removes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

from psycopg import Connection, sql
from psycopg.rows import TupleRow

from kb_pipeline.store.index_ddl import PARTITIONS
from kb_pipeline.store.versions import alter_columns

log = logging.getLogger(__name__)

SUFFIX = "_repack"
TRIGGER = "kb_repack"
BATCH_ROWS = 1_000


@dataclass(frozen=True, slots=True)
class Copy:
    """The new partition as it is being made."""

    leaf: str
    leaf_oid: int
    oid: int
    columns: tuple[str, ...]
    """Those that are copied; generated ones are computed again."""

    @property
    def name(self) -> str:
        """Of the table that takes the partition's name in the end."""
        return self.leaf + SUFFIX

    @property
    def bound(self) -> str:
        """The constraint that proves which rows it holds."""
        return f"{self.leaf}{SUFFIX}_bound"


def leaf_names() -> list[str]:
    """All partitions."""
    return [f"contents_p{number}" for number in range(PARTITIONS)]


def sizes(conn: Connection[TupleRow], table: str) -> tuple[int, int]:
    """(bytes with TOAST and all indexes, rows as the planner guesses them)."""
    row = conn.execute(
        "SELECT pg_total_relation_size(oid), greatest(reltuples, 0)::bigint FROM pg_class WHERE oid = %s::regclass",
        (f"kb.{table}",),
    ).fetchone()
    return (row[0], row[1]) if row else (0, 0)


def drop_leftovers(conn: Connection[TupleRow]) -> list[str]:
    """Remove what a repack that ended too early left; names of it. The partitions themselves are never touched."""
    triggers = [
        name
        for (name,) in conn.execute(
            "SELECT c.relname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid "
            "WHERE t.tgname = %s AND c.relnamespace = 'kb'::regnamespace",
            (TRIGGER,),
        )
    ]
    tables = [
        name
        for (name,) in conn.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'kb'::regnamespace AND relkind = 'r' "
            "AND relname = ANY(%s) AND NOT relispartition",
            ([name + SUFFIX for name in leaf_names()],),
        )
    ]
    for name in triggers:
        drop = sql.SQL("DROP TRIGGER IF EXISTS {} ON kb.{}").format(sql.Identifier(TRIGGER), sql.Identifier(name))
        alter_columns(conn, lambda statement=drop: conn.execute(statement))
    for name in tables:
        drop = sql.SQL("DROP TABLE IF EXISTS kb.{}").format(sql.Identifier(name))
        alter_columns(conn, lambda statement=drop: conn.execute(statement))
    if triggers or tables:
        conn.execute("DELETE FROM kb.repack_changes")
    for name in (*triggers, *tables):
        log.info("removed what a repack left at %s", name)
    return [*(f"{TRIGGER} on {name}" for name in triggers), *tables]


def begin_copy(conn: Connection[TupleRow], leaf: str) -> Copy:
    """An empty table like the partition, and from now on every change of the partition is noted.

    The trigger waits for writers that are under way, so what they change is either noted or copied.
    """
    name, place = sql.Identifier(leaf + SUFFIX), sql.Identifier(leaf)
    row = conn.execute(
        "SELECT c.oid, pg_get_partition_constraintdef(c.oid), c.reloptions, t.reloptions FROM pg_class c "
        "LEFT JOIN pg_class t ON t.oid = c.reltoastrelid WHERE c.oid = %s::regclass",
        (f"kb.{leaf}",),
    ).fetchone()
    assert row is not None, "the partition is there"
    oid, bound, options, toast = row
    settings = [one for one in options or () if not one.startswith("parallel_workers=")]
    settings += [f"toast.{one}" for one in toast or ()]
    with conn.transaction():
        conn.execute(sql.SQL("CREATE TABLE kb.{} (LIKE kb.{} INCLUDING ALL EXCLUDING INDEXES)").format(name, place))
        if settings:
            conn.execute(sql.SQL("ALTER TABLE kb.{} SET ({})").format(name, sql.SQL(", ".join(settings))))  # type: ignore[arg-type]
        # Proved now, so that taking it in as a partition reads no row.
        conn.execute(
            sql.SQL("ALTER TABLE kb.{} ADD CONSTRAINT {} CHECK ({})").format(
                name, sql.Identifier(f"{leaf}{SUFFIX}_bound"), sql.SQL(bound)
            )
        )
        conn.execute(sql.SQL("ALTER TABLE kb.{} ENABLE ROW LEVEL SECURITY").format(name))
        conn.execute(sql.SQL("ALTER TABLE kb.{} FORCE ROW LEVEL SECURITY").format(name))
        conn.execute(sql.SQL("CREATE POLICY owner ON kb.{} TO kb_owner USING (true) WITH CHECK (true)").format(name))
    alter_columns(
        conn,
        lambda: conn.execute(
            sql.SQL(
                "CREATE TRIGGER {} AFTER INSERT OR UPDATE OR DELETE ON kb.{} FOR EACH ROW "
                "EXECUTE FUNCTION kb.repack_note()"
            ).format(sql.Identifier(TRIGGER), place)
        ),
    )
    columns = conn.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped "
        "AND attgenerated = '' ORDER BY attnum",
        (oid,),
    ).fetchall()
    made = conn.execute("SELECT %s::regclass::oid", (f"kb.{leaf}{SUFFIX}",)).fetchone()
    assert made is not None
    return Copy(leaf, oid, made[0], tuple(column for (column,) in columns))


def copy_rows(conn: Connection[TupleRow], copy: Copy) -> Iterator[int]:
    """Copy all rows in the order of the primary key; rows of each committed batch. No snapshot is held in between."""
    columns = sql.SQL(", ").join(map(sql.Identifier, copy.columns))
    query = sql.SQL(
        "INSERT INTO kb.{copy} ({columns}) SELECT {columns} FROM kb.{leaf} WHERE (tenant_id, fingerprint) > (%s, %b) "
        "ORDER BY tenant_id, fingerprint LIMIT %s RETURNING tenant_id, fingerprint"
    ).format(copy=sql.Identifier(copy.name), leaf=sql.Identifier(copy.leaf), columns=columns)
    last: tuple[str, bytes] = ("", b"")
    while True:
        rows = conn.execute(query, (*last, BATCH_ROWS), binary=True).fetchall()
        if rows:
            yield len(rows)
        if len(rows) < BATCH_ROWS:
            return
        last = max((row[0], row[1]) for row in rows)


def changes_left(conn: Connection[TupleRow], copy: Copy, *, most: int) -> int:
    """Noted changes that the copy lacks, counted up to `most`."""
    row = conn.execute(
        "SELECT count(*) FROM (SELECT FROM kb.repack_changes WHERE leaf = %s LIMIT %s) x", (copy.leaf_oid, most)
    ).fetchone()
    return row[0] if row else 0


def catch_up(conn: Connection[TupleRow], copy: Copy, *, rows: int = BATCH_ROWS) -> int:
    """Bring the oldest noted changes to the copy, in one transaction; how many.

    What changes again meanwhile is noted again. Rows are deleted and inserted, never updated: an index that is built
    over a HOT chain is not used by older transactions (`pg_index.indcheckxmin`).
    """
    columns = sql.SQL(", ").join(map(sql.Identifier, copy.columns))
    places = {"copy": sql.Identifier(copy.name), "leaf": sql.Identifier(copy.leaf), "columns": columns}
    with conn.transaction():
        noted = conn.execute(
            "DELETE FROM kb.repack_changes WHERE change_id IN (SELECT change_id FROM kb.repack_changes WHERE leaf = %s "
            "ORDER BY change_id LIMIT %s) RETURNING tenant_id, fingerprint",
            (copy.leaf_oid, rows),
            binary=True,
        ).fetchall()
        if not noted:
            return 0
        keys = sorted({(row[0], row[1]) for row in noted})
        values = ([tenant for tenant, _ in keys], [fingerprint for _, fingerprint in keys])
        conn.execute(
            sql.SQL(
                "DELETE FROM kb.{copy} c USING unnest(%b::text[], %b::bytea[]) u (t, f) "
                "WHERE c.tenant_id = u.t AND c.fingerprint = u.f"
            ).format(**places),
            values,
        )
        conn.execute(
            sql.SQL(
                "INSERT INTO kb.{copy} ({columns}) SELECT {columns} FROM unnest(%b::text[], %b::bytea[]) u (t, f) "
                "JOIN kb.{leaf} c ON c.tenant_id = u.t AND c.fingerprint = u.f"
            ).format(**places),
            values,
        )
    return len(noted)


def snapshot_mark(conn: Connection[TupleRow]) -> str:
    """A transaction number that is taken next: a snapshot with an older one may not see all of the copy."""
    row = conn.execute("SELECT pg_snapshot_xmax(pg_current_snapshot())::xid::text").fetchone()
    assert row is not None
    return row[0]


def older_sessions(conn: Connection[TupleRow], mark: str) -> list[str]:
    """Sessions of this database whose snapshot is older than `mark`, each with its process id. `conn` is the login
    user's, who may see its own sessions."""
    rows = conn.execute(
        "SELECT application_name || ' (backend ' || pid || ')' FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_xmin IS NOT NULL "
        "AND age(backend_xmin) > age(%s::xid)",
        (mark,),
    )
    return [name for (name,) in rows]
