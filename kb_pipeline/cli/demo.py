"""`kb demo`: index something real that every machine has, and ask it something."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from kb_pipeline.cli.options import Config

TENANT = "demo"
PACKAGES = "packages:"
QUESTIONS = (
    "How do I set a timeout on an HTTP request?",
    "validate a model's fields",
    "create a connection pool to Postgres",
)
SHOWN_CHARACTERS = 160


def demo(
    docs: Annotated[
        str | None,
        typer.Option(
            "--docs",
            "--source",
            metavar="DIR",
            help="Any folder, in place of the documentation of the installed Python packages.",
        ),
    ] = None,
    config: Config = None,
) -> None:
    """Index the documentation of the installed Python packages (or a folder) as tenant `demo`, and ask it something."""
    from kb_pipeline.cli.run import ASSETS
    from kb_pipeline.cli.runs import QUARANTINED, RunOptions, run_tenants

    what = docs or "the documentation of the Python packages installed here"
    print(f"indexing {what} as tenant {TENANT}\n", flush=True)
    outcome = run_tenants(config, TENANT, RunOptions(assets=ASSETS), source=docs or PACKAGES)[0]
    show_report(config)
    print()
    ask(config, QUESTIONS if docs is None else sample_questions(config))
    print(
        "next:\n"
        f'  kb search --tenant {TENANT} "your own question"\n'
        "  kb dev                          the same in the Dagster UI: assets, runs, reports\n"
        "  kb init                         a kb.toml for your own documents, then kb run"
    )
    if outcome.exit_code not in (0, QUARANTINED):
        raise typer.Exit(outcome.exit_code)


def show_report(config: str | None) -> None:
    """The figures of the newest eval run, in lines."""
    from kb_pipeline.session import open_session
    from kb_pipeline.store.eval_runs import newest_eval_run

    with open_session(config).db.connect("owner") as conn:
        newest = newest_eval_run(conn, TENANT)
    if newest is None:
        return
    print(f"\neval report: {newest.verdict}")
    for name, value in newest.measurements.get("headline", {}).items():
        if value is not None:
            print(f"  {name.replace('_', ' '):<22} {f'{value:.4g}' if isinstance(value, float) else value}")
    print(f"  {newest.report_url}")


def ask(config: str | None, questions: Sequence[str]) -> None:
    """Each question with its best two answers."""
    from kb_pipeline.search.retriever import Retriever
    from kb_pipeline.session import open_session

    session = open_session(config)
    with Retriever(session.db, session.settings) as retriever:
        for question in questions:
            print(f"? {question}")
            for hit in retriever.search(question, tenant=TENANT, k=2):
                text = " ".join(hit.text.split())[:SHOWN_CHARACTERS]
                print(f"  {hit.score:.3f} {hit.doc_id}\n        {text}")
            print()


def sample_questions(config: str | None, *, count: int = 3) -> list[str]:
    """Headings of the indexed folder as questions, spread over it; for documents that we do not know."""
    from kb_pipeline.session import open_session
    from kb_pipeline.store.listing import some_headings

    with open_session(config).db.connect("reader", TENANT) as conn:
        return some_headings(conn, TENANT, count=count)
