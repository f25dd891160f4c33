"""`kb chunks`: the indexed chunks as JSON Lines."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from kb_pipeline.cli.options import Config, Tenant


def chunks(
    doc: Annotated[str | None, typer.Option("--doc", metavar="ID", help="Only this document.")] = None,
    tenant: Tenant = None,
    config: Config = None,
) -> None:
    """Print the chunks as JSON, one a line: doc_id, uri, ordinal, start, end, kind, heading_path, fingerprint, text."""
    from kb_pipeline.session import one_tenant, open_session
    from kb_pipeline.store.listing import chunk_rows

    session = open_session(config)
    tenant_id = one_tenant(session, tenant)
    with session.db.connect("reader", tenant_id) as conn:
        for row in chunk_rows(conn, tenant_id, doc_id=doc):
            sys.stdout.write(json.dumps(row, ensure_ascii=False) + "\n")
