"""`kb eval`: measure what is live, or the candidate beside it."""

from __future__ import annotations

from typing import Annotated

import typer

from kb_pipeline.cli.options import Config, Json, Tenant, print_json

REFUSED = 5


def evaluate(
    golden: Annotated[
        str | None,
        typer.Option("--golden", metavar="DIR", help="Golden set in BEIR layout, in place of the configured one."),
    ] = None,
    build: Annotated[
        int | None,
        typer.Option("--build", metavar="ID", help="The build to measure; else the candidate, else the live one."),
    ] = None,
    tenant: Tenant = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Measure recall, quality, latency and coverage; store the verdict, write the report. Exit code 5: not passed."""
    from dataclasses import replace
    from uuid import uuid4

    from evals.run import evaluate as measure
    from kb_pipeline.cli.progress import terminal_progress
    from kb_pipeline.session import one_tenant, open_session

    session = replace(open_session(config), progress=terminal_progress())
    summary = measure(session.stage(one_tenant(session, tenant), f"eval-{uuid4()}"), build_id=build, golden=golden)
    facts = {
        "eval_id": summary.eval_id,
        "build_id": summary.build_id,
        "verdict": summary.verdict,
        "reasons": summary.reasons,
        "headline": summary.headline,
        "report": summary.html_path,
    }
    if as_json:
        print_json(facts)
    else:
        print(f"build {summary.build_id}: {summary.verdict}")
        for name, value in summary.headline.items():
            if value is not None:
                print(f"  {name.replace('_', ' '):<22} {f'{value:.4g}' if isinstance(value, float) else value}")
        for reason in summary.reasons:
            print(f"  - {reason}")
        print(f"report: {summary.html_path}")
    raise typer.Exit(0 if summary.verdict == "pass" else REFUSED)
