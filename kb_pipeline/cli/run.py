"""`kb run` and `kb rebuild`: the whole chain as one Dagster run for each tenant."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from kb_pipeline.cli.options import Config, Json, NoWait, Tenant, note, print_json

if TYPE_CHECKING:
    from kb_pipeline.cli.execute import Outcome

ASSETS = ("documents", "chunks", "fingerprints", "embeddings", "hnsw_index", "eval_report", "live_index")
"""In the order of the flow; `assets/jobs.py` has the same."""


def run(
    source: Annotated[
        str | None,
        typer.Option(
            "--source", metavar="URL", help="Folder, URL, file or packages: to index, in place of the configured one."
        ),
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="ASSET", help=f"Stop after this asset: {', '.join(ASSETS)}.")
    ] = None,
    max_cost: Annotated[
        float | None, typer.Option("--max-cost", metavar="USD", help="Stop before this much is spent on embeddings.")
    ] = None,
    allow_mass_delete: Annotated[
        bool,
        typer.Option(
            "--allow-mass-delete", help="Go on although the source lists far fewer documents than are indexed."
        ),
    ] = False,
    always: Annotated[bool, typer.Option("--always", help="Start a run also when nothing changed.")] = False,
    no_wait: NoWait = False,
    tenant: Tenant = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Bring tenants to what their source and configuration say: read, chunk, embed, index, measure, promote."""
    from kb_pipeline.cli.runs import RunOptions, run_tenants

    _check_asset(until)
    options = RunOptions(
        assets=ASSETS[: ASSETS.index(until) + 1] if until else ASSETS,
        op_config={
            "documents": {"allow_mass_delete": allow_mass_delete},
            "embeddings": {"max_cost": max_cost} if max_cost is not None else {},
        },
        always=always,
        no_wait=no_wait,
    )
    _report(run_tenants(config, tenant, options, source=source, quiet=as_json), as_json=as_json)


def rebuild(no_wait: NoWait = False, tenant: Tenant = None, config: Config = None, as_json: Json = False) -> None:
    """Build, measure and promote a new index beside the live one, also when the live one is fine."""
    from kb_pipeline.cli.runs import RunOptions, run_tenants

    options = RunOptions(
        job="kb_rebuild",
        assets=("hnsw_index", "eval_report", "live_index"),
        op_config={"hnsw_index": {"rebuild": True}},
        always=True,
        no_wait=no_wait,
    )
    _report(run_tenants(config, tenant, options, quiet=as_json), as_json=as_json)


def _check_asset(until: str | None) -> None:
    if until is not None and until not in ASSETS:
        from difflib import get_close_matches

        near = get_close_matches(until, ASSETS, n=1)
        raise typer.BadParameter(
            f"no asset {until!r}; " + (f"did you mean {near[0]}?" if near else f"there are {', '.join(ASSETS)}"),
            param_hint="--until",
        )


def _report(outcomes: list[Outcome], *, as_json: bool) -> None:
    if as_json:
        print_json({outcome.tenant: asdict(outcome) for outcome in outcomes})
    codes = [outcome.exit_code for outcome in outcomes]
    if len(codes) > 1 and any(codes):
        note(f"{sum(1 for code in codes if code)} of {len(codes)} tenants did not end with 0")
    raise typer.Exit(worst(codes))


def worst(codes: list[int]) -> int:
    """The exit code of several tenants' runs: error before refusal, "again later", quarantine, done."""
    order = (1, 2, 5, 75, 4, 3, 0)
    return min(codes, key=order.index, default=0)
