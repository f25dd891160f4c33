"""`kb purge`: one document's texts, gone at once."""

from __future__ import annotations

from typing import Annotated

import typer

from kb_pipeline.cli.options import Config, Json, NoWait, Tenant, Yes, print_json


def purge(
    doc: Annotated[str, typer.Argument(help="The document's id.")],
    yes: Yes = False,
    no_wait: NoWait = False,
    tenant: Tenant = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Erase a document's texts everywhere: its chunks, contents no other document has, vectors and staging."""
    from dataclasses import asdict

    from kb_pipeline.errors import ConfigError
    from kb_pipeline.session import one_tenant, open_session
    from kb_pipeline.stages.purging import purge as purge_document
    from kb_pipeline.store.locks import tenant_lock

    session = open_session(config)
    tenant_id = one_tenant(session, tenant)
    if not yes and not typer.confirm(f"Erase document {doc} of tenant {tenant_id}?"):
        raise typer.Exit(1)
    with (
        tenant_lock(session.db, tenant_id, wait_s=0 if no_wait else None),
        session.db.connect("owner", autocommit=True) as conn,
    ):
        erased = purge_document(conn, tenant_id, doc, session.staging())
    if not erased.documents and not erased.waiting:
        raise ConfigError(f"tenant {tenant_id} has no document {doc!r}")
    if as_json:
        print_json(asdict(erased))
    else:
        print(f"erased {doc}: {erased.chunks:,} chunks, {erased.contents:,} texts that no other document has")
        if erased.waiting:
            print(f"{erased.waiting:,} texts of a form that waits for its vectors are forgotten too")
        print("a source that still lists it brings it back: add it to [tenants.NAME] ignore, or to .kbignore")
