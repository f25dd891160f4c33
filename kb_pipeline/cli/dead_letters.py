"""`kb dead-letters`: what could not be indexed."""

from __future__ import annotations

from typing import Annotated

import typer

from kb_pipeline.cli.options import Config, Json, Tenant, print_json, print_table

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.command("list")
def list_dead_letters(tenant: Tenant = None, config: Config = None, as_json: Json = False) -> None:
    """List quarantined documents and chunks with the reason of each."""
    from dataclasses import asdict

    from kb_pipeline.session import chosen_tenants, open_session
    from kb_pipeline.store.dead_letters import list_dead_letters as quarantine

    session = open_session(config)
    with session.db.connect("owner") as conn:
        rows = [
            {"tenant": name, **asdict(letter)}
            for name in chosen_tenants(session, tenant)
            for letter in quarantine(conn, name)
        ]
    if as_json:
        print_json(rows)
        return
    shown = ("tenant", "stage", "doc_id", "ordinal", "reason", "detail")
    print_table([{name: row[name] for name in shown} for row in rows], empty="nothing is quarantined")


@app.command()
def retry(
    doc: Annotated[str | None, typer.Argument(help="Only this document; else all.")] = None,
    tenant: Tenant = None,
    config: Config = None,
) -> None:
    """Have the next run try quarantined documents again although they did not change."""
    from kb_pipeline.session import chosen_tenants, open_session
    from kb_pipeline.store.dead_letters import ask_retry

    session = open_session(config)
    with session.db.connect("owner") as conn:
        asked = sum(ask_retry(conn, name, doc_id=doc) for name in chosen_tenants(session, tenant))
    print(f"{asked} will be tried again by the next `kb run`")
