"""Jobs at the provider's Batch API, and the texts they hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from psycopg import Connection, sql
from psycopg.rows import TupleRow, class_row, dict_row
from psycopg.types.json import Jsonb

from kb_pipeline.embed.protocol import EmbedderSpec

OPEN = ("planned", "uploaded", "submitted", "ended")
NO_ROOM = "no room"
"""`provider_state` of a job that found no room in the provider's queue: it is uploaded, and submitted again later."""


@dataclass(frozen=True, slots=True)
class Job:
    """One job that is not collected."""

    job_id: int
    key: str
    space: bytes
    embedder: dict[str, Any]
    state: str
    file_id: str | None
    batch_id: str | None
    output_file_id: str | None
    error_file_id: str | None
    provider_state: str
    detail: str
    texts: int
    tokens: int
    run_id: str
    """The run that pays for it."""
    created_at: datetime

    @property
    def spec(self) -> EmbedderSpec:
        """The embedder that it asks."""
        return EmbedderSpec(**self.embedder)


@dataclass(frozen=True, slots=True)
class Item:
    """A text of a job."""

    fingerprint: bytes
    tokens: int


def plan_job(
    conn: Connection[TupleRow],
    tenant_id: str,
    run_id: str,
    *,
    key: str,
    space: bytes,
    spec: EmbedderSpec,
    items: Sequence[Item],
    usd: float,
) -> int:
    """Write a job down before anything is sent; its number. Its texts are at the provider from now on."""
    with conn.transaction():
        row = conn.execute(
            "INSERT INTO kb.batch_jobs (tenant_id, run_id, key, space, embedder, state, texts, tokens, usd) "
            "VALUES (%s, %s, %s, %s, %s, 'planned', %s, %s, %s) RETURNING job_id",
            (tenant_id, run_id, key, space, Jsonb(asdict(spec)), len(items), sum(one.tokens for one in items), usd),
        ).fetchone()
        assert row is not None
        conn.execute(
            "INSERT INTO kb.batch_items (tenant_id, space, job_id, fingerprint, tokens) "
            "SELECT %s, %s, %s, * FROM unnest(%b::bytea[], %b::integer[])",
            (tenant_id, space, row[0], [one.fingerprint for one in items], [one.tokens for one in items]),
        )
    return row[0]


def update_job(conn: Connection[TupleRow], tenant_id: str, job_id: int, **values: object) -> None:
    """Set columns of a job."""
    columns = sql.SQL(", ").join(sql.SQL("{} = %s").format(sql.Identifier(name)) for name in values)
    conn.execute(
        sql.SQL("UPDATE kb.batch_jobs SET {}, changed_at = now() WHERE tenant_id = %s AND job_id = %s").format(columns),
        (*values.values(), tenant_id, job_id),
    )


def forget_job(conn: Connection[TupleRow], tenant_id: str, job_id: int) -> None:
    """Remove a job that never reached the provider, with its texts."""
    conn.execute("DELETE FROM kb.batch_jobs WHERE tenant_id = %s AND job_id = %s", (tenant_id, job_id))


def close_job(conn: Connection[TupleRow], tenant_id: str, job_id: int, state: str, *, detail: str = "") -> None:
    """End a job: `collected` or `failed`. Texts without a result are free to be sent again."""
    with conn.transaction():
        conn.execute(
            "DELETE FROM kb.batch_items WHERE tenant_id = %s AND job_id = %s AND NOT refused", (tenant_id, job_id)
        )
        update_job(conn, tenant_id, job_id, state=state, detail=detail)


def open_jobs(conn: Connection[TupleRow], tenant_id: str) -> list[Job]:
    """Jobs that are planned, at the provider, or not yet collected; oldest first."""
    with conn.cursor(row_factory=class_row(Job)) as cursor:
        return cursor.execute(
            "SELECT job_id, key, space, embedder, state, file_id, batch_id, output_file_id, error_file_id, "
            "provider_state, detail, texts, tokens, run_id, created_at FROM kb.batch_jobs "
            "WHERE tenant_id = %s AND state = ANY(%s) ORDER BY job_id",
            (tenant_id, list(OPEN)),
        ).fetchall()


def without_room(conn: Connection[TupleRow], tenant_id: str, space: bytes) -> list[tuple[int, str, bool]]:
    """Jobs that found no room in the provider's queue in the last 30 days, newest first: tokens, the provider's words,
    and whether the job was given up as too large.
    """
    return conn.execute(
        "SELECT tokens, detail, state = 'failed' FROM kb.batch_jobs WHERE tenant_id = %s AND space = %s "
        "AND provider_state = %s AND changed_at > now() - interval '30 days' ORDER BY changed_at DESC LIMIT 20",
        (tenant_id, space, NO_ROOM),
    ).fetchall()


