"""Giving back what a retired embedding version took: its values in HOT batches, then its column, then the space."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

from psycopg import Connection, sql
from psycopg.rows import TupleRow

from kb_pipeline.store.contents import column
from kb_pipeline.store.versions import alter_columns

if TYPE_CHECKING:
    from kb_pipeline.store.database import Database

log = logging.getLogger(__name__)

BATCH_ROWS = 2_000


def superseded_builds(conn: Connection[TupleRow], tenant_id: str, keep: list[int]) -> list[int]:
    """Candidates of versions that are neither live, nor in soak, nor in `keep`: nothing can come of them any more."""
    rows = conn.execute(
        "SELECT b.build_id FROM kb.builds b JOIN kb.live l USING (tenant_id) WHERE b.tenant_id = %s "
        "AND b.state = 'candidate' AND b.version <> l.version AND b.version IS DISTINCT FROM l.previous_version "
        "AND b.version <> ALL(%s)",
        (tenant_id, keep),
    )
    return [build_id for (build_id,) in rows]


def retire_versions(conn: Connection[TupleRow], tenant_id: str, keep: list[int]) -> list[int]:
    """The tenant gives up versions that are not searched and not wanted: neither live, nor in soak, nor in `keep`, and
    without a standing build. A tenant that serves nothing yet gives up nothing."""
    rows = conn.execute(
        "UPDATE kb.tenant_versions t SET state = 'retired', changed_at = now() FROM kb.live l "
        "WHERE t.tenant_id = %(t)s AND l.tenant_id = t.tenant_id AND t.state <> 'retired' AND t.version <> l.version "
        "AND t.version IS DISTINCT FROM l.previous_version AND t.version <> ALL(%(keep)s) "
        "AND NOT EXISTS (SELECT FROM kb.builds b WHERE b.tenant_id = t.tenant_id AND b.version = t.version "
        "AND b.state IN ('building', 'candidate', 'live', 'previous')) RETURNING t.version",
        {"t": tenant_id, "keep": keep},
    )
    return sorted(version for (version,) in rows)


def retired_versions(conn: Connection[TupleRow], tenant_id: str) -> list[int]:
    """Versions the tenant gave up whose column is there still, with no standing build of the tenant."""
    rows = conn.execute(
        "SELECT t.version FROM kb.tenant_versions t JOIN kb.embedding_versions v USING (version) "
        "WHERE t.tenant_id = %s AND t.state = 'retired' AND v.column_state = 'present' "
        "AND NOT EXISTS (SELECT FROM kb.builds b WHERE b.tenant_id = t.tenant_id AND b.version = t.version "
        "AND b.state IN ('building', 'candidate', 'live', 'previous')) ORDER BY 1",
        (tenant_id,),
    )
    return [version for (version,) in rows]


def indexed_by(conn: Connection[TupleRow], leaf: str, version: int) -> list[str]:
    """Indexes of the partition on the version's column. While there is one, no update of the column is HOT, and each
    would put the row into every index of its tenant again."""
    rows = conn.execute(
        "SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
        "JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attname = %s AND NOT a.attisdropped "
        "WHERE i.indrelid = ('kb.' || quote_ident(%s))::regclass AND "
        "(a.attnum = ANY(i.indkey) OR pg_get_expr(i.indexprs, i.indrelid) LIKE '%%' || a.attname || '%%') ORDER BY 1",
        (f"embedding_v{version}", leaf),
    )
    return [name for (name,) in rows]


def null_column(conn: Connection[TupleRow], tenant_id: str, version: int) -> Iterator[int]:
    """Take the tenant's values out of a retired version's column; rows of each committed batch, in the order of the
    fingerprints. `conn` is in autocommit."""
    query = sql.SQL(
        "WITH batch AS (SELECT fingerprint FROM kb.contents WHERE tenant_id = %(t)s AND fingerprint > %(after)b "
        "AND {column} IS NOT NULL ORDER BY fingerprint LIMIT %(rows)s), "
        "emptied AS (UPDATE kb.contents c SET {column} = NULL FROM batch "
        "WHERE c.tenant_id = %(t)s AND c.fingerprint = batch.fingerprint) "
        "SELECT count(*), (SELECT fingerprint FROM batch ORDER BY fingerprint DESC LIMIT 1) FROM batch"
    ).format(column=column(version))
    after = b""
    while True:
        row = conn.execute(query, {"t": tenant_id, "after": after, "rows": BATCH_ROWS}, binary=True).fetchone()
        if row is None or row[0] == 0:
            return
        yield row[0]
        after = row[1]


def drop_unused_columns(db: Database) -> list[int]:
    """Drop the columns that no tenant's version and no standing build refers to; their numbers stay taken.

    Under the build lock, each in one short transaction that excludes a tenant's return to the version.
    """
    from kb_pipeline.store.locks import build_lock

    with db.connect("owner", autocommit=True) as conn:
        unused = _unused(conn)
        if not unused:
            return []
        with build_lock(db):
            return [version for version in unused if alter_columns(conn, lambda v=version: _drop(conn, v))]


def _unused(conn: Connection[TupleRow], version: int | None = None) -> list[int]:
    rows = conn.execute(
        "SELECT version FROM kb.embedding_versions v WHERE column_state = 'present' "
        "AND (%(v)s::int IS NULL OR version = %(v)s) "
        "AND EXISTS (SELECT FROM kb.tenant_versions t WHERE t.version = v.version) "
        "AND NOT EXISTS (SELECT FROM kb.tenant_versions t WHERE t.version = v.version AND t.state <> 'retired') "
        "AND NOT EXISTS (SELECT FROM kb.builds b WHERE b.version = v.version "
        "AND b.state IN ('building', 'candidate', 'live', 'previous')) "
        "AND NOT EXISTS (SELECT FROM kb.live l WHERE v.version IN (l.version, l.previous_version)) ORDER BY 1",
        {"v": version},
    )
    return [number for (number,) in rows]


def _drop(conn: Connection[TupleRow], version: int) -> bool:
    conn.execute("SELECT FROM kb.embedding_versions WHERE version = %s FOR UPDATE", (version,))
    if not _unused(conn, version):
        return False
    conn.execute(sql.SQL("ALTER TABLE kb.contents DROP COLUMN {}").format(column(version)))
    conn.execute("UPDATE kb.embedding_versions SET column_state = 'dropped' WHERE version = %s", (version,))
    log.info("dropped column embedding_v%d", version)
    return True


def vacuum_partition(conn: Connection[TupleRow], leaf: str) -> None:
    """Make the space of what is gone free for new rows; the file does not shrink. `conn` is in autocommit."""
    conn.execute(sql.SQL("VACUUM kb.{}").format(sql.Identifier(leaf)))
