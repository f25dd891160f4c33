"""`kb plan`: what a run would do, and what it would cost."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from kb_pipeline.cli.options import Config, Json, Tenant, print_json


def plan(
    source: Annotated[
        str | None, typer.Option("--source", metavar="URL", help="In place of the configured source.")
    ] = None,
    tenant: Tenant = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Show what a run would do and cost. Nothing is written, and no embedding is asked for."""
    from dataclasses import replace

    from kb_pipeline.cli.progress import terminal_progress
    from kb_pipeline.due import preview
    from kb_pipeline.session import chosen_tenants, open_session, tenant_for, with_source

    session = replace(open_session(config), progress=terminal_progress())
    if source is not None:
        tenant = tenant_for(session, tenant)
        session = with_source(session, tenant, source, remember=False)
    previews = {name: preview(session, name) for name in chosen_tenants(session, tenant)}
    if as_json:
        print_json(previews if len(previews) > 1 else next(iter(previews.values())))
        return
    for name, found in previews.items():
        print(f"{name}:")
        for line in in_words(found):
            print(f"  {line}")


def in_words(found: dict[str, Any]) -> list[str]:
    """A preview in lines for a person."""
    documents = ", ".join(f"{count:,} {kind.replace('_', ' ')}" for kind, count in found["documents"].items() if count)
    chunks = ", ".join(f"{count:,} {kind}" for kind, count in found["chunks"].items() if count)
    usd = found["cost_usd"]
    cost = "price not known" if usd is None else f"${usd:.4f}" if usd else "no cost"
    lines = [f"documents: {documents or 'none'}", f"chunks: {chunks or 'none touched'}"]
    if usd and found["cost_batch_usd"] is not None:
        cost = f"{cost} (batch lane: ${found['cost_batch_usd']:.4f})"
    if found["minutes"] is not None:
        cost = f"{cost}, at least {found['minutes']:,.1f} minutes under the configured limits"
    lines.append(f"to embed: {found['texts_to_embed']:,} texts, {found['tokens_to_embed']:,} tokens, {cost}")
    if found["texts_at_hand"]:
        lines.append(f"not asked for: {found['texts_at_hand']:,} texts: here, shared, or with a batch job")
    if usd and found["price"]:
        lines.append(f"price: {found['price']}")
    if found["migration"] is not None:
        from kb_pipeline.migrate.cost import MigrationCost

        lines += [f"change of model: {line}" for line in MigrationCost(**found["migration"]).lines()]
    return [*lines, *(f"- {reason}" for reason in found["reasons"])]
