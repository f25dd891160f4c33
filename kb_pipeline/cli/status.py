"""`kb status`: what is indexed, and what is live."""

from __future__ import annotations

from typing import Any

from kb_pipeline.cli.options import Config, Json, Tenant, print_json, print_table


def status(tenant: Tenant = None, config: Config = None, as_json: Json = False) -> None:
    """Show documents, chunks, missing embeddings, what is live, the last eval and what is quarantined, by tenant."""
    from kb_pipeline.session import chosen_tenants, open_session
    from kb_pipeline.store.overview import overview

    session = open_session(config)
    with session.db.connect("owner") as conn:
        states = {name: overview(conn, name) for name in chosen_tenants(session, tenant)}
    if as_json:
        print_json(states)
        return
    print_table(
        [{"tenant": name, **_row(state)} for name, state in states.items()],
        empty="no tenants yet: `kb init` writes a kb.toml, `kb run --source PATH` works without one",
    )
    for name, state in states.items():
        if state["waiting"] and session.tenant(name).promotion.mode == "review":
            print(waits(name, state["waiting"]))


def waits(tenant_id: str, waiting: dict[str, Any]) -> str:
    """The sentence about a build that waits for a person."""
    build_id, choice = waiting["build_id"], f"--tenant {tenant_id} --why '...'"
    return (
        f"tenant {tenant_id}: build {build_id} passed and waits for a person since {waiting['since']}\n"
        f"  report:  {waiting['report'] or 'none'}\n"
        f"  approve: kb promote {build_id} {choice}\n"
        f"  refuse:  kb reject {build_id} {choice}"
    )


def _row(state: dict[str, Any]) -> dict[str, Any]:
    live, evaluated = state["live"], state["last_eval"]
    return {
        **{name: state[name] for name in ("documents", "chunks", "contents")},
        "missing": state["missing_embeddings"],
        "live": f"build {live['build_id']} ({live['method']}), {live['model']} {live['dims']} d" if live else None,
        "last eval": f"{evaluated['verdict']} {evaluated['created_at']}" if evaluated else None,
        "quarantined": state["dead_letters"],
        "provider": _provider(state),
        "state": state["state"],
    }


def _provider(state: dict[str, Any]) -> str | None:
    """What stands between the tenant and its provider: open circuit breakers and batch jobs; None when nothing does."""
    said = [f"breaker {one['state']} ({one['endpoint']})" for one in state["breakers"] if one["state"] != "closed"]
    if jobs := state["batch_jobs"]:
        said.append(f"{len(jobs)} batch jobs")
    return ", ".join(said) or None
