"""Texts on their way to a paid provider: what is paid twice after a crash is counted, not guessed."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import Connection
from psycopg.rows import TupleRow

from kb_pipeline.store.contents import lacking


def send(conn: Connection[TupleRow], tenant_id: str, run_id: str, version: int, fingerprints: Sequence[bytes]) -> int:
    """Note texts that are about to be sent; the number to give to `arrived`."""
    row = conn.execute(
        "INSERT INTO kb.in_flight (tenant_id, run_id, version, fingerprints) VALUES (%s, %s, %s, %s) "
        "RETURNING in_flight_id",
        (tenant_id, run_id, version, list(fingerprints)),
    ).fetchone()
    assert row is not None
    return row[0]


def arrived(conn: Connection[TupleRow], tenant_id: str, numbers: Sequence[int]) -> None:
    """Note that nothing of these is on its way any more."""
    if numbers:
        conn.execute(
            "DELETE FROM kb.in_flight WHERE tenant_id = %s AND in_flight_id = ANY(%s)", (tenant_id, list(numbers))
        )


def lost(conn: Connection[TupleRow], tenant_id: str) -> int:
    """How many texts were on their way when the runs before were killed, and have no vector. Forgets them."""
    rows = conn.execute(
        "DELETE FROM kb.in_flight WHERE tenant_id = %s RETURNING version, fingerprints", (tenant_id,), binary=True
    ).fetchall()
    return sum(len(lacking(conn, tenant_id, list(set(fingerprints)), [version])) for version, fingerprints in rows)
