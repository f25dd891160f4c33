"""What was spent: one row for each run, model, lane and day, kept in the transaction that commits the vectors."""

from __future__ import annotations

from dataclasses import dataclass

from psycopg import Connection
from psycopg.rows import TupleRow


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
    texts: int,
    tokens: int,
    usd: float,
    requests: int,
    retries: int,
) -> None:
    """Add what one finished batch cost."""
    conn.execute(
        "INSERT INTO kb.spend AS s (tenant_id, run_id, model, lane, texts, tokens, usd, requests, retries) "
        "VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (tenant_id, run_id, model, lane, day) DO UPDATE SET "
        "texts = s.texts + excluded.texts, tokens = s.tokens + excluded.tokens, usd = s.usd + excluded.usd, "
        "requests = s.requests + excluded.requests, retries = s.retries + excluded.retries",
        (tenant_id, run_id, model, lane, texts, tokens, usd, requests, retries),
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
    """Dollars since the first of this month."""
    row = conn.execute(
        "SELECT coalesce(sum(usd), 0)::float8 FROM kb.spend WHERE tenant_id = %s AND day >= date_trunc('month', "
        "current_date)",
        (tenant_id,),
    ).fetchone()
    return row[0] if row else 0.0
