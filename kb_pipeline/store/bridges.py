"""Maps from a new model's space to the one that is searched, and the vectors they are fitted on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from psycopg import Connection, sql
from psycopg.rows import TupleRow

from kb_pipeline.embed.protocol import EmbedderSpec, Vectors
from kb_pipeline.store.contents import column


@dataclass(frozen=True, slots=True)
class BridgeRow:
    """One row of `kb.bridges`."""

    source: int
    """Version whose vectors go in."""
    target: int
    """Version whose column is searched."""
    spec: EmbedderSpec
    """Of the source."""
    kind: str
    map: bytes
    pairs: int
    questions: int
    recall: float
    floor: float
    verdict: str


def put_bridge(conn: Connection[TupleRow], tenant_id: str, row: BridgeRow) -> None:
    """Write down a map; an older one between the same versions is replaced."""
    conn.execute(
        "INSERT INTO kb.bridges (tenant_id, from_version, to_version, kind, map, pairs, questions, recall, floor, "
        "verdict) VALUES (%s, %s, %s, %s, %b, %s, %s, %s, %s, %s) ON CONFLICT (tenant_id, from_version, to_version) "
        "DO UPDATE SET kind = excluded.kind, map = excluded.map, pairs = excluded.pairs, "
        "questions = excluded.questions, recall = excluded.recall, floor = excluded.floor, "
        "verdict = excluded.verdict, made_at = now()",
        (
            tenant_id, row.source, row.target, row.kind, row.map, row.pairs, row.questions, row.recall, row.floor,
            row.verdict,
        ),
    )  # fmt: skip


def read_bridges(conn: Connection[TupleRow], tenant_id: str, *, source: int | None = None) -> list[BridgeRow]:
    """Maps to what the tenant serves now, the newest first; `kb.tenant` is set for this transaction only."""
    with conn.transaction():
        conn.execute("SELECT set_config('kb.tenant', %s, true)", (tenant_id,))
        rows = conn.execute(
            "SELECT b.from_version, b.to_version, v.embedder, b.kind, b.map, b.pairs, b.questions, b.recall, b.floor, "
            "b.verdict FROM kb.bridges b JOIN kb.live l ON l.tenant_id = b.tenant_id AND l.version = b.to_version "
            "JOIN kb.embedding_versions v ON v.version = b.from_version "
            "WHERE b.tenant_id = %(t)s AND (%(source)s::int IS NULL OR b.from_version = %(source)s) "
            "ORDER BY b.made_at DESC",
            {"t": tenant_id, "source": source},
            binary=True,
        ).fetchall()
    return [BridgeRow(source, target, EmbedderSpec(**spec), *rest) for source, target, spec, *rest in rows]


def drop_bridges(conn: Connection[TupleRow], tenant_id: str) -> int:
    """Forget maps to a version that is not live, and from one that the tenant gave up; how many."""
    return conn.execute(
        "DELETE FROM kb.bridges b WHERE tenant_id = %s AND (NOT EXISTS (SELECT FROM kb.live l "
        "WHERE l.tenant_id = b.tenant_id AND l.version = b.to_version) OR EXISTS (SELECT FROM kb.tenant_versions t "
        "WHERE t.tenant_id = b.tenant_id AND t.version = b.from_version AND t.state = 'retired'))",
        (tenant_id,),
    ).rowcount


def paired_vectors(
    conn: Connection[TupleRow], tenant_id: str, source: int, target: int, *, most: int
) -> tuple[list[bytes], Vectors, Vectors]:
    """Fingerprints of contents that have both, and their vectors, `(n, dims) float32` each, n <= `most`.

    Those with the smallest fingerprints: a back-fill makes them first, and a SHA-256 says nothing of what a text is
    about, so they are a fair sample.
    """
    names: list[bytes] = []
    new: list[Vectors] = []
    old: list[Vectors] = []
    query = sql.SQL(
        "SELECT fingerprint, {new}::vector, {old}::vector FROM kb.contents WHERE tenant_id = %s "
        "AND orphaned_at IS NULL AND {new} IS NOT NULL AND {old} IS NOT NULL ORDER BY fingerprint LIMIT %s"
    ).format(new=column(source), old=column(target))
    for fingerprint, first, second in conn.execute(query, (tenant_id, most), binary=True):
        names.append(fingerprint)
        new.append(first)
        old.append(second)
    if not names:
        return [], np.empty((0, 0), np.float32), np.empty((0, 0), np.float32)
    return names, np.stack(new), np.stack(old)


def target_blocks(conn: Connection[TupleRow], tenant_id: str, version: int) -> Iterator[tuple[list[bytes], Vectors]]:
    """All contents in use with their vectors of a version, 5,000 at a time; no snapshot is held in between."""
    query = sql.SQL(
        "SELECT fingerprint, {column}::vector FROM kb.contents WHERE tenant_id = %s AND orphaned_at IS NULL "
        "AND {column} IS NOT NULL AND fingerprint > %b ORDER BY fingerprint LIMIT 5000"
    ).format(column=column(version))
    after = b""
    while rows := conn.execute(query, (tenant_id, after), binary=True).fetchall():
        yield [row[0] for row in rows], np.stack([row[1] for row in rows])
        after = rows[-1][0]
