"""Pause, resume, abort: what a person says of a change of model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kb_pipeline.embed.protocol import EmbedderSpec
from kb_pipeline.errors import ConfigError
from kb_pipeline.index.recover import drop_build
from kb_pipeline.migrate.contract import Contracted, contract_tenant
from kb_pipeline.store.live import read_live
from kb_pipeline.store.locks import tenant_lock
from kb_pipeline.store.migrations_state import ask_again, put_migration, read_migration
from kb_pipeline.store.retire import drop_unused_columns
from kb_pipeline.store.versions import find_version, read_version

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.rows import TupleRow

    from kb_pipeline.config.schema import EmbedderConfig, TenantConfig
    from kb_pipeline.store.database import Database


def pause(db: Database, tenant: TenantConfig, *, by: str) -> EmbedderSpec:
    """The tenant stays with its live model from now on; a back-fill under way ends within seconds, and is kept.

    Raises `ConfigError` when no change of model is under way.
    """
    with db.connect("owner") as conn, conn.transaction():
        target = _under_way(conn, tenant)
        put_migration(conn, tenant.tenant_id, target, "paused", by=by)
    return target


def resume(db: Database, tenant_id: str, *, by: str) -> EmbedderSpec:
    """What was paused, aborted or rolled back goes on with the next run. Raises `ConfigError` when nothing is held."""
    with db.connect("owner") as conn, conn.transaction():
        row = read_migration(conn, tenant_id)
        if row is None or not row.held:
            raise ConfigError(f"no change of model of tenant {tenant_id!r} is paused, aborted or rolled back")
        target = EmbedderSpec(**row.target)
        put_migration(conn, tenant_id, target, "running", by=by)
        ask_again(conn, tenant_id, target)
    return target


def abort(db: Database, tenant: TenantConfig, *, by: str) -> Contracted:
    """Gives back everything the change of model took: builds, index, vectors, and the column if no other tenant has a
    part in it. What is live is not touched. It is not begun again until `resume`, or until another model is configured.

    Waits for a run of the tenant, which ends within seconds of the word. Raises `ConfigError` when no change is under
    way, or its model is live already.
    """
    with db.connect("owner") as conn, conn.transaction():
        target = _under_way(conn, tenant)
        put_migration(conn, tenant.tenant_id, target, "aborted", by=by)
    done = Contracted()
    with tenant_lock(db, tenant.tenant_id, wait_s=None):
        with db.connect("owner") as conn:
            live, version = read_live(conn, tenant.tenant_id), find_version(conn, target)
        if live is not None and live.previous_build_id is not None and live.previous_version == version:
            drop_build(db, tenant.tenant_id, live.previous_build_id)  # what was rolled back from is in soak
        contract_tenant(db, tenant.tenant_id, _live_config(db, tenant), done)
    done.dropped_columns.extend(drop_unused_columns(db))
    return done


def _under_way(conn: Connection[TupleRow], tenant: TenantConfig) -> EmbedderSpec:
    """The model the tenant is to change to."""
    from kb_pipeline.embed.registry import resolve_spec

    tenant_id = tenant.tenant_id
    live = read_live(conn, tenant_id)
    if live is None:
        raise ConfigError(f"tenant {tenant_id!r} serves nothing yet, so there is no change of model")
    served = read_version(conn, live.version).spec
    row = read_migration(conn, tenant_id)
    target = EmbedderSpec(**row.target) if row is not None and row.held else resolve_spec(tenant.embedder)
    if target.hash() == served.hash():
        back = "; `kb rollback` goes back" if live.previous_version not in (None, live.version) else ""
        raise ConfigError(
            f"no change of model of tenant {tenant_id!r} is under way: {served.provider}/{served.model} is live{back}"
        )
    return target


def _live_config(db: Database, tenant: TenantConfig) -> EmbedderConfig:
    from kb_pipeline.stages.wanted import embedder_config

    with db.connect("owner") as conn:
        live = read_live(conn, tenant.tenant_id)
        assert live is not None, "a change of model has a live version"
        return embedder_config(tenant.embedder, read_version(conn, live.version).spec)
