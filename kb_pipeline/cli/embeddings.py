"""`kb embeddings`: vectors in and out as Parquet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kb_pipeline.cli.options import Config, Tenant

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

Model = Annotated[
    str | None, typer.Option("--model", metavar="NAME", help="Model the vectors are of; else the configured one.")
]


@app.command("import")
def import_file(
    file: Annotated[Path, typer.Argument(metavar="FILE.parquet", exists=True, dir_okay=False)],
    model: Model = None,
    tenant: Tenant = None,
    config: Config = None,
) -> None:
    """Keep vectors you already have: columns `vector` and `fingerprint` or `text` (as embedded, without a prefix).

    Runs take them from there in place of asking, and paying, the provider.
    """
    from kb_pipeline.session import one_tenant, open_session
    from kb_pipeline.stages.exchange import import_vectors

    session = open_session(config)
    tenant_id = one_tenant(session, tenant)
    count = import_vectors(session.db, session.tenant(tenant_id), file, model=model)
    print(f"{count:,} vectors are kept for {tenant_id}; `kb run` uses them for texts that have none")


@app.command("export")
def export_file(
    file: Annotated[Path, typer.Argument(metavar="FILE.parquet", dir_okay=False)],
    model: Model = None,
    tenant: Tenant = None,
    config: Config = None,
) -> None:
    """Write every vector with its fingerprint and text, in the form that `import` reads."""
    from kb_pipeline.session import one_tenant, open_session
    from kb_pipeline.stages.exchange import export_vectors

    session = open_session(config)
    tenant_id = one_tenant(session, tenant)
    count = export_vectors(session.db, session.tenant(tenant_id), file, model=model)
    print(f"{count:,} vectors of {tenant_id} written to {file}")
