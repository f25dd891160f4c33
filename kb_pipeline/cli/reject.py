"""`kb reject`: refuse a candidate."""

from __future__ import annotations

from typing import Annotated

import typer

from kb_pipeline.cli.options import Config, Json, Tenant, print_json
from kb_pipeline.cli.promote import person


def reject(
    build: Annotated[int, typer.Argument(help="Number of the candidate, as `kb builds` shows it.")],
    why: Annotated[str, typer.Option("--why", help="Stored with the decision.")],
    tenant: Tenant = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Refuse a candidate. What is live stays, and the candidate is neither promoted by a run nor built again."""
    from kb_pipeline.index.promote import reject as act
    from kb_pipeline.session import one_tenant, open_session

    session = open_session(config)
    tenant_id = one_tenant(session, tenant)
    act(session.db, tenant_id, build, by=person(), why=why)
    if as_json:
        print_json({"tenant": tenant_id, "build_id": build, "decision": "rejected", "by": person(), "why": why})
    else:
        print(f"build {build} of tenant {tenant_id} is refused; `kb promote {build} --why ...` would still approve it")
