"""`kb golden`: the golden sets of a tenant."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kb_pipeline.cli.options import Config, Json, Tenant, print_json, print_table
from kb_pipeline.cli.promote import person

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.rows import TupleRow

    from evals.golden import GoldenSet

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None)

Folder = Annotated[str, typer.Argument(metavar="DIR", help="Golden set in BEIR layout: queries.jsonl, qrels/*.tsv.")]
Ids = Annotated[str, typer.Option(metavar="IDS", help="Question ids with commas between them.")]


@app.command()
def add(folder: Folder, tenant: Tenant = None, config: Config = None, as_json: Json = False) -> None:
    """Register a golden set: evals of the tenant use the newest one, unless kb.toml names another."""
    from kb_pipeline.session import one_tenant, open_session
    from kb_pipeline.store.eval_golden import put_golden

    session = open_session(config)
    tenant_id = one_tenant(session, tenant)
    with session.db.connect("writer", tenant_id, autocommit=True) as conn:
        golden = _checked(conn, tenant_id, folder)
        version = put_golden(conn, tenant_id, golden.name, golden.sha256, golden.body(), registered=True, by=person())
    if as_json:
        print_json({"name": golden.name, "version": version, "sha256": golden.sha256, "problems": _said(golden)})
        return
    print(f"golden set {golden.name} version {version}: {len(golden.questions):,} questions")
    for problem in _said(golden):
        print(f"  ! {problem}")


@app.command("list")
def list_sets(tenant: Tenant = None, config: Config = None, as_json: Json = False) -> None:
    """List the golden sets and their versions."""
    from kb_pipeline.session import one_tenant, open_session
    from kb_pipeline.store.eval_golden import golden_rows

    session = open_session(config)
    tenant_id = one_tenant(session, tenant)
    with session.db.connect("writer", tenant_id, autocommit=True) as conn:
        rows = [asdict(row) for row in golden_rows(conn, tenant_id)]
    if as_json:
        print_json(rows)
    else:
        shown = [{**row, "sha256": row["sha256"][:12]} for row in rows]
        print_table(shown, empty="no golden set yet: `kb golden add DIR`, or `kb golden sample DIR` to propose one")


@app.command()
def check(folder: Folder, tenant: Tenant = None, config: Config = None, as_json: Json = False) -> None:
    """Check a golden set against the tenant's documents: unknown ids, duplicates, empty questions. Exit code 2: cannot
    be used."""
    from kb_pipeline.session import one_tenant, open_session

    session = open_session(config)
    tenant_id = one_tenant(session, tenant)
    with session.db.connect("writer", tenant_id, autocommit=True) as conn:
        golden = _checked(conn, tenant_id, folder)
    if as_json:
        facts = {"name": golden.name, "sha256": golden.sha256, "questions": len(golden.questions)}
        print_json({**facts, "level": golden.level, "unknown": golden.unknown, "problems": _said(golden)})
        return
    print(f"golden set {golden.name}: {len(golden.questions):,} judged questions, judged by {golden.level}")
    for problem in _said(golden):
        print(f"  ! {problem}")
    if not golden.problems:
        print("  every judged id is there, nothing stands twice")


@app.command()
def sample(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="New folder that the set is written to.")],
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Questions at most.")] = 100,
    model: Annotated[
        str | None, typer.Option("--model", help="Chat model of an OpenAI-compatible endpoint that writes questions.")
    ] = None,
    tenant: Tenant = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Propose questions from the tenant's own texts, marked as synthetic, for a person to read, accept or strike."""
    from evals.known_item import Passage, asked_of_model, proposed, write_golden
    from kb_pipeline.errors import ConfigError
    from kb_pipeline.session import one_tenant, open_session
    from kb_pipeline.store.eval_checks import passages

    session = open_session(config)
    tenant_id = one_tenant(session, tenant)
    with session.db.connect("writer", tenant_id, autocommit=True) as conn:
        found = [Passage(*row) for row in passages(conn, tenant_id, limit=count * 4)]
    items = asked_of_model(found, count=count, model=model) if model else proposed(found, count=count)
    if not items and found:
        raise ConfigError(
            f"the chat model {model} answered without a question"
            if model
            else f"tenant {tenant_id} has no text that reads like a question: `--model` lets a chat model write some"
        )
    if not items:
        raise ConfigError(f"tenant {tenant_id} has no text that a question could be made from: run `kb run` first")
    write_golden(Path(folder), items)
    if as_json:
        print_json([{**item.record(), "doc_id": item.doc_id, "ordinal": item.ordinal} for item in items])
        return
    print(f"{len(items)} questions proposed in {folder}, all marked as synthetic; read {folder}/queries.jsonl, then")
    print(f"  kb golden add {folder} --tenant {tenant_id}")
    print(f"  kb golden settle {Path(folder).resolve().name} --tenant {tenant_id} --accept all --strike ID,ID")


@app.command()
def settle(
    name: Annotated[str, typer.Argument(help="Name of a registered set.")],
    accept: Ids = "",
    strike: Ids = "",
    tenant: Tenant = None,
    config: Config = None,
) -> None:
    """Accept synthetic questions (`all` for those not struck) or strike them: a new version of the set."""
    from evals.golden import from_body
    from evals.known_item import settled
    from kb_pipeline.errors import ConfigError
    from kb_pipeline.session import one_tenant, open_session
    from kb_pipeline.store.eval_golden import put_golden, registered_body

    session = open_session(config)
    tenant_id = one_tenant(session, tenant)
    with session.db.connect("writer", tenant_id, autocommit=True) as conn:
        found = registered_body(conn, tenant_id, name)
        if found is None:
            raise ConfigError(f"tenant {tenant_id} has no golden set {name!r}: `kb golden list` shows them")
        body = settled(found[1], accept=_split(accept), strike=_split(strike))
        golden = from_body(name, body)
        version = put_golden(conn, tenant_id, name, golden.sha256, body, registered=True, by=person())
    print(
        f"golden set {name} version {version}: {len(golden.questions):,} questions, {len(golden.synthetic):,} synthetic"
    )


def _checked(conn: Connection[TupleRow], tenant_id: str, folder: str) -> GoldenSet:
    from evals.asked import fitted
    from evals.golden import read_golden

    golden = read_golden(Path(folder).expanduser())
    found = fitted(conn, tenant_id, golden)
    return replace(golden, problems=found.problems, unknown=found.unknown)


def _said(golden: GoldenSet) -> list[str]:
    return [str(problem) for problem in golden.problems]


def _split(ids: str) -> list[str]:
    return [part.strip() for part in ids.split(",") if part.strip()]
