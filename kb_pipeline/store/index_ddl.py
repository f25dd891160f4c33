"""Index statements: blue/green slots on one column, on the leaf partition that holds the tenant."""

from __future__ import annotations

from typing import LiteralString

from psycopg import Connection, sql
from psycopg.rows import TupleRow

from kb_pipeline.planner.model import IndexParams
from kb_pipeline.tenant import checked_tenant_id

PARTITIONS = 8
SLOT_BYTES = {"a": "\\x00", "b": "\\x01"}
"""No SHA-256 is one byte long, so both predicates are always true. kb.search_ann repeats them: change both."""
INDEX_PREFIX = "kb_build_"
"""Names of our indexes: the prefix and the build's number."""


def index_name(build_id: int) -> str:
    """The name of a build's index; it fits 63 bytes whatever the tenant is called."""
    return f"{INDEX_PREFIX}{build_id}"


def leaf_partition(conn: Connection[TupleRow], tenant_id: str) -> str:
    """The partition of `kb.contents` that holds the tenant: CREATE INDEX CONCURRENTLY on the parent is an error."""
    row = conn.execute(
        "SELECT i FROM generate_series(0, %s - 1) i "
        "WHERE satisfies_hash_partition('kb.contents'::regclass, %s, i, %s::text)",
        (PARTITIONS, PARTITIONS, tenant_id),
    ).fetchone()
    assert row is not None, "one partition takes each tenant"
    return f"contents_p{row[0]}"


def create_index(
    tenant_id: str,
    build_id: int,
    leaf: str,
    *,
    version: int,
    slot: str,
    params: IndexParams,
    dims: int,
    column_storage: str,
) -> sql.Composed:
    """CREATE INDEX CONCURRENTLY for a build.

    Cosine, for normalised vectors too: in the graph pgvector keeps normalised copies and compares by inner product, so
    it costs the same; and it is right where inner product is not, with `normalize = false` and with the rounding of
    halfvec. NULL vectors are not indexed anyway. The tenant and the slot are literals, because only a literal predicate
    can be proved from a query.
    """
    column = sql.Identifier(f"embedding_v{version}")
    size = sql.Literal(dims)
    match params.storage:
        case "binary":
            key = sql.SQL("((binary_quantize({})::bit({}))) bit_hamming_ops").format(column, size)
        case storage if storage == column_storage:
            key = sql.SQL("{} {}").format(column, sql.SQL(_OPCLASS[storage]))
        case storage:
            key = sql.SQL("(({}::{}({}))) {}").format(column, sql.SQL(_TYPE[storage]), size, sql.SQL(_OPCLASS[storage]))
    return sql.SQL(
        "CREATE INDEX CONCURRENTLY {name} ON kb.{leaf} USING hnsw ({key}) WITH (m = {m}, ef_construction = {ef}) "
        "WHERE tenant_id = {tenant} AND fingerprint <> {slot}::bytea"
    ).format(
        name=sql.Identifier(index_name(build_id)),
        leaf=sql.Identifier(leaf),
        key=key,
        m=sql.Literal(params.m),
        ef=sql.Literal(params.ef_construction),
        tenant=sql.Literal(checked_tenant_id(tenant_id)),
        slot=sql.Literal(SLOT_BYTES[slot]),
    )


_TYPE: dict[str, LiteralString] = {"vector": "vector", "halfvec": "halfvec"}
_OPCLASS: dict[str, LiteralString] = {"vector": "vector_cosine_ops", "halfvec": "halfvec_cosine_ops"}


def drop_index(conn: Connection[TupleRow], name: str) -> None:
    """Drops an index without a lock that a search would feel; no error when it is gone. `conn` is in autocommit."""
    conn.execute(sql.SQL("DROP INDEX CONCURRENTLY IF EXISTS kb.{}").format(sql.Identifier(name)))


def our_indexes(conn: Connection[TupleRow]) -> list[str]:
    """Names of all indexes that were made for builds, valid or not."""
    rows = conn.execute(
        "SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
        "WHERE c.relnamespace = 'kb'::regnamespace AND starts_with(c.relname, %s) ORDER BY c.relname",
        (INDEX_PREFIX,),
    )
    return [name for (name,) in rows]
