"""The last step of a change of model: what the old version took is given back. Repeatable, also after a crash."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kb_pipeline.errors import KbError, TenantBusy
from kb_pipeline.index.recover import drop_build
from kb_pipeline.store.bridges import drop_bridges
from kb_pipeline.store.index_ddl import leaf_partition
from kb_pipeline.store.locks import build_lock, tenant_lock
from kb_pipeline.store.migrations_state import read_migration
from kb_pipeline.store.retire import (
    drop_unused_columns,
    indexed_by,
    null_column,
    retire_versions,
    retired_versions,
    superseded_builds,
    vacuum_partition,
)
from kb_pipeline.store.versions import find_version

if TYPE_CHECKING:
    from kb_pipeline.config.schema import EmbedderConfig
    from kb_pipeline.session import Session
    from kb_pipeline.store.database import Database

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Contracted:
    """What was given back."""

    emptied: dict[str, int] = field(default_factory=dict[str, int])
    """`tenant vN` -> vectors that were taken out."""
    dropped_columns: list[int] = field(default_factory=list[int])
    vacuumed: list[str] = field(default_factory=list[str])
    skipped: list[str] = field(default_factory=list[str])
    """What could not be done now, with the reason."""


def contract(session: Session) -> Contracted:
    """All tenants, then the columns. A tenant that is busy, or whose configuration cannot be read, is left out."""
    from kb_pipeline.store.overview import tenant_rows

    with session.db.connect("owner") as conn:
        tenants = [str(row["tenant"]) for row in tenant_rows(conn)]
    done = Contracted()
    leaves: set[str] = set()
    for tenant_id in tenants:
        try:
            listed = tenant_id not in session.stored
            wanted = session.settings.tenant(tenant_id) if listed else session.tenant(tenant_id)
            with tenant_lock(session.db, tenant_id, wait_s=0):
                leaves |= contract_tenant(session.db, tenant_id, wanted.embedder, done)
        except (KbError, ValueError) as error:
            done.skipped.append(f"{tenant_id}: {error}")
    done.dropped_columns.extend(drop_unused_columns(session.db))
    _vacuum(session.db, leaves, done)
    return done


def contract_tenant(db: Database, tenant_id: str, configured: EmbedderConfig, done: Contracted) -> set[str]:
    """One tenant, whose lock the caller holds; partitions in which rows lost a vector.

    Versions that are neither live, nor in soak, nor configured, nor paused are retired and emptied. A column that an
    index of another tenant covers stays as it is until that index goes: emptying it would not be HOT, and the live
    index of this tenant would grow with every row.
    """
    from kb_pipeline.embed.registry import resolve_spec

    leaves: set[str] = set()
    with db.connect("owner", autocommit=True) as conn:
        keep = [find_version(conn, resolve_spec(configured))]
        migration = read_migration(conn, tenant_id)
        if migration is not None and migration.state == "paused":
            from kb_pipeline.embed.protocol import EmbedderSpec

            keep.append(find_version(conn, EmbedderSpec(**migration.target)))
        kept = [version for version in keep if version is not None]
        for build_id in superseded_builds(conn, tenant_id, kept):
            drop_build(db, tenant_id, build_id)
        retire_versions(conn, tenant_id, kept)
        drop_bridges(conn, tenant_id)
        leaf = leaf_partition(conn, tenant_id)
        for version in retired_versions(conn, tenant_id):
            if covering := indexed_by(conn, leaf, version):
                done.skipped.append(f"{tenant_id} v{version} is not emptied: {', '.join(covering)} covers its column")
                continue
            rows = sum(null_column(conn, tenant_id, version))
            if rows:
                done.emptied[f"{tenant_id} v{version}"] = rows
                leaves.add(leaf)
                log.info("took %d vectors of v%d out of tenant %s", rows, version, tenant_id)
    return leaves


def _vacuum(db: Database, leaves: set[str], done: Contracted) -> None:
    with db.connect("owner", autocommit=True) as conn:
        for leaf in sorted(leaves):
            try:
                with build_lock(db, wait_s=5.0):
                    vacuum_partition(conn, leaf)
                done.vacuumed.append(leaf)
            except TenantBusy as error:
                done.skipped.append(f"VACUUM {leaf}: {error}")
