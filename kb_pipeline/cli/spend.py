"""`kb spend`: what embedding has cost, and what fingerprints saved."""

from __future__ import annotations

from typing import Annotated

import typer

from kb_pipeline.cli.options import Config, Json, Tenant, print_json, print_table


def spend(
    by: Annotated[
        str, typer.Option("--by", metavar="GROUPS", help="Comma-separated: run, tenant, model, lane, day, month.")
    ] = "tenant,model,lane",
    since: Annotated[str | None, typer.Option("--since", metavar="DATE", help="From this day on: 2026-01-31.")] = None,
    tenant: Tenant = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Show texts, tokens and dollars, what may have been paid twice, and what known texts saved."""
    from datetime import date

    from kb_pipeline.session import chosen_tenants, open_session
    from kb_pipeline.store.spend import GROUPS, spend_rows

    groups = [name.strip() for name in by.split(",")]
    if unknown := [name for name in groups if name not in GROUPS]:
        raise typer.BadParameter(f"no group {unknown[0]!r}; there are {', '.join(GROUPS)}", param_hint="--by")
    try:
        day = date.fromisoformat(since) if since else None
    except ValueError:
        raise typer.BadParameter(f"{since!r} is not a date such as 2026-01-31", param_hint="--since") from None
    session = open_session(config)
    with session.db.connect("owner") as conn:
        rows = spend_rows(conn, chosen_tenants(session, tenant), by=groups, since=day)
    if as_json:
        print_json(rows)
        return
    shown = [{**row, "usd": f"{row['usd']:.4f}", "saved_usd": f"{row['saved_usd']:.4f}"} for row in rows]
    print_table(shown, empty="nothing was embedded yet")
    if len(rows) > 1:
        total, saved = sum(row["usd"] for row in rows), sum(row["saved_usd"] for row in rows)
        print(f"together ${total:.4f}; known texts saved ${saved:.4f}")
