"""The table of eval runs: the gate's only memory. `live_index` re-reads the verdict from here, never from a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import Connection
from psycopg.rows import TupleRow
from psycopg.types.json import Jsonb


@dataclass(frozen=True, slots=True)
class EvalRun:
    """One stored eval run."""

    eval_id: int
    tenant_id: str
    build_id: int
    measurements: dict[str, Any]
    verdict: str
    reasons: list[str]
    hashes: dict[str, str]
    report_url: str | None
    created_at: str


_RUN = """
SELECT eval_id, tenant_id, build_id, measurements, verdict, reasons, hashes, report_url,
       to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
FROM kb.eval_runs WHERE tenant_id = %s
"""


def add_eval_run(
    conn: Connection[TupleRow],
    tenant_id: str,
    build_id: int,
    *,
    measurements: Mapping[str, Any],
    verdict: str,
    reasons: Sequence[str],
    hashes: Mapping[str, str],
    run_id: str,
) -> int:
    """Stores an eval run and gives its number. The report's place is told later by `set_report`."""
    row = conn.execute(
        "INSERT INTO kb.eval_runs (tenant_id, build_id, measurements, verdict, reasons, hashes, run_id)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s) RETURNING eval_id",
        (tenant_id, build_id, Jsonb(measurements), verdict, Jsonb(list(reasons)), Jsonb(hashes), run_id),
    ).fetchone()
    assert row is not None, "INSERT ... RETURNING gives a row"
    return int(row[0])


def set_report(conn: Connection[TupleRow], tenant_id: str, eval_id: int, url: str) -> None:
    """Notes where the HTML report lies."""
    conn.execute(
        "UPDATE kb.eval_runs SET report_url = %s WHERE tenant_id = %s AND eval_id = %s", (url, tenant_id, eval_id)
    )


def eval_run(conn: Connection[TupleRow], tenant_id: str, eval_id: int) -> EvalRun | None:
    """One eval run of the tenant."""
    row = conn.execute((_RUN + " AND eval_id = %s").encode(), (tenant_id, eval_id)).fetchone()
    return EvalRun(*row) if row else None


def newest_eval_run(conn: Connection[TupleRow], tenant_id: str, build_id: int | None = None) -> EvalRun | None:
    """The last eval run of a build, or of the tenant."""
    query = _RUN + " AND (%s::bigint IS NULL OR build_id = %s) ORDER BY eval_id DESC LIMIT 1"
    row = conn.execute(query.encode(), (tenant_id, build_id, build_id)).fetchone()
    return EvalRun(*row) if row else None


def headlines(conn: Connection[TupleRow], tenant_id: str, *, limit: int = 20) -> list[dict[str, Any]]:
    """The headline of the last eval runs, oldest first: eval_id, build_id, created_at, verdict and its numbers."""
    rows = conn.execute(
        "SELECT eval_id, build_id, to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'), verdict,"
        " measurements->'headline' FROM kb.eval_runs WHERE tenant_id = %s ORDER BY eval_id DESC LIMIT %s",
        (tenant_id, limit),
    ).fetchall()
    return [
        {"eval_id": eval_id, "build_id": build_id, "created_at": created_at, "verdict": verdict, **(headline or {})}
        for eval_id, build_id, created_at, verdict, headline in reversed(rows)
    ]
