"""What an eval run reads: builds, coverage, sampled contents, documents of hits, corpus figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import Connection, sql
from psycopg.rows import TupleRow
from psycopg.types.json import Jsonb

from kb_pipeline.store.contents import column


@dataclass(frozen=True, slots=True)
class BuildRow:
    """A build with its version, as `kb.builds` and `kb.embedding_versions` have them."""

    build_id: int
    version: int
    method: str
    slot: str | None
    params: dict[str, Any]
    state: str
    rows_at_build: int
    seconds: float | None
    bytes: int | None
    created_at: str
    embedder: dict[str, Any]
    dims: int
    storage: str
    index_name: str | None


@dataclass(frozen=True, slots=True)
class CorpusRows:
    """Counts over a tenant's documents, chunks and contents."""

    documents: int
    chunks: int
    contents: int
    tokens: int
    orphans: int
    dead_letters: int
    sizes: list[tuple[int, int]]
    kinds: list[tuple[str, int]]
    formats: list[tuple[str, int]]
    languages: list[tuple[str, int]]


_BUILD = """
SELECT b.build_id, b.version, b.method, b.slot, b.params, b.state, b.rows_at_build, b.seconds, b.bytes,
       to_char(b.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
       v.embedder, v.dims, v.storage, b.index_name
FROM kb.builds b JOIN kb.embedding_versions v USING (version)
WHERE b.tenant_id = %s
"""


def build_row(conn: Connection[TupleRow], tenant_id: str, build_id: int) -> BuildRow | None:
    """One build of the tenant, None when it has no such build."""
    row = conn.execute(sql.SQL(_BUILD + " AND b.build_id = %s"), (tenant_id, build_id)).fetchone()
    return BuildRow(*row) if row else None


def newest_candidate(conn: Connection[TupleRow], tenant_id: str) -> BuildRow | None:
    """The candidate that waits to be measured or promoted, if any. One that was refused, or is older than what is live,
    waits for nothing; while nothing is live, it is measured again."""
    query = (
        _BUILD + " AND b.state = 'candidate' AND NOT EXISTS (SELECT FROM kb.live l WHERE l.tenant_id = b.tenant_id "
        "AND (l.build_id > b.build_id "
        "OR (SELECT r.decision FROM kb.reviews r WHERE r.tenant_id = b.tenant_id "
        "AND r.build_id = b.build_id ORDER BY r.review_id DESC LIMIT 1) = 'rejected' "
        "OR (SELECT e.verdict FROM kb.eval_runs e WHERE e.tenant_id = b.tenant_id "
        "AND e.build_id = b.build_id ORDER BY e.eval_id DESC LIMIT 1) = 'fail')) ORDER BY b.build_id DESC LIMIT 1"
    )
    row = conn.execute(sql.SQL(query), (tenant_id,)).fetchone()
    return BuildRow(*row) if row else None


def live_build(conn: Connection[TupleRow], tenant_id: str) -> BuildRow | None:
    """What the tenant serves from, if anything."""
    query = _BUILD + " AND b.build_id = (SELECT build_id FROM kb.live WHERE tenant_id = %s)"
    row = conn.execute(sql.SQL(query), (tenant_id, tenant_id)).fetchone()
    return BuildRow(*row) if row else None


def covered(conn: Connection[TupleRow], tenant_id: str, version: int) -> tuple[int, int]:
    """(contents that a chunk refers to, those of them with a vector of this version)."""
    query = sql.SQL("SELECT count(*), count({}) FROM kb.contents WHERE tenant_id = %s AND orphaned_at IS NULL")
    row = conn.execute(query.format(column(version)), (tenant_id,)).fetchone()
    return (row[0], row[1]) if row else (0, 0)


def sampled_bodies(conn: Connection[TupleRow], tenant_id: str, probes: Sequence[bytes]) -> list[tuple[bytes, str]]:
    """(fingerprint, body) of the first content at or after each probe, each once, ordered.

    Fingerprints are uniform, so uniform probes give a fair sample for one index look-up each, at any size of corpus.
    """
    query = """
        SELECT DISTINCT ON (c.fingerprint) c.fingerprint, c.body
        FROM unnest(%s::bytea[]) AS p (probe)
        CROSS JOIN LATERAL (
            SELECT fingerprint, body FROM kb.contents
            WHERE tenant_id = %s AND orphaned_at IS NULL AND fingerprint >= p.probe
            ORDER BY fingerprint LIMIT 1
        ) c
        ORDER BY c.fingerprint
    """
    return [(bytes(f), body) for f, body in conn.execute(query, (list(probes), tenant_id)).fetchall()]


