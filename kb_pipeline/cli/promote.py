"""`kb promote` and `kb rollback`: what is live changes by one row."""

from __future__ import annotations

import getpass
from dataclasses import asdict, is_dataclass
from typing import Annotated, Any

import typer

from kb_pipeline.cli.options import Config, Json, NoWait, Tenant, print_json


def promote(
    build: Annotated[int, typer.Argument(help="Number of the build, as `kb builds` shows it.")],
    why: Annotated[str | None, typer.Option("--why", help="Stored with the decision; needed in review mode.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Also when its verdict is not a pass; needs --why.")] = False,
    no_wait: NoWait = False,
    tenant: Tenant = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Make a measured build live. One that was not measured, or did not pass, is refused with exit code 5."""
    from kb_pipeline.errors import ConfigError
    from kb_pipeline.index.promote import promote as act
    from kb_pipeline.session import one_tenant, open_session
    from kb_pipeline.store.locks import tenant_lock

    if force and not why:
        raise ConfigError("--force overrides the verdict and needs --why, which is kept with the decision")
    session = open_session(config)
    tenant_id = one_tenant(session, tenant)
    if session.tenant(tenant_id).promotion.mode == "review" and not (why or "").strip():
        raise ConfigError('promotion.mode = "review": an approval says why (--why), which is kept with the decision')
    with tenant_lock(session.db, tenant_id, wait_s=0 if no_wait else None):
        result = act(session.db, tenant_id, build, by=person(), why=why, force=force)
    _say(result, f"build {build} of tenant {tenant_id} is live; `kb rollback` goes back", as_json=as_json)


def rollback(no_wait: NoWait = False, tenant: Tenant = None, config: Config = None, as_json: Json = False) -> None:
    """Go back to the build that was live before. Instant; nothing written since is lost."""
    from kb_pipeline.index.promote import rollback as act
    from kb_pipeline.session import one_tenant, open_session
    from kb_pipeline.store.locks import tenant_lock

    session = open_session(config)
    tenant_id = one_tenant(session, tenant)
    with tenant_lock(session.db, tenant_id, wait_s=0 if no_wait else None):
        result = act(session.db, tenant_id, by=person())
    _say(result, f"tenant {tenant_id} is back on the build before; `kb builds` shows it", as_json=as_json)


def person() -> str:
    """Who decides, for the record."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def _say(result: Any, sentence: str, *, as_json: bool) -> None:
    if as_json:
        print_json(asdict(result) if is_dataclass(result) and not isinstance(result, type) else {"done": sentence})
    else:
        print(sentence)
