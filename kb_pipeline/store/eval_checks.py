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
from kb_pipeline.store.index_ddl import SLOT_BYTES


@dataclass(frozen=True, slots=True)
class IndexState:
    """One build with an index, and what Postgres knows of that index."""

    build_id: int
    version: int
    state: str
    index_name: str
    exists: bool
    valid: bool
    slot: str
    indexed_as: str
    """vector, halfvec or binary."""
    storage: str
    """Type of the column."""
    dims: int


@dataclass(frozen=True, slots=True)
class Walk:
    """What a walk through the whole graph of an index came by."""

    embedded: int
    """Rows with a vector, in the same snapshot."""
    reached: int
    lost: tuple[str, ...]
    """Some of the rows that were not reached: fingerprint and first place."""


_CHUNKS = """
    SELECT k.doc_id, k.ordinal, k.start_offset AS start, k.end_offset AS "end", k.kind, k.fingerprint,
           c.context, c.body, c.tokens, d.format, d.source_state AS state, d.characters
    FROM kb.chunks k
    JOIN kb.documents d ON d.tenant_id = k.tenant_id AND d.doc_id = k.doc_id
    JOIN kb.contents c ON c.tenant_id = k.tenant_id AND c.fingerprint = k.fingerprint
    WHERE k.tenant_id = %(t)s
"""


def sampled_chunks(conn: Connection[TupleRow], tenant_id: str, *, limit: int) -> list[dict[str, Any]]:
    """Chunks with their texts and the state of their source, of an even sample of documents."""
    query = (
        _CHUNKS
        + """ AND hashtextextended(k.doc_id, 1) & 65535 <=
        65536.0 * %(limit)s / (SELECT greatest(count(*), 1) FROM kb.chunks WHERE tenant_id = %(t)s)
    """
    )
    with conn.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query.encode(), {"t": tenant_id, "limit": limit}).fetchall()


def suspected_chunks(
    conn: Connection[TupleRow], tenant_id: str, *, control: str, max_tokens: int, limit: int
) -> list[dict[str, Any]]:
    """Chunks in which something may be wrong, looked for among all: sizes, offsets, characters that match the class
    `control`, a fingerprint that is not the text's."""
    query = (
        _CHUNKS
        + """ AND (k.ordinal < 0 OR k.start_offset < 0 OR k.end_offset <= k.start_offset
             OR k.end_offset > coalesce(nullif(d.characters, 0), k.end_offset) OR c.tokens NOT BETWEEN 1 AND %(tokens)s
             OR length(c.body) <> k.end_offset - k.start_offset
             OR c.context ~ %(control)s OR c.body ~ %(control)s OR c.body !~ '\\S'
             OR c.fingerprint <> sha256(convert_to(c.context, 'UTF8') || '\\x1f'::bytea || convert_to(c.body, 'UTF8')))
        ORDER BY k.doc_id, k.ordinal LIMIT %(limit)s
    """
    )
    values = {"t": tenant_id, "control": control, "tokens": max_tokens, "limit": limit}
    with conn.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query.encode(), values).fetchall()


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