def documents_of(
    conn: Connection[TupleRow], tenant_id: str, fingerprints: Sequence[bytes]
) -> dict[bytes, tuple[str, ...]]:
    """The documents that hold each content, ordered by id."""
    query = """
        SELECT fingerprint, array_agg(DISTINCT doc_id ORDER BY doc_id) FROM kb.chunks
        WHERE tenant_id = %s AND fingerprint = ANY(%s) GROUP BY fingerprint
    """
    rows = conn.execute(query, (tenant_id, list(fingerprints))).fetchall()
    return {bytes(fingerprint): tuple(doc_ids) for fingerprint, doc_ids in rows}


def count_chunks(conn: Connection[TupleRow], tenant_id: str) -> int:
    """Chunks of the tenant."""
    row = conn.execute("SELECT count(*) FROM kb.chunks WHERE tenant_id = %s", (tenant_id,)).fetchone()
    return int(row[0]) if row else 0


def filter_shares(conn: Connection[TupleRow], tenant_id: str, *, limit: int) -> list[tuple[str, Any, int]]:
    """(metadata key, value, chunks of documents that have it), most first, of plain values only."""
    query = """
        SELECT m.key, m.value, sum(d.n)::bigint AS n
        FROM (SELECT d.metadata, (SELECT count(*) FROM kb.chunks k WHERE k.tenant_id = d.tenant_id
              AND k.doc_id = d.doc_id) AS n FROM kb.documents d WHERE d.tenant_id = %s) d
        CROSS JOIN LATERAL jsonb_each(d.metadata) m
        WHERE jsonb_typeof(m.value) IN ('string', 'number', 'boolean') AND length(m.value::text) <= 200
        GROUP BY 1, 2 ORDER BY n DESC, 1, 2 LIMIT %s
    """
    return [(key, value, count) for key, value, count in conn.execute(query, (tenant_id, limit)).fetchall()]


def passing(conn: Connection[TupleRow], tenant_id: str, key: str, value: Any) -> set[bytes]:
    """Contents that stand in a document with this metadata value, alone or in a list."""
    query = """
        SELECT DISTINCT k.fingerprint FROM kb.documents d JOIN kb.chunks k USING (tenant_id, doc_id)
        WHERE d.tenant_id = %s AND (d.metadata @> %s OR d.metadata @> %s)
    """
    rows = conn.execute(query, (tenant_id, Jsonb({key: value}), Jsonb({key: [value]}))).fetchall()
    return {bytes(row[0]) for row in rows}


def titles_of(conn: Connection[TupleRow], tenant_id: str, doc_ids: Sequence[str]) -> dict[str, str]:
    """The outermost heading of each document's first chunk, else its first words."""
    query = """
        SELECT DISTINCT ON (k.doc_id) k.doc_id, coalesce(k.heading_path[1], left(c.body, 200))
        FROM kb.chunks k JOIN kb.contents c ON c.tenant_id = k.tenant_id AND c.fingerprint = k.fingerprint
        WHERE k.tenant_id = %s AND k.doc_id = ANY(%s) ORDER BY k.doc_id, k.ordinal
    """
    rows = conn.execute(query, (tenant_id, list(doc_ids))).fetchall()
    return {doc_id: " ".join(title.split()) for doc_id, title in rows}


def places_of(
    conn: Connection[TupleRow], tenant_id: str, fingerprints: Sequence[bytes], *, join: str
) -> dict[bytes, tuple[str, ...]]:
    """Where each content stands, as document, `join`, ordinal; in that order."""
    query = """
        SELECT fingerprint, array_agg(doc_id || %s || ordinal ORDER BY doc_id, ordinal) FROM kb.chunks
        WHERE tenant_id = %s AND fingerprint = ANY(%s) GROUP BY fingerprint
    """
    rows = conn.execute(query, (join, tenant_id, list(fingerprints))).fetchall()
    return {bytes(fingerprint): tuple(places) for fingerprint, places in rows}


