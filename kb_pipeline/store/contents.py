"""Contents: which exist, which lack a vector, and writing vectors to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import LiteralString

from psycopg import Connection, sql
from psycopg.rows import TupleRow

from kb_pipeline.embed.protocol import Vectors
from kb_pipeline.fingerprint import embedded_text


@dataclass(frozen=True, slots=True)
class Content:
    """One distinct text of a tenant, without its vectors."""

    fingerprint: bytes
    context: str
    body: str
    tokens: int


@dataclass(frozen=True, slots=True)
class StoredText:
    """A content that lacks a vector, with one place where it stands."""

    content: Content
    doc_id: str
    ordinal: int


def column(version: int) -> sql.Identifier:
    """The column that holds an embedding version."""
    return sql.Identifier(f"embedding_v{version:d}")


def known_contents(conn: Connection[TupleRow], tenant_id: str, fingerprints: Sequence[bytes]) -> set[bytes]:
    """Those of the fingerprints that the tenant has a content for, with or without vectors."""
    rows = conn.execute(
        "SELECT c.fingerprint FROM unnest(%b::bytea[]) AS u (f) JOIN kb.contents c ON c.tenant_id = %s AND "
        "c.fingerprint = u.f",
        (list(fingerprints), tenant_id),
        binary=True,
    )
    return {row[0] for row in rows}


def lacking(
    conn: Connection[TupleRow], tenant_id: str, fingerprints: Sequence[bytes], versions: Sequence[int]
) -> set[bytes]:
    """Those of the fingerprints without a content, or whose content lacks a vector of any of these versions."""
    return _outside(conn, tenant_id, fingerprints, _null(versions, "OR"))


def outside_use(
    conn: Connection[TupleRow], tenant_id: str, fingerprints: Sequence[bytes], versions: Sequence[int]
) -> set[bytes]:
    """Those of the fingerprints that will have to be embedded and that no count of contents in use shows.

    They have no content, or an orphan without a vector of any of these versions (which are of one space).
    """
    return _outside(
        conn, tenant_id, fingerprints, sql.SQL("c.orphaned_at IS NOT NULL AND ({})").format(_null(versions, "AND"))
    )


def _outside(
    conn: Connection[TupleRow], tenant_id: str, fingerprints: Sequence[bytes], lacks: sql.Composable
) -> set[bytes]:
    query = sql.SQL(
        "SELECT u.f FROM unnest(%b::bytea[]) AS u (f) LEFT JOIN kb.contents c ON c.tenant_id = %s AND "
        "c.fingerprint = u.f "
        "WHERE c.fingerprint IS NULL OR ({})"
    ).format(lacks)
    return {row[0] for row in conn.execute(query, (list(fingerprints), tenant_id), binary=True)}


def _null(versions: Sequence[int], word: LiteralString) -> sql.Composable:
    """`c.embedding_v1 IS NULL OR/AND ...`; without versions everything lacks."""
    if not versions:
        return sql.SQL("true")
    return sql.SQL(f" {word} ").join(
        sql.SQL("{} IS NULL").format(sql.Identifier("c", f"embedding_v{version:d}")) for version in versions
    )


@dataclass(frozen=True, slots=True)
class Target:
    """A column that vectors are written to."""

    version: int
    storage: str
    dims: int
    normalize: bool

    def value(self, vectors: sql.Composable) -> sql.Composable:
        """The vectors as this column keeps them."""
        text = _CAST[self.normalize, self.storage]
        return sql.SQL(text).format(source=vectors, dims=self.dims)


def write_new(
    conn: Connection[TupleRow], tenant_id: str, targets: Sequence[Target], contents: Sequence[Content], vectors: Vectors
) -> None:
    """Add contents with their `(n, dims) float32` vectors in these columns; one that is there gets the vectors. One
    statement.

    They are added as if a chunk referred to them already, because the run is going to see to that (`mark_unsettled`
    says so); setting it later would write every row twice. One that is there keeps what it says.
    """
    columns = [column(target.version) for target in targets]
    query = sql.SQL(
        "INSERT INTO kb.contents (tenant_id, fingerprint, context, body, tokens, {columns}) "
        "SELECT %s, u.f, u.c, u.b, u.t, {values} FROM unnest(%b::bytea[], %b::text[], %b::text[], %b::integer[], "
        "%b::vector[]) "
        "AS u (f, c, b, t, v) ON CONFLICT (tenant_id, fingerprint) DO UPDATE SET {update}"
    ).format(
        columns=sql.SQL(", ").join(columns),
        values=sql.SQL(", ").join(target.value(sql.SQL("u.v")) for target in targets),
        update=sql.SQL(", ").join(sql.SQL("{0} = excluded.{0}").format(name) for name in columns),
    )
    conn.execute(
        query,
        (
            tenant_id,
            [content.fingerprint for content in contents],
            [content.context for content in contents],
            [content.body for content in contents],
            [content.tokens for content in contents],
            list(vectors),
        ),
    )


def write_vectors(
    conn: Connection[TupleRow],
    tenant_id: str,
    targets: Sequence[Target],
    fingerprints: Sequence[bytes],
    vectors: Vectors,
) -> None:
    """Give contents that are there their `(n, dims) float32` vectors: HOT updates where no index covers the columns.

    Keep the fingerprints in order over a back-fill: a commit then touches each page with few rows, whose old versions
    the next one can prune.
    """
    query = sql.SQL(
        "UPDATE kb.contents c SET {update} FROM unnest(%b::bytea[], %b::vector[]) AS u (f, v) "
        "WHERE c.tenant_id = %s AND c.fingerprint = u.f"
    ).format(
        update=sql.SQL(", ").join(
            sql.SQL("{} = {}").format(column(target.version), target.value(sql.SQL("u.v"))) for target in targets
        )
    )
    conn.execute(query, (list(fingerprints), list(vectors), tenant_id))


def texts_lacking(
    conn: Connection[TupleRow], tenant_id: str, version: int, *, batch_rows: int = 1000
) -> Iterator[list[StoredText]]:
    """Contents in use without a vector of this version, in the order of their fingerprints, batch by batch.

    Each batch is a statement of its own: no snapshot is held between them, and a vector written meanwhile is seen.
    """
    query = sql.SQL(
        "SELECT c.fingerprint, c.context, c.body, c.tokens, coalesce(p.doc_id, ''), coalesce(p.ordinal, 0) "
        "FROM (SELECT fingerprint, context, body, tokens FROM kb.contents WHERE tenant_id = %(tenant)s "
        "AND fingerprint > %(after)b AND orphaned_at IS NULL AND {column} IS NULL ORDER BY fingerprint LIMIT "
        "%(rows)s) AS c "
        "LEFT JOIN LATERAL (SELECT doc_id, ordinal FROM kb.chunks WHERE tenant_id = %(tenant)s AND fingerprint = "
        "c.fingerprint "
        "ORDER BY doc_id, ordinal LIMIT 1) AS p ON true ORDER BY c.fingerprint"
    ).format(column=column(version))
    after = b""
    while True:
        found = conn.execute(query, {"tenant": tenant_id, "after": after, "rows": batch_rows}, binary=True).fetchall()
        if found:
            yield [StoredText(Content(*row[:4]), *row[4:]) for row in found]
        if len(found) < batch_rows:
            return
        after = found[-1][0]


def count_lacking(conn: Connection[TupleRow], tenant_id: str, versions: Sequence[int]) -> tuple[int, int]:
    """Contents in use without a vector of any of these versions (which are of one space), and their tokens.

    Without versions: all contents in use.
    """
    row = conn.execute(
        sql.SQL(
            "SELECT count(*), coalesce(sum(c.tokens), 0)::bigint FROM kb.contents c "
            "WHERE c.tenant_id = %s AND c.orphaned_at IS NULL AND ({})"
        ).format(_null(versions, "AND")),
        (tenant_id,),
    ).fetchone()
    return (row[0], row[1]) if row else (0, 0)


_CAST: dict[tuple[bool, str], LiteralString] = {
    (False, "vector"): "{source}::vector({dims})",
    (False, "halfvec"): "{source}::halfvec({dims})",
    (True, "vector"): "l2_normalize({source}::vector)::vector({dims})",
    (True, "halfvec"): "l2_normalize({source}::vector)::halfvec({dims})",
}


def fill_by_cast(
    conn: Connection[TupleRow], tenant_id: str, *, source: int, target: Target, batch_rows: int = 1000
) -> Iterator[int]:
    """Make a version's vectors from those of another in the same space, in SQL; rows of each committed batch.

    Where `target` is not normalised and the source is, lengths stay 1: what they were is lost, and cosine does not see
    them. `conn` commits each statement by itself.
    """
    query = sql.SQL(
        "WITH batch AS (SELECT fingerprint FROM kb.contents WHERE tenant_id = %(tenant)s AND fingerprint > %(after)b "
        "AND {target} IS NULL AND {source} IS NOT NULL ORDER BY fingerprint LIMIT %(rows)s), "
        "filled AS (UPDATE kb.contents c SET {target} = {value} FROM batch "
        "WHERE c.tenant_id = %(tenant)s AND c.fingerprint = batch.fingerprint) "
        "SELECT count(*), (SELECT fingerprint FROM batch ORDER BY fingerprint DESC LIMIT 1) FROM batch"
    ).format(
        target=column(target.version),
        source=column(source),
        value=target.value(sql.Identifier("c", f"embedding_v{source:d}")),
    )
    after = b""
    while True:
        row = conn.execute(query, {"tenant": tenant_id, "after": after, "rows": batch_rows}, binary=True).fetchone()
        if row is None or row[0] == 0:
            return
        yield row[0]
        after = row[1]


def sample_vectors(
    conn: Connection[TupleRow], tenant_id: str, version: int, *, rows: int = 8
) -> list[tuple[str, Vectors]]:
    """A few embedded texts with their vectors, to compare another endpoint of the same model with."""
    found = conn.execute(
        sql.SQL(
            "SELECT context, body, {column}::vector FROM kb.contents WHERE tenant_id = %s AND {column} IS NOT NULL "
            "ORDER BY fingerprint LIMIT %s"
        ).format(column=column(version)),
        (tenant_id, rows),
        binary=True,
    )
    return [(embedded_text(context, body), vector) for context, body, vector in found]


def settle_contents(conn: Connection[TupleRow], tenant_id: str) -> int:
    """Mark contents as orphans that an interrupted or partly refused run left without a chunk; how many.

    They were never counted as in use, so no counter changes.
    """
    return conn.execute(
        "UPDATE kb.contents c SET orphaned_at = now() WHERE c.tenant_id = %s AND c.orphaned_at IS NULL "
        "AND NOT EXISTS (SELECT FROM kb.chunks p WHERE p.tenant_id = c.tenant_id AND p.fingerprint = c.fingerprint)",
        (tenant_id,),
    ).rowcount


def unproven_chunks(conn: Connection[TupleRow], tenant_id: str, version: int) -> tuple[int, int, list[str]]:
    """Chunks without a content or without its vector of this version, and why that may be.

    (unexplained contents, contents explained by a dead letter, up to five documents of the unexplained).
    """
    rows = conn.execute(
        sql.SQL(
            "SELECT p.fingerprint, min(p.doc_id), "
            "EXISTS (SELECT FROM kb.dead_letters l WHERE l.tenant_id = %(tenant)s AND l.stage = 'embeddings' "
            "AND l.fingerprint = p.fingerprint) FROM kb.chunks p LEFT JOIN kb.contents c "
            "ON c.tenant_id = %(tenant)s AND c.fingerprint = p.fingerprint "
            "WHERE p.tenant_id = %(tenant)s AND c.{} IS NULL GROUP BY p.fingerprint ORDER BY 2"
        ).format(column(version)),
        {"tenant": tenant_id},
    ).fetchall()
    unexplained = [doc_id for _, doc_id, explained in rows if not explained]
    return len(unexplained), len(rows) - len(unexplained), sorted(set(unexplained))[:5]
