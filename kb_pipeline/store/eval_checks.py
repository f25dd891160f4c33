"""What data checks read: samples of chunks and vectors, distributions, the state of indexes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from psycopg import Connection, sql
from psycopg.rows import TupleRow, class_row, dict_row

from kb_pipeline.embed.protocol import Vectors
from kb_pipeline.store.contents import column


@dataclass(frozen=True, slots=True)
class IndexState:
    """One build with an index, and what Postgres knows of that index."""

    build_id: int
    version: int
    state: str
    index_name: str
    exists: bool
    valid: bool


def sampled_chunks(conn: Connection[TupleRow], tenant_id: str, *, limit: int) -> list[dict[str, Any]]:
    """Chunks with their texts and the state of their source, of an even sample of documents."""
    query = """
        WITH few AS (
            SELECT doc_id FROM (SELECT doc_id, count(*) AS n FROM kb.chunks WHERE tenant_id = %(t)s GROUP BY 1) d
            WHERE hashtextextended(doc_id, 1) & 65535 <=
                  65536.0 * %(limit)s / (SELECT greatest(count(*), 1) FROM kb.chunks WHERE tenant_id = %(t)s))
        SELECT k.doc_id, k.ordinal, k.start_offset AS start, k.end_offset AS "end", k.kind, k.fingerprint,
               c.context, c.body, c.tokens, d.format, d.source_state AS state
        FROM few JOIN kb.chunks k USING (doc_id)
        JOIN kb.documents d ON d.tenant_id = k.tenant_id AND d.doc_id = k.doc_id
        JOIN kb.contents c ON c.tenant_id = k.tenant_id AND c.fingerprint = k.fingerprint
        WHERE k.tenant_id = %(t)s
    """
    with conn.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query, {"t": tenant_id, "limit": limit}).fetchall()


def passages(conn: Connection[TupleRow], tenant_id: str, *, limit: int) -> list[tuple[str, int, str, str]]:
    """(document, ordinal, innermost heading, body) of one place of some contents; fingerprints are uniform, so the
    first are a sample."""
    query = """
        SELECT k.doc_id, k.ordinal, coalesce(k.heading_path[cardinality(k.heading_path)], ''), c.body
        FROM (SELECT fingerprint, body FROM kb.contents WHERE tenant_id = %(t)s AND orphaned_at IS NULL
              ORDER BY fingerprint LIMIT %(n)s) c
        CROSS JOIN LATERAL (SELECT doc_id, ordinal, heading_path FROM kb.chunks p WHERE p.tenant_id = %(t)s
              AND p.fingerprint = c.fingerprint ORDER BY doc_id, ordinal LIMIT 1) k
        ORDER BY c.fingerprint
    """
    return conn.execute(query, {"t": tenant_id, "n": limit}).fetchall()  # type: ignore[return-value]


def is_applied(conn: Connection[TupleRow], tenant_id: str, root_id: int) -> bool:
    """Whether the tables hold what descends from this `documents` output, or a later one."""
    row = conn.execute("SELECT applied_manifest >= %s FROM kb.tenants WHERE tenant_id = %s", (root_id, tenant_id))
    found = row.fetchone()
    return bool(found and found[0])


def kinds(conn: Connection[TupleRow], tenant_id: str, *, without: Sequence[str]) -> dict[str, int]:
    """Chunks by kind, but for these documents."""
    query = "SELECT kind, count(*) FROM kb.chunks WHERE tenant_id = %s AND doc_id <> ALL (%s::text[]) GROUP BY 1"
    return dict(conn.execute(query, (tenant_id, list(without))).fetchall())


def languages(conn: Connection[TupleRow], tenant_id: str) -> dict[str, int]:
    """Contents in use by text-search configuration."""
    query = "SELECT lang::text, count(*) FROM kb.contents WHERE tenant_id = %s AND orphaned_at IS NULL GROUP BY 1"
    return dict(conn.execute(query, (tenant_id,)).fetchall())


def sampled_vectors(
    conn: Connection[TupleRow], tenant_id: str, version: int, *, limit: int, searchable: bool = False
) -> list[tuple[bytes, Vectors]]:
    """(fingerprint, vector) of contents with this version's vector; fingerprints are uniform, so the first are a
    sample. `searchable`: of those that a chunk refers to."""
    query = sql.SQL(
        "SELECT fingerprint, {column} FROM kb.contents WHERE tenant_id = %s AND {column} IS NOT NULL "
        "AND (orphaned_at IS NULL OR NOT %s) ORDER BY fingerprint LIMIT %s"
    ).format(column=column(version))
    with conn.cursor(binary=True) as cursor:
        rows = cursor.execute(query, (tenant_id, searchable, limit)).fetchall()
    return [(bytes(name), np.asarray(vector, dtype=np.float32)) for name, vector in rows]


def embedded(conn: Connection[TupleRow], tenant_id: str, version: int) -> int:
    """Contents with this version's vector."""
    query = sql.SQL("SELECT count({}) FROM kb.contents WHERE tenant_id = %s").format(column(version))
    row = conn.execute(query, (tenant_id,)).fetchone()
    return int(row[0]) if row else 0


def indexes(conn: Connection[TupleRow], tenant_id: str) -> list[IndexState]:
    """The tenant's standing builds that have an index, oldest first."""
    query = """
        SELECT b.build_id, b.version, b.state, b.index_name, i.indexrelid IS NOT NULL AS exists,
               coalesce(i.indisvalid, false) AS valid
        FROM kb.builds b LEFT JOIN pg_class c ON c.relname = b.index_name AND c.relnamespace = 'kb'::regnamespace
        LEFT JOIN pg_index i ON i.indexrelid = c.oid
        WHERE b.tenant_id = %s AND b.method = 'hnsw' AND b.state IN ('candidate', 'live', 'previous') ORDER BY 1
    """
    with conn.cursor(row_factory=class_row(IndexState)) as cursor:
        return cursor.execute(query, (tenant_id,)).fetchall()


def scans(conn: Connection[TupleRow], index_name: str) -> int:
    """How often searches went through an index, as far as backends have reported."""
    row = conn.execute(
        "SELECT idx_scan FROM pg_stat_all_indexes WHERE schemaname = 'kb' AND indexrelname = %s", (index_name,)
    ).fetchone()
    return int(row[0] or 0) if row else 0


def flush_figures(conn: Connection[TupleRow]) -> None:
    """Report this connection's figures now; else a backend does it once a second."""
    conn.execute("SELECT pg_stat_force_next_flush()")
    conn.execute("SELECT 1")