def chunk_places(
    conn: Connection[TupleRow], tenant_id: str, doc_ids: Sequence[str]
) -> dict[str, list[tuple[int, int, int]]]:
    """Document id -> (ordinal, first character, character after the last) of its chunks."""
    query = """
        SELECT doc_id, ordinal, start_offset, end_offset FROM kb.chunks
        WHERE tenant_id = %s AND doc_id = ANY(%s) ORDER BY doc_id, ordinal
    """
    found: dict[str, list[tuple[int, int, int]]] = {}
    for doc_id, ordinal, start, end in conn.execute(query, (tenant_id, list(doc_ids))).fetchall():
        found.setdefault(doc_id, []).append((ordinal, start, end))
    return found


def known_documents(conn: Connection[TupleRow], tenant_id: str, ids: Sequence[str]) -> dict[str, str]:
    """Which of these ids or uris the tenant has: id or uri -> document id. An id wins over an equal uri."""
    asked = list(ids)
    query = "SELECT doc_id, uri FROM kb.documents WHERE tenant_id = %s AND (doc_id = ANY(%s) OR uri = ANY(%s))"
    rows = conn.execute(query, (tenant_id, asked, asked)).fetchall()
    return {uri: doc_id for doc_id, uri in rows} | {doc_id: doc_id for doc_id, _ in rows}


def corpus_rows(conn: Connection[TupleRow], tenant_id: str) -> CorpusRows:
    """Counts for the report, a handful of aggregate scans."""

    def pairs(query: str) -> list[tuple[Any, int]]:
        return [(name, count) for name, count in conn.execute(query.encode(), (tenant_id,)).fetchall()]

    def number(query: str) -> int:
        row = conn.execute(query.encode(), (tenant_id,)).fetchone()
        return int(row[0] or 0) if row else 0

    live = "FROM kb.contents WHERE tenant_id = %s AND orphaned_at IS NULL"
    sizes = pairs(f"SELECT tokens, count(*) {live} GROUP BY 1 ORDER BY 1")
    return CorpusRows(
        documents=number("SELECT count(*) FROM kb.documents WHERE tenant_id = %s"),
        chunks=number("SELECT count(*) FROM kb.chunks WHERE tenant_id = %s"),
        contents=sum(count for _, count in sizes),
        tokens=sum(size * count for size, count in sizes),
        orphans=number("SELECT count(*) FROM kb.contents WHERE tenant_id = %s AND orphaned_at IS NOT NULL"),
        dead_letters=number("SELECT count(*) FROM kb.dead_letters WHERE tenant_id = %s"),
        sizes=sizes,
        kinds=pairs("SELECT kind, count(*) FROM kb.chunks WHERE tenant_id = %s GROUP BY 1 ORDER BY 2 DESC, 1"),
        formats=pairs("SELECT format, count(*) FROM kb.documents WHERE tenant_id = %s GROUP BY 1 ORDER BY 2 DESC, 1"),
        languages=pairs(f"SELECT lang::text, count(*) {live} GROUP BY 1 ORDER BY 2 DESC, 1"),
    )


def spent(conn: Connection[TupleRow], tenant_id: str) -> tuple[int, int, float, float, int]:
    """(texts, tokens, dollars) ever, and (dollars, texts) of the newest run that embedded anything."""
    query = """
        SELECT coalesce(sum(texts), 0), coalesce(sum(tokens), 0), coalesce(sum(usd), 0)
        FROM kb.spend WHERE tenant_id = %s
    """
    total = conn.execute(query, (tenant_id,)).fetchone() or (0, 0, 0)
    newest = """
        SELECT coalesce(sum(usd), 0), coalesce(sum(texts), 0) FROM kb.spend
        WHERE tenant_id = %s AND run_id = (
            SELECT run_id FROM kb.spend WHERE tenant_id = %s AND texts > 0 ORDER BY day DESC, ctid DESC LIMIT 1)
    """
    last = conn.execute(newest, (tenant_id, tenant_id)).fetchone() or (0, 0)
    return int(total[0]), int(total[1]), float(total[2]), float(last[0]), int(last[1])


def server_versions(conn: Connection[TupleRow]) -> tuple[str, str]:
    """(PostgreSQL, pgvector)."""
    query = "SELECT current_setting('server_version'), (SELECT extversion FROM pg_extension WHERE extname = 'vector')"
    row = conn.execute(query).fetchone()
    return (str(row[0]), str(row[1])) if row else ("", "")
