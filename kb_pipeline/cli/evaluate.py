"""`kb eval`: measure what is live, or the candidate beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from kb_pipeline.cli.options import Config, Json, Tenant, print_json

if TYPE_CHECKING:
    from kb_pipeline.session import Session

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
    replay: Annotated[
        int | None, typer.Option("--replay", metavar="EVAL_ID", help="Repeat a stored eval run; stores nothing.")
    ] = None,
    storage: Annotated[
        list[str] | None,
        typer.Option(
            "--storage",
            help="Measure beside it what recall an index stored as vector, halfvec or binary would have, or all of "
            "them. May be repeated.",
        ),
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
    from kb_pipeline.errors import ConfigError
    from kb_pipeline.session import one_tenant, open_session

    session = replace(open_session(config), progress=terminal_progress())
    if replay is not None:
        if golden is not None or build is not None or storage:
            raise ConfigError("--replay repeats what was measured then: it takes no --golden, --build or --storage")
        raise typer.Exit(_replay(session, one_tenant(session, tenant), replay, as_json=as_json))
    ctx = session.stage(one_tenant(session, tenant), f"eval-{uuid4()}")
    summary = measure(ctx, build_id=build, golden=golden, storages=storage or ())
    facts = {
        "eval_id": summary.eval_id,
        "build_id": summary.build_id,
        "verdict": summary.verdict,
        "reasons": summary.reasons,
        "headline": summary.headline,
        "report": summary.html_path,
        "data": summary.data,
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


def _replay(session: Session, tenant_id: str, eval_id: int, *, as_json: bool) -> int:
    """0 when every quality number is the stored one, 1 otherwise."""
    from dataclasses import asdict
    from uuid import uuid4

    from evals.replay import replay

    found = replay(session.stage(tenant_id, f"replay-{uuid4()}"), eval_id)
    if as_json:
        print_json(asdict(found))
        return 0 if found.equal else 1
    verdict = "all are the same" if found.equal else f"{len(found.differences):,} are others"
    print(f"eval run {eval_id} repeated: of {found.compared:,} quality numbers {verdict}")
    for words in found.changed:
        print(f"  ! {words}")
    for name, value in found.headline.items():
        print(f"  {name:<28} {value:.6f}")
    for name, before, now in found.differences[:20]:
        print(f"  {name}: {before} then, {now} now")
    return 0 if found.equal else 1
