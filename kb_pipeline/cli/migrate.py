"""`kb migrate`: change the embedding model, look on, hold it, give it up."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from kb_pipeline.cli.options import Config, Json, Tenant, Yes, note, print_json, print_table

app = typer.Typer(rich_markup_mode=None, invoke_without_command=True)

POLL_S = 1.0


@app.callback()
def migrate(
    context: typer.Context,
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="MODEL", help="provider/model, python:package.module:Class, or a model's name."),
    ] = None,
    dims: Annotated[int | None, typer.Option("--dims", help="Length of its vectors, where it can be chosen.")] = None,
    storage: Annotated[str | None, typer.Option("--storage", help="Type of the column: vector or halfvec.")] = None,
    sample: Annotated[
        int | None, typer.Option("--sample", metavar="N", help="Only compare old and new on N contents.")
    ] = None,
    max_cost: Annotated[
        float | None, typer.Option("--max-cost", metavar="USD", help="Stop before this much is spent on embeddings.")
    ] = None,
    yes: Yes = False,
    tenant: Tenant = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Change the embedding model under load: --to writes it to kb.toml; without, what kb.toml says is carried out."""
    if context.invoked_subcommand is not None:
        return
    if sample is not None:
        _sample(config, tenant, to, dims, storage, sample, as_json=as_json)
        return
    if to is not None:
        _write(config, tenant, to, dims, storage, yes=yes)
    elif dims is not None or storage is not None:
        raise typer.BadParameter("--dims and --storage go with --to", param_hint="--to")
    _carry_out(config, tenant, max_cost, as_json=as_json)


@app.command()
def status(tenant: Tenant = None, config: Config = None, as_json: Json = False) -> None:
    """Show where each tenant's change of model stands: rows, rate, time left, cost, and what can be done next."""
    from dataclasses import asdict

    from kb_pipeline.migrate.status import migration_status
    from kb_pipeline.session import chosen_tenants, open_session

    session = open_session(config)
    with session.db.connect("owner") as conn:
        found = [migration_status(conn, session.tenant(name)) for name in chosen_tenants(session, tenant)]
    if as_json:
        print_json({one.tenant: asdict(one) for one in found})
        return
    print_table([_row(asdict(one)) for one in found], empty="no tenants yet")
    for one in found:
        if one.bridge:
            print(f"{one.tenant}: {one.bridge}")
        print(f"{one.tenant}: {one.next}")


@app.command()
def pause(tenant: Tenant = None, config: Config = None) -> None:
    """Hold the change: a back-fill under way ends within seconds, what it made is kept, nightly runs go on."""
    from kb_pipeline.cli.promote import person
    from kb_pipeline.migrate.control import pause as act

    session, name = _one(config, tenant)
    target = act(session.db, session.tenant(name), by=person())
    print(f"{name}: the change to {target.provider}/{target.model} is paused; `kb migrate resume` goes on")


@app.command()
def resume(tenant: Tenant = None, config: Config = None, as_json: Json = False) -> None:
    """Go on with what was paused, aborted or rolled back."""
    from kb_pipeline.cli.promote import person
    from kb_pipeline.migrate.control import resume as act

    session, name = _one(config, tenant)
    act(session.db, name, by=person())
    _carry_out(config, name, None, as_json=as_json)


@app.command()
def abort(tenant: Tenant = None, config: Config = None, yes: Yes = False, as_json: Json = False) -> None:
    """Give the change up and give back everything it took: index, vectors, column. What is live is not touched."""
    from dataclasses import asdict

    from kb_pipeline.cli.promote import person
    from kb_pipeline.migrate.control import abort as act

    session, name = _one(config, tenant)
    if not yes:
        typer.confirm(f"Give up the change of model of tenant {name}? Its vectors are paid for.", abort=True, err=True)
    done = act(session.db, session.tenant(name), by=person())
    if as_json:
        print_json(asdict(done))
        return
    columns = ", ".join(f"v{version}" for version in done.dropped_columns) or "none"
    print(f"{name}: given up; {sum(done.emptied.values()):,} vectors taken out, columns dropped: {columns}")
    for reason in done.skipped:
        note(reason)
    print("kb.toml still names the other model; name the live one there, or `kb migrate resume` begins again")


def _one(config: str | None, tenant: str | None) -> tuple[Any, str]:
    from kb_pipeline.session import one_tenant, open_session

    session = open_session(config)
    return session, one_tenant(session, tenant)


def _storage(storage: str | None) -> Any:
    if storage not in (None, "vector", "halfvec"):
        raise typer.BadParameter(f"{storage!r} is neither vector nor halfvec", param_hint="--storage")
    return storage


