"""Tenants and builds in the form people and scripts ask for: `kb status`, `kb builds`, `kb tenants list`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from psycopg import Connection
from psycopg.rows import TupleRow, dict_row

from kb_pipeline.store.batches import job_rows
from kb_pipeline.store.breakers import breaker_rows
from kb_pipeline.store.eval_runs import newest_eval_run
from kb_pipeline.store.live import read_live
from kb_pipeline.store.reviews import waiting_builds
from kb_pipeline.store.status import tenant_status


def overview(conn: Connection[TupleRow], tenant_id: str) -> dict[str, Any]:
    """One tenant as `kb status --json` shows it: counts, what is live, builds that still exist, the last eval run."""
    live = read_live(conn, tenant_id)
    evaluated = newest_eval_run(conn, tenant_id)
    waiting = waiting_builds(conn, tenant_id)
    return {
        **asdict(tenant_status(conn, tenant_id)),
        "live": asdict(live) if live else None,
        "breakers": breaker_rows(conn, tenant_id),
        "batch_jobs": job_rows(conn, [tenant_id], open_only=True),
        "builds": [build for build in build_rows(conn, tenant_id) if build["state"] not in ("dropped", "failed")],
        "waiting": asdict(waiting[0]) if waiting else None,
        "last_eval": None
        if evaluated is None
        else {
            "eval_id": evaluated.eval_id,
            "build_id": evaluated.build_id,
            "verdict": evaluated.verdict,
            "reasons": evaluated.reasons,
            "created_at": evaluated.created_at,
            "report": evaluated.report_url,
        },
    }


def build_rows(conn: Connection[TupleRow], tenant_id: str) -> list[dict[str, Any]]:
    """All builds of the tenant with the newest verdict of each, newest first."""
    with conn.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(
            "SELECT b.tenant_id AS tenant, b.build_id, b.state, b.version, b.method, b.slot, b.params,"
            " b.rows_at_build AS rows, b.seconds, b.bytes, b.created_at,"
            " (SELECT verdict FROM kb.eval_runs e WHERE e.tenant_id = b.tenant_id AND e.build_id = b.build_id"
            " ORDER BY eval_id DESC LIMIT 1) AS verdict"
            " FROM kb.builds b WHERE b.tenant_id = %s ORDER BY b.build_id DESC",
            (tenant_id,),
        ).fetchall()


def tenant_rows(conn: Connection[TupleRow]) -> list[dict[str, Any]]:
    """All tenants: state, contents, and the source as it was last known."""
    with conn.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(
            "SELECT tenant_id AS tenant, state, contents, config->>'source' AS source, created_at"
            " FROM kb.tenants ORDER BY tenant_id"
        ).fetchall()
