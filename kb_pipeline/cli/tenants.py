"""`kb tenants`: list them, or erase one."""

from __future__ import annotations

from typing import Annotated

import typer

from kb_pipeline.cli.options import Config, Json, NoWait, Yes, print_json, print_table

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.command("list")
def list_tenants(config: Config = None, as_json: Json = False) -> None:
    """List all tenants: state, contents, and whether kb.toml names them."""
    from kb_pipeline.session import open_session
    from kb_pipeline.store.overview import tenant_rows

    session = open_session(config)
    with session.db.connect("owner") as conn:
        rows = [{**row, "in_file": row["tenant"] in session.settings.tenants} for row in tenant_rows(conn)]
    if as_json:
        print_json(rows)
    else:
        print_table(rows, empty="no tenants yet: `kb init` writes a kb.toml, `kb run --source PATH` works without one")


@app.command()
def drop(
    name: Annotated[str, typer.Argument(help="The tenant.")],
    yes: Yes = False,
    no_wait: NoWait = False,
    config: Config = None,
) -> None:
    """Erase a tenant: documents, chunks, vectors, indexes, eval runs and staging. Asks first; --yes does not."""
    from kb_pipeline.errors import ConfigError
    from kb_pipeline.index.recover import recover
    from kb_pipeline.session import open_session
    from kb_pipeline.store.erase import drop_tenant
    from kb_pipeline.store.locks import tenant_lock
    from kb_pipeline.store.overview import tenant_rows
    from kb_pipeline.tenant import checked_tenant_id

    checked_tenant_id(name)
    session = open_session(config)
    with session.db.connect("owner", autocommit=True) as conn:
        if name not in {row["tenant"] for row in tenant_rows(conn)}:
            raise ConfigError(f"no tenant {name!r} in the database; `kb tenants list` shows them")
        if not yes and not typer.confirm(f"Erase everything of tenant {name}?"):
            raise typer.Exit(1)
        with tenant_lock(session.db, name, wait_s=0 if no_wait else None):
            erased = drop_tenant(conn, name, session.staging())
            recover(session.db)  # its indexes belong to no build now
    print(f"erased tenant {name}: {erased.documents:,} documents, {erased.chunks:,} chunks, {erased.contents:,} texts")
    if name in session.settings.tenants:
        print(
            f"it still stands in {session.configuration.path or 'the environment'}, so the next run would index it anew"
        )