def tokens_under_way(conn: Connection[TupleRow], tenant_id: str, space: bytes, *, but: int) -> int:
    """Tokens of the jobs that the provider has in its queue, all but this one."""
    row = conn.execute(
        "SELECT coalesce(sum(tokens), 0)::bigint FROM kb.batch_jobs WHERE tenant_id = %s AND space = %s "
        "AND state = 'submitted' AND job_id <> %s",
        (tenant_id, space, but),
    ).fetchone()
    return row[0] if row else 0


def all_open_jobs(conn: Connection[TupleRow], tenants: Sequence[str]) -> list[tuple[str, Job]]:
    """Open jobs of these tenants, those first that were looked at longest ago; `conn` is the owner's."""
    found = conn.execute(
        "SELECT tenant_id FROM kb.batch_jobs WHERE tenant_id = ANY(%s) AND state = ANY(%s) "
        "GROUP BY tenant_id ORDER BY min(changed_at)",
        (list(tenants), list(OPEN)),
    ).fetchall()
    return [(tenant_id, job) for (tenant_id,) in found for job in open_jobs(conn, tenant_id)]


def job_rows(conn: Connection[TupleRow], tenants: Sequence[str], *, open_only: bool = False) -> list[dict[str, Any]]:
    """Jobs for people, newest first; `conn` is the owner's."""
    with conn.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(
            "SELECT tenant_id AS tenant, job_id AS job, state, provider_state, batch_id, embedder->>'model' AS model, "
            "texts, got, refused, tokens, usd::float8 AS usd, created_at, changed_at, detail FROM kb.batch_jobs "
            "WHERE tenant_id = ANY(%s) AND (NOT %s OR state = ANY(%s)) ORDER BY job_id DESC",
            (list(tenants), open_only, list(OPEN)),
        ).fetchall()


def has_items(conn: Connection[TupleRow], tenant_id: str, space: bytes) -> bool:
    """Whether any text of this space is with a job, or was refused by one."""
    row = conn.execute(
        "SELECT EXISTS (SELECT FROM kb.batch_items WHERE tenant_id = %s AND space = %s)", (tenant_id, space)
    ).fetchone()
    return bool(row and row[0])


def items_of(
    conn: Connection[TupleRow], tenant_id: str, space: bytes, fingerprints: Sequence[bytes]
) -> dict[bytes, bool]:
    """Those of the fingerprints that are with a job (False) or were refused by one (True)."""
    rows = conn.execute(
        "SELECT fingerprint, refused FROM kb.batch_items WHERE tenant_id = %s AND space = %s AND fingerprint = ANY(%s)",
        (tenant_id, space, list(fingerprints)),
        binary=True,
    )
    return dict(rows.fetchall())


def waiting_items(
    conn: Connection[TupleRow], tenant_id: str, job_id: int, fingerprints: Sequence[bytes]
) -> dict[bytes, tuple[int, bool]]:
    """Those of the fingerprints whose result of this job is not kept yet: the tokens we counted, and whether the text
    was purged, so that its vector must not be kept. Locks them.
    """
    rows = conn.execute(
        "SELECT fingerprint, tokens, forgotten FROM kb.batch_items WHERE tenant_id = %s AND job_id = %s "
        "AND NOT refused AND fingerprint = ANY(%s) FOR UPDATE",
        (tenant_id, job_id, list(fingerprints)),
        binary=True,
    )
    return {fingerprint: (tokens, forgotten) for fingerprint, tokens, forgotten in rows}


def remember_items(conn: Connection[TupleRow], tenant_id: str, space: bytes, fingerprints: Sequence[bytes]) -> None:
    """Keep the results of purged texts after all: a document that holds them came back."""
    conn.execute(
        "UPDATE kb.batch_items SET forgotten = false WHERE tenant_id = %s AND space = %s AND fingerprint = ANY(%s) "
        "AND forgotten",
        (tenant_id, space, list(fingerprints)),
    )


def settle_items(
    conn: Connection[TupleRow], tenant_id: str, job_id: int, *, got: Sequence[bytes], refused: Sequence[bytes]
) -> None:
    """Remove texts whose vectors are kept, and mark those that the provider refused."""
    conn.execute(
        "DELETE FROM kb.batch_items WHERE tenant_id = %s AND job_id = %s AND fingerprint = ANY(%s)",
        (tenant_id, job_id, list(got)),
    )
    conn.execute(
        "UPDATE kb.batch_items SET refused = true WHERE tenant_id = %s AND job_id = %s AND fingerprint = ANY(%s)",
        (tenant_id, job_id, list(refused)),
    )
    conn.execute(
        "UPDATE kb.batch_jobs SET got = got + %s, refused = refused + %s WHERE tenant_id = %s AND job_id = %s",
        (len(got), len(refused), tenant_id, job_id),
    )


def drop_items(conn: Connection[TupleRow], tenant_id: str, space: bytes, fingerprints: Sequence[bytes]) -> None:
    """Remove refused texts that another lane has dealt with."""
    conn.execute(
        "DELETE FROM kb.batch_items WHERE tenant_id = %s AND space = %s AND fingerprint = ANY(%s)",
        (tenant_id, space, list(fingerprints)),
    )
