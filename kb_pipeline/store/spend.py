"""What was spent: one row for each run, model, lane and day, kept in the transaction that commits the vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, LiteralString

from psycopg import Connection
from psycopg.rows import TupleRow, dict_row

GROUPS: dict[str, LiteralString] = {
    "run": "run_id",
    "tenant": "tenant_id",
    "model": "model",
    "lane": "lane",
    "day": "day",
    "month": "to_char(day, 'YYYY-MM')",
}
"""What `kb spend --by` may name."""


@dataclass(frozen=True, slots=True)
class Spent:
    """Sum over some rows of `kb.spend`."""

    texts: int
    tokens: int
    usd: float
    requests: int
    retries: int


def add_spend(
    conn: Connection[TupleRow],
    tenant_id: str,
    run_id: str,
    *,
    model: str,
    lane: str,
    texts: int = 0,
    tokens: int = 0,
    usd: float = 0.0,
    requests: int = 0,
    retries: int = 0,
    saved_texts: int = 0,
    saved_tokens: int = 0,
    saved_usd: float = 0.0,
    paid_again_texts: int = 0,
) -> None:
    """Add what one finished batch cost, what fingerprints saved, or what was sent again."""
    conn.execute(
        "INSERT INTO kb.spend AS s (tenant_id, run_id, model, lane, texts, tokens, usd, requests, retries, "
        "saved_texts, saved_tokens, saved_usd, paid_again_texts) "
        "VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) "
        "ON CONFLICT (tenant_id, run_id, model, lane, day) DO UPDATE SET "
        "texts = s.texts + excluded.texts, tokens = s.tokens + excluded.tokens, usd = s.usd + excluded.usd, "
        "requests = s.requests + excluded.requests, retries = s.retries + excluded.retries, "
        "saved_texts = s.saved_texts + excluded.saved_texts, saved_tokens = s.saved_tokens + excluded.saved_tokens, "
        "saved_usd = s.saved_usd + excluded.saved_usd, "
        "paid_again_texts = s.paid_again_texts + excluded.paid_again_texts",
        (
            tenant_id,
            run_id,
            model,
            lane,
            texts,
            tokens,
            usd,
            requests,
            retries,
            saved_texts,
            saved_tokens,
            saved_usd,
            paid_again_texts,
        ),
    )


def spent(conn: Connection[TupleRow], tenant_id: str, *, run_id: str | None = None) -> Spent:
    """What a tenant spent: in one run, or ever."""
    row = conn.execute(
        "SELECT coalesce(sum(texts), 0)::bigint, coalesce(sum(tokens), 0)::bigint, coalesce(sum(usd), 0)::float8, "
        "coalesce(sum(requests), 0)::bigint, coalesce(sum(retries), 0)::bigint FROM kb.spend "
        "WHERE tenant_id = %s AND (%s::text IS NULL OR run_id = %s)",
        (tenant_id, run_id, run_id),
    ).fetchone()
    assert row is not None
    return Spent(*row)


def spent_this_month_usd(conn: Connection[TupleRow], tenant_id: str) -> float:
    """Dollars since the first of this month, with what batch jobs at the provider are expected to cost."""
    row = conn.execute(
        "SELECT (SELECT coalesce(sum(usd), 0) FROM kb.spend WHERE tenant_id = %(t)s "
        "AND day >= date_trunc('month', current_date))::float8 "
        "+ (SELECT coalesce(sum(usd * (texts - got) / greatest(texts, 1)), 0) FROM kb.batch_jobs "
        "WHERE tenant_id = %(t)s AND state IN ('uploaded', 'submitted', 'ended'))::float8",
        {"t": tenant_id},
    ).fetchone()
    return row[0] if row else 0.0


def spend_rows(
    conn: Connection[TupleRow], tenants: Sequence[str], *, by: Sequence[str], since: date | None = None
) -> list[dict[str, Any]]:
    """Sums by these groups (keys of `GROUPS`), newest group last; `conn` is the owner's."""
    names = [GROUPS[name] for name in by]
    chosen = ", ".join(f"{sql} AS {name}" for name, sql in zip(by, names, strict=True))
    order = "min(day), " + ", ".join(names)
    with conn.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(
            f"SELECT {chosen}, sum(texts)::bigint AS texts, sum(tokens)::bigint AS tokens, sum(usd)::float8 AS usd, "
            "sum(requests)::bigint AS requests, sum(retries)::bigint AS retries, "
            "sum(paid_again_texts)::bigint AS paid_again, sum(saved_texts)::bigint AS saved_texts, "
            "sum(saved_usd)::float8 AS saved_usd FROM kb.spend "
            "WHERE tenant_id = ANY(%s) AND (%s::date IS NULL OR day >= %s) "
            f"GROUP BY {', '.join(names)} ORDER BY {order}".encode(),
            (list(tenants), since, since),
        ).fetchall()
