"""`kb batches`: jobs at the provider's Batch API."""

from __future__ import annotations

from typing import Annotated

import typer

from kb_pipeline.cli.options import Config, Json, Tenant, print_json, print_table


def batches(
    open_only: Annotated[bool, typer.Option("--open", help="Only jobs that are not collected yet.")] = False,
    tenant: Tenant = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """List batch jobs, newest first: state, texts, what came of them, dollars. `kb run` collects what is done."""
    from kb_pipeline.session import chosen_tenants, open_session
    from kb_pipeline.store.batches import job_rows

    session = open_session(config)
    with session.db.connect("owner") as conn:
        rows = job_rows(conn, chosen_tenants(session, tenant), open_only=open_only)
    if as_json:
        print_json(rows)
        return
    shown = [
        {
            **{name: row[name] for name in ("tenant", "job", "state", "provider_state", "model", "texts", "got")},
            "refused": row["refused"],
            "usd": f"{row['usd']:.4f}",
            "since": f"{row['created_at']:%Y-%m-%d %H:%M}",
            "detail": row["detail"] or None,
        }
        for row in rows
    ]
    print_table(shown, empty="no batch jobs")
