"""The vector bank: vectors that are here before their contents, and those of tenants that share theirs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence

from psycopg import Connection, sql
from psycopg.rows import TupleRow

from kb_pipeline.embed.protocol import EmbedderSpec, Vectors
from kb_pipeline.fingerprint import embedded_text
from kb_pipeline.store.contents import column


def space_key(spec: EmbedderSpec) -> bytes:
    """SHA-256 of what decides the values of a vector before any cast (32 bytes)."""
    return hashlib.sha256(json.dumps(spec.space()).encode()).digest()


def text_key(text: str) -> bytes:
    """Key of a vector whose fingerprint nobody told: SHA-256 of the embedded text (32 bytes)."""
    return hashlib.sha256(text.encode()).digest()


def put_vectors(
    conn: Connection[TupleRow], tenant_id: str, space: bytes, origin: str, keys: Sequence[bytes], vectors: Vectors
) -> None:
    """Keep `(n, dims) float32` vectors under their keys; one that is there is replaced."""
    conn.execute(
        "INSERT INTO kb.vector_bank (tenant_id, space, origin, key, vector) "
        "SELECT %s, %s, %s, u.k, u.v FROM unnest(%b::bytea[], %b::vector[]) AS u (k, v) "
        "ON CONFLICT (tenant_id, space, key) DO UPDATE SET vector = excluded.vector, origin = excluded.origin",
        (tenant_id, space, origin, list(keys), list(vectors)),
    )


def has_vectors(conn: Connection[TupleRow], tenant_id: str, space: bytes) -> bool:
    """Whether the bank holds anything of this space."""
    row = conn.execute(
        "SELECT EXISTS (SELECT FROM kb.vector_bank WHERE tenant_id = %s AND space = %s)", (tenant_id, space)
    ).fetchone()
    return bool(row and row[0])


def find_vectors(
    conn: Connection[TupleRow], tenant_id: str, space: bytes, keys: Sequence[bytes]
) -> Mapping[bytes, Vectors]:
    """Those of the keys that the bank holds, with their `(dims,) float32` vectors."""
    rows = conn.execute(
        "SELECT key, vector FROM kb.vector_bank WHERE tenant_id = %s AND space = %s AND key = ANY(%b)",
        (tenant_id, space, list(keys)),
        binary=True,
    )
    return dict(rows.fetchall())


def at_hand(conn: Connection[TupleRow], tenant_id: str, space: bytes, keys: Sequence[bytes]) -> set[bytes]:
    """Those of the keys (fingerprints, or keys by text) that the bank holds or an open batch job will bring."""
    rows = conn.execute(
        "SELECT key FROM kb.vector_bank WHERE tenant_id = %s AND space = %s AND key = ANY(%b) "
        "UNION SELECT fingerprint FROM kb.batch_items WHERE tenant_id = %s AND space = %s AND fingerprint = ANY(%b) "
        "AND NOT refused",
        (tenant_id, space, list(keys), tenant_id, space, list(keys)),
        binary=True,
    )
    return {row[0] for row in rows}


def lacking_at_hand(
    conn: Connection[TupleRow], tenant_id: str, space: bytes, versions: Sequence[int], *, partners: Sequence[str] = ()
) -> tuple[int, int]:
    """Contents in use without a vector of any of these versions for which one is at hand, and their tokens.

    Without versions: all contents in use for which one is. With `partners`, tenants that share theirs, what they have
    of the first version is at hand too, and `conn` is the owner's.
    """
    lacks = (
        sql.SQL(" AND ").join(sql.SQL("c.{} IS NULL").format(column(version)) for version in versions)
        if versions
        else sql.SQL("true")
    )
    shared = sql.SQL("false")
    if partners and versions:
        shared = sql.SQL(
            "EXISTS (SELECT FROM kb.contents o WHERE o.tenant_id = ANY(%(p)s) AND o.fingerprint = c.fingerprint "
            "AND o.{} IS NOT NULL)"
        ).format(column(versions[0]))
    row = conn.execute(
        sql.SQL(
            "SELECT count(*), coalesce(sum(c.tokens), 0)::bigint FROM kb.contents c "
            "WHERE c.tenant_id = %(t)s AND c.orphaned_at IS NULL AND {} AND (EXISTS (SELECT FROM kb.batch_items i "
            "WHERE i.tenant_id = c.tenant_id AND i.space = %(s)s AND i.fingerprint = c.fingerprint AND NOT i.refused) "
            "OR EXISTS (SELECT FROM kb.vector_bank b WHERE b.tenant_id = c.tenant_id AND b.space = %(s)s "
            "AND b.key IN (c.fingerprint, sha256(convert_to(CASE WHEN c.context = '' THEN c.body "
            "ELSE c.context || E'\\n\\n' || c.body END, 'UTF8')))) OR {})"
        ).format(lacks, shared),
        {"t": tenant_id, "s": space, "p": list(partners)},
    ).fetchone()
    return (row[0], row[1]) if row else (0, 0)


def drop_vectors(conn: Connection[TupleRow], tenant_id: str, space: bytes, keys: Sequence[bytes]) -> None:
    """Remove vectors that their contents have got."""
    conn.execute(
        "DELETE FROM kb.vector_bank WHERE tenant_id = %s AND space = %s AND key = ANY(%s)",
        (tenant_id, space, list(keys)),
    )


def forget_unused(conn: Connection[TupleRow], tenant_id: str, *, days: int = 30) -> None:
    """Remove collected vectors whose texts have not come up for so long; imported ones stay."""
    conn.execute(
        "DELETE FROM kb.vector_bank WHERE tenant_id = %s AND origin = 'batch' "
        "AND added_at < now() - %s * interval '1 day'",
        (tenant_id, days),
    )


def shared_vectors(
    conn: Connection[TupleRow], tenants: Sequence[str], version: int, fingerprints: Sequence[bytes]
) -> Mapping[bytes, Vectors]:
    """Vectors of this version that any of these tenants has for the fingerprints. `conn` is the owner's: no role that
    a tenant's own work runs under can see another tenant's rows.
    """
    rows = conn.execute(
        sql.SQL(
            "SELECT DISTINCT ON (c.fingerprint) c.fingerprint, c.{column}::vector FROM kb.contents c "
            "WHERE c.tenant_id = ANY(%s) AND c.fingerprint = ANY(%b) AND c.{column} IS NOT NULL"
        ).format(column=column(version)),
        (list(tenants), list(fingerprints)),
        binary=True,
    )
    return dict(rows.fetchall())


def shared_texts(
    conn: Connection[TupleRow], tenants: Sequence[str], version: int, fingerprints: Sequence[bytes]
) -> set[bytes]:
    """Those of the fingerprints for which `shared_vectors` would find one."""
    rows = conn.execute(
        sql.SQL(
            "SELECT DISTINCT c.fingerprint FROM kb.contents c "
            "WHERE c.tenant_id = ANY(%s) AND c.fingerprint = ANY(%b) AND c.{} IS NOT NULL"
        ).format(column(version)),
        (list(tenants), list(fingerprints)),
        binary=True,
    )
    return {row[0] for row in rows}


def stored_vectors(
    conn: Connection[TupleRow], tenant_id: str, version: int, *, batch_rows: int = 1000
) -> Iterator[list[tuple[bytes, str, Vectors]]]:
    """Fingerprint, embedded text and vector of every content that has one, batch by batch, each a statement."""
    query = sql.SQL(
        "SELECT fingerprint, context, body, {column}::vector FROM kb.contents WHERE tenant_id = %s "
        "AND {column} IS NOT NULL AND fingerprint > %b ORDER BY fingerprint LIMIT %s"
    ).format(column=column(version))
    after = b""
    while True:
        rows = conn.execute(query, (tenant_id, after, batch_rows), binary=True).fetchall()
        if not rows:
            return
        yield [(fingerprint, embedded_text(context, body), vector) for fingerprint, context, body, vector in rows]
        after = rows[-1][0]