def suspected_vectors(
    conn: Connection[TupleRow], tenant_id: str, version: int, *, norm: tuple[float, float], limit: int
) -> list[tuple[bytes, Vectors]]:
    """(fingerprint, vector) of those whose length is not between these two, looked for among all."""
    query = sql.SQL(
        "SELECT fingerprint, {column} FROM kb.contents WHERE tenant_id = %s AND {column} IS NOT NULL "
        "AND vector_norm({column}::vector) NOT BETWEEN %s AND %s ORDER BY fingerprint LIMIT %s"
    ).format(column=column(version))
    with conn.cursor(binary=True) as cursor:
        rows = cursor.execute(query, (tenant_id, *norm, limit)).fetchall()
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
               coalesce(i.indisvalid, false) AS valid, b.slot,
               coalesce(b.params ->> 'storage', v.storage) AS indexed_as, v.storage, v.dims
        FROM kb.builds b JOIN kb.embedding_versions v USING (version)
        LEFT JOIN pg_class c ON c.relname = b.index_name AND c.relnamespace = 'kb'::regnamespace
        LEFT JOIN pg_index i ON i.indexrelid = c.oid
        WHERE b.tenant_id = %s AND b.method = 'hnsw' AND b.state IN ('candidate', 'live', 'previous') ORDER BY 1
    """
    with conn.cursor(row_factory=class_row(IndexState)) as cursor:
        return cursor.execute(query, (tenant_id,)).fetchall()


def walk_index(conn: Connection[TupleRow], tenant_id: str, build: IndexState, *, named: int = 10) -> Walk | None:
    """Walks a build's graph to its end and says which of the embedded rows it does not come by. None: Postgres does not
    go through the index for such a search.

    A search without a limit that goes on (`hnsw.iterative_scan`) returns every element that can be reached from the
    entry point. HNSW leaves a few without a way to them (about 1 in 10,000 with m = 16, 1 in 600 with m = 8, measured
    on documentation and sentences): no search through the index finds those. Rows that are not in the index at all are
    among them. `conn` is the owner's, in autocommit; the walk is one short transaction.
    """
    name = sql.Identifier(f"embedding_v{build.version}")
    match build.indexed_as:
        case "binary":
            key = sql.SQL("(binary_quantize({})::bit({})) <~> binary_quantize(q.v)::bit({})").format(
                name, sql.Literal(build.dims), sql.Literal(build.dims)
            )
        case indexed if indexed == build.storage:
            key = sql.SQL("{} <=> q.v").format(name)
        case _:
            key = sql.SQL("({}::halfvec({})) <=> q.v::halfvec({})").format(
                name, sql.Literal(build.dims), sql.Literal(build.dims)
            )
    walk = sql.SQL(
        "WITH q AS MATERIALIZED (SELECT {name} AS v FROM kb.contents "
        "WHERE tenant_id = {tenant} AND {name} IS NOT NULL LIMIT 1) SELECT w.fingerprint FROM q CROSS JOIN LATERAL "
        "(SELECT fingerprint FROM kb.contents WHERE tenant_id = {tenant} AND fingerprint <> {slot}::bytea "
        "ORDER BY {key}) w"
    ).format(
        name=name, tenant=sql.Literal(tenant_id), slot=sql.Literal(SLOT_BYTES[build.slot]), key=key
    )  # fmt: skip
    lost = sql.SQL(
        "SELECT encode(c.fingerprint, 'hex'), (SELECT k.doc_id || ' #' || k.ordinal FROM kb.chunks k "
        "WHERE k.tenant_id = c.tenant_id AND k.fingerprint = c.fingerprint ORDER BY k.doc_id, k.ordinal LIMIT 1) "
        "FROM kb.contents c WHERE c.tenant_id = %s AND {} IS NOT NULL "
        "AND NOT EXISTS (SELECT FROM walked w WHERE w.fingerprint = c.fingerprint) ORDER BY 1 LIMIT %s"
    ).format(name)
    with conn.transaction():
        conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        for setting in _WALK:
            conn.execute(f"SET LOCAL {setting}".encode())
        plan = conn.execute(sql.SQL("EXPLAIN ") + walk).fetchall()
        if not any(f" {build.index_name} " in line for (line,) in plan):
            return None
        conn.execute(sql.SQL("CREATE TEMP TABLE walked ON COMMIT DROP AS ") + walk)
        for setting in ("enable_seqscan = on", "enable_sort = on"):
            conn.execute(f"SET LOCAL {setting}".encode())
        conn.execute("ANALYZE walked")
        reached = conn.execute("SELECT count(DISTINCT fingerprint) FROM walked").fetchone()
        rows = conn.execute(lost, (tenant_id, named)).fetchall()
        return Walk(
            embedded=embedded(conn, tenant_id, build.version),
            reached=reached[0] if reached else 0,
            lost=tuple(f"{fingerprint[:16]} ({place or 'no chunk refers to it'})" for fingerprint, place in rows),
        )


_WALK = (
    "enable_seqscan = off",
    "enable_sort = off",
    "enable_bitmapscan = off",
    "max_parallel_workers_per_gather = 0",
    "work_mem = '64MB'",
    "hnsw.iterative_scan = relaxed_order",
    "hnsw.ef_search = 1000",
    "hnsw.max_scan_tuples = 2147483647",
    "hnsw.scan_mem_multiplier = 1000",
)
"""Nothing but the index can give the order, and nothing ends its walk."""


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