def _write(
    config: str | None, tenant: str | None, to: str, dims: int | None, storage: str | None, *, yes: bool
) -> None:
    """Change kb.toml after showing what that will take."""
    from pathlib import Path

    from kb_pipeline.config.load import FILE_NAME
    from kb_pipeline.embed.registry import resolve_spec
    from kb_pipeline.errors import ConfigError
    from kb_pipeline.migrate.cost import migration_cost
    from kb_pipeline.migrate.target import target_config, target_keys, write_target
    from kb_pipeline.session import chosen_tenants, open_session

    session = open_session(config)
    names = chosen_tenants(session, tenant)
    # What other tenants inherit is not changed for one: its own section overrides it.
    own = tenant if tenant is not None and (len(session.tenant_ids()) > 1 or _has_own(session, tenant)) else None
    now = session.tenant(names[0]).embedder
    keys = target_keys(now, to, dims=dims, storage=_storage(storage))
    for name in names:
        cost = migration_cost(session, name, target_config(session.tenant(name).embedder, keys))
        for line in cost.lines():
            note(f"{name}: {line}")
    if not yes:
        typer.confirm("Change the model?", abort=True, err=True)
    where = write_target(session.configuration.path or Path(FILE_NAME), own, now, keys)
    note(f"wrote {where}")
    _release(session, names, target_config(now, keys))
    after, wanted = open_session(config), resolve_spec(target_config(now, keys))
    found = resolve_spec(after.tenant(names[0]).embedder)
    if found.hash() != wanted.hash():
        raise ConfigError(
            f"{where} now names {wanted.provider}/{wanted.model}, but {found.provider}/{found.model} is what counts: a "
            "section of the tenant, a KB_EMBEDDER__... variable or a hold (`kb migrate status`) overrides it"
        )


def _release(session: Any, names: list[str], target: Any) -> None:
    """Asking for a model ends a hold on it."""
    from kb_pipeline.cli.promote import person
    from kb_pipeline.embed.registry import resolve_spec
    from kb_pipeline.migrate.control import resume as act
    from kb_pipeline.store.migrations_state import read_migration

    for name in names:
        with session.db.connect("owner") as conn:
            row = read_migration(conn, name)
        if row is not None and row.held and row.target_hash == resolve_spec(target).hash():
            act(session.db, name, by=person())


def _has_own(session: Any, tenant: str) -> bool:
    return "embedder" in session.settings.tenants.get(tenant, {})


def _carry_out(config: str | None, tenant: str | None, max_cost: float | None, *, as_json: bool) -> None:
    """Run each tenant to the end. Another command that waits for the tenant goes first, and this goes on after it."""
    import time
    from dataclasses import asdict

    from kb_pipeline.cli.run import ASSETS, worst
    from kb_pipeline.cli.runs import RunOptions, run_tenants
    from kb_pipeline.errors import TenantBusy
    from kb_pipeline.session import chosen_tenants, open_session

    options = RunOptions(
        assets=ASSETS, op_config={"embeddings": {"max_cost": max_cost}} if max_cost is not None else {}, no_wait=True
    )
    outcomes: dict[str, Any] = {}
    codes: list[int] = []
    names = chosen_tenants(open_session(config), tenant)
    for name in names:
        said = False
        while True:
            try:
                outcome = run_tenants(config, name, options, quiet=as_json)[0]
                break
            except TenantBusy as busy:
                if not said:
                    note(f"{name}: {busy}. Waiting, then going on")
                    said = True
                time.sleep(POLL_S)
        outcomes[name] = asdict(outcome)
        codes.append(outcome.exit_code)
    if as_json:
        print_json(outcomes)
    raise typer.Exit(worst(codes))


def _sample(
    config: str | None,
    tenant: str | None,
    to: str | None,
    dims: int | None,
    storage: str | None,
    count: int,
    *,
    as_json: bool,
) -> None:
    from dataclasses import asdict

    from evals.migration_sample import compare_on_sample
    from kb_pipeline.migrate.cost import migration_cost
    from kb_pipeline.migrate.target import target_config, target_keys

    session, name = _one(config, tenant)
    now = session.tenant(name).embedder
    target = now if to is None else target_config(now, target_keys(now, to, dims=dims, storage=_storage(storage)))
    found = compare_on_sample(session.stage(name, "sample"), target, rows=count)
    cost = migration_cost(session, name, target)
    if as_json:
        print_json({**asdict(found), "full": asdict(cost)})
        return
    for line in [*found.lines(), *cost.lines()]:
        print(line)


def _row(one: dict[str, Any]) -> dict[str, Any]:
    total = one["rows_total"]
    return {
        "tenant": one["tenant"],
        "stage": one["stage"],
        "live": one["live"],
        "target": one["target"],
        "rows": f"{one['rows_done']:,} of {total:,}" if total else None,
        "rows/s": round(one["rows_per_second"], 1) or None,
        "minutes left": None if one["seconds_left"] is None else round(one["seconds_left"] / 60, 1),
        "usd": one["usd"],
        "soak ends in h": None if one["soak_seconds_left"] is None else round(one["soak_seconds_left"] / 3600, 1),
        "by": one["by"] or None,
    }
