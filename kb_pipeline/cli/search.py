"""`kb search`: ask a knowledge base."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from kb_pipeline.cli.options import Config, Json, Tenant, print_json

SHOWN_CHARACTERS = 400


def search(
    query: Annotated[str, typer.Argument(help="What you want to know.")],
    k: Annotated[int, typer.Option("-k", min=1, max=500, help="How many results.")] = 10,
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--where",
            metavar="COND",
            help="Filter on metadata: key=value, key>=3, key^=prefix, 'key in a,b'. Again for more.",
        ),
    ] = None,
    ef_search: Annotated[
        int | None, typer.Option("--ef-search", min=1, max=1000, help="How far the index is searched.")
    ] = None,
    profile: Annotated[str | None, typer.Option("--profile", help="interactive, default or offline.")] = None,
    tenant: Tenant = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Show the nearest texts, one entry for each distinct one, with where it stands."""
    from kb_pipeline.errors import ConfigError
    from kb_pipeline.search.filters import parse_where
    from kb_pipeline.search.retriever import Retriever
    from kb_pipeline.session import one_tenant, open_session

    if ef_search is not None and profile is not None:
        raise ConfigError("say --ef-search or --profile, not both")
    session = open_session(config)
    tenant_id = one_tenant(session, tenant)
    conditions = [parse_where(one) for one in where or ()]
    with Retriever(session.db, session.settings) as retriever:
        hits = retriever.search(query, tenant=tenant_id, k=k, where=conditions, ef_search=ef_search, profile=profile)
    if as_json:
        print_json([asdict(hit) for hit in hits])
        return
    if not hits:
        print("nothing found")
    for number, hit in enumerate(hits, 1):
        place = " > ".join(hit.heading_path)
        print(f"{number}. {hit.doc_id}" + (f"  [{place}]" if place else "") + f"  {hit.score:.3f}")
        text = " ".join(hit.text.split())
        print(f"   {text[:SHOWN_CHARACTERS]}{'…' if len(text) > SHOWN_CHARACTERS else ''}")
        if hit.also_in:
            print(f"   also in {', '.join(hit.also_in[:5])}")
