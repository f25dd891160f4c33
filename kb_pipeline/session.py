"""An opened engine: configuration, database and what a run of one tenant needs. Assets, sensors and `kb` share it."""

from __future__ import annotations

import os
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from kb_pipeline.config.load import Configuration, load
from kb_pipeline.config.schema import Settings, TenantConfig
from kb_pipeline.errors import ConfigError, UnknownTenant
from kb_pipeline.home import kb_home
from kb_pipeline.store.database import Database, open_database
from kb_pipeline.tenant import checked_tenant_id

if TYPE_CHECKING:
    from kb_pipeline.stages.context import Progress, StageContext
    from kb_pipeline.staging import Staging

DEFAULT_TENANT = "default"


@dataclass(frozen=True, slots=True)
class Session:
    """Configuration and database, opened once per process; cheap to derive from."""

    configuration: Configuration
    db: Database
    progress: Progress | None = None
    """Where stages report; None: log lines."""
    locked: frozenset[str] = field(default_factory=frozenset[str])
    """Tenants whose lock this process holds already."""
    ahead: Ahead | None = None
    """First stages of this process's run that are under way in another one."""
    stored: dict[str, dict[str, object]] = field(default_factory=dict[str, dict[str, object]])
    """What Postgres knows of tenants that are not in the file: their source, given on the command line once."""

    @property
    def settings(self) -> Settings:
        """The validated configuration."""
        return self.configuration.settings

    def tenant_ids(self) -> list[str]:
        """Tenants of the file, then those that were given on the command line once."""
        return [*self.settings.tenants, *(known for known in self.stored if known not in self.settings.tenants)]

    def tenant(self, tenant_id: str) -> TenantConfig:
        """The tenant's resolved configuration. Raises `UnknownTenant` when neither the file nor Postgres knows it."""
        checked_tenant_id(tenant_id)
        if tenant_id in self.settings.tenants:
            return self.settings.tenant(tenant_id)
        if tenant_id in self.stored:
            return with_tenant(self.settings, tenant_id, self.stored[tenant_id]).tenant(tenant_id)
        known = ", ".join(self.tenant_ids()) or "none"
        raise UnknownTenant(
            f"no tenant {tenant_id!r}: known are {known}. Add [tenants.{tenant_id}] with a source to kb.toml, "
            f"or run `kb run --tenant {tenant_id} --source PATH`"
        )

    def stage(self, tenant_id: str, run_id: str) -> StageContext:
        """What the stages of one run are given."""
        from kb_pipeline.log_progress import LogProgress
        from kb_pipeline.stages.context import StageContext

        return StageContext(
            settings=self.settings,
            tenant=self.tenant(tenant_id),
            db=self.db,
            staging=self.staging(),
            run_id=run_id,
            progress=self.progress or LogProgress(),
        )

    def staging(self) -> Staging:
        """Where Parquet between the assets lies."""
        from kb_pipeline.staging import open_staging

        return open_staging(self.settings.staging.url or str(kb_home() / "staging"))


class Ahead(Protocol):
    """Stages that run beside this process."""

    @property
    def stages(self) -> tuple[str, ...]:
        """Assets whose stage runs there."""
        ...

    def summary(self, asset: str) -> Any:
        """What the stage came to, waited for. Raises what it raised."""
        ...


CURRENT: ContextVar[Session | None] = ContextVar("kb_session", default=None)
"""The session of a run inside this process (`kb run`); a Dagster run worker has none and opens its own."""


def open_session(config: str | Path | None = None) -> Session:
    """Read the configuration, open the database, and bring the file's tenants to Postgres."""
    from kb_pipeline.migrate.holds import held_back
    from kb_pipeline.store.migrations_state import read_holds
    from kb_pipeline.store.tenants import sync_tenants, unlisted_tenants

    configuration = load(config)
    db = open_database()
    with db.connect("owner") as conn:
        settings = configuration.settings
        listed = {name: stored_config(settings.tenant(name)) for name in settings.tenants}
        sync_tenants(conn, listed, pause_missing=configuration.path is not None)
        stored = unlisted_tenants(conn, list(settings.tenants))
        holds = read_holds(conn)
    settings, stored = held_back(settings, stored, holds)
    return Session(replace(configuration, settings=settings), db, stored=stored)


def current_session() -> Session:
    """The session of this process's run, or a new one."""
    return CURRENT.get() or open_session()


def with_source(session: Session, tenant_id: str, source: str, *, remember: bool = True) -> Session:
    """The same session with another source for one tenant; `remember` keeps it for a tenant that is not in the file."""
    from kb_pipeline.config.load import located
    from kb_pipeline.store.tenants import remember_tenant

    own: dict[str, object] = {
        **session.settings.tenants.get(checked_tenant_id(tenant_id), {}),
        "source": located(source, Path.cwd()),
    }
    settings = with_tenant(session.settings, tenant_id, own)
    if remember and tenant_id not in session.settings.tenants:
        with session.db.connect("owner") as conn:
            remember_tenant(conn, tenant_id, {"source": own["source"]})
    return replace(session, configuration=replace(session.configuration, settings=settings))


def with_tenant(settings: Settings, tenant_id: str, own: dict[str, object]) -> Settings:
    """The settings with this tenant's own part replaced."""
    return settings.model_copy(update={"tenants": {**settings.tenants, tenant_id: own}})


def chosen_tenants(session: Session, asked: str | None) -> list[str]:
    """The tenant that was asked for, else all of them, else `default`. Raises `UnknownTenant`."""
    if asked is not None:
        session.tenant(asked)
        return [asked]
    return session.tenant_ids() or [DEFAULT_TENANT]


def tenant_for(session: Session, asked: str | None) -> str:
    """The tenant of a source given on the command line: the one asked for, else the file's only one, else `default`."""
    if asked is not None:
        return checked_tenant_id(asked)
    listed = list(session.settings.tenants)
    if len(listed) > 1:
        raise ConfigError(f"the source of which tenant? Say --tenant with one of: {', '.join(listed)}")
    return listed[0] if listed else DEFAULT_TENANT


def one_tenant(session: Session, asked: str | None) -> str:
    """The tenant a command is about when it can be about one only. Raises `ConfigError` when that is not clear."""
    tenants = chosen_tenants(session, asked)
    if len(tenants) > 1:
        raise ConfigError(f"which tenant? Say --tenant with one of: {', '.join(tenants)}")
    return tenants[0]


def stored_config(tenant: TenantConfig) -> dict[str, object]:
    """What Postgres keeps of a tenant's configuration, for people who look there: the file stays the truth."""
    return tenant.model_dump(mode="json", exclude_unset=True, exclude={"tenant_id"})


def process_mark() -> str:
    """`host:pid:start` of this process, so that a later one can see whether it still runs."""
    import socket

    return f"{socket.gethostname()}:{os.getpid()}:{process_start(os.getpid())}"


def process_start(pid: int) -> str:
    """When a process began, as the kernel counts; empty when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def process_lives(mark: str) -> bool | None:
    """Whether the process of a mark still runs; None when it is another host's and cannot be known here."""
    import socket

    host, pid, start = mark.rsplit(":", 2)
    if host != socket.gethostname():
        return None
    return process_start(int(pid)) == start
