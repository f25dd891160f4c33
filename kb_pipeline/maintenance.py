"""Maintenance over all tenants: what nothing goes back to is dropped, orphans and dead rows leave, files too."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from kb_pipeline.config.durations import parse_duration
from kb_pipeline.errors import KbError, TenantBusy
from kb_pipeline.index.recover import drop_build_locked, recover
from kb_pipeline.store.builds import standing_builds
from kb_pipeline.store.locks import build_lock
from kb_pipeline.store.maintenance import (
    analyze_table,
    leaving_builds,
    staged_urls,
    tables,
    tenants_with_orphans,
    vacuum,
)
from kb_pipeline.store.orphans import collect_orphans

if TYPE_CHECKING:
    from kb_pipeline.session import Session

log = logging.getLogger(__name__)

WAIT_FOR_BUILD_S = 5.0
"""How long a drop or a VACUUM waits for a build to end before it is left to the next time."""


@dataclass(slots=True)
class Maintained:
    """What was done and what it gave back."""

    recovered: list[str] = field(default_factory=list[str])
    """Left by a crash and put right."""
    dropped_builds: dict[str, str] = field(default_factory=dict[str, str])
    """Build -> tenant and why."""
    index_bytes: int = 0
    """Of the indexes of dropped builds."""
    emptied: dict[str, int] = field(default_factory=dict[str, int])
    """`tenant vN` -> vectors of a retired embedding version that were taken out."""
    dropped_columns: list[int] = field(default_factory=list[int])
    """Embedding versions whose column nobody needed any more."""
    orphans: dict[str, int] = field(default_factory=dict[str, int])
    """Tenant -> contents that were collected after the grace period."""
    vacuumed: dict[str, int] = field(default_factory=dict[str, int])
    """Table -> dead rows that were taken out."""
    analyzed: list[str] = field(default_factory=list[str])
    staged_folders: int = 0
    staged_bytes: int = 0
    causes_forgotten: int = 0
    runs_deleted: int = 0
    """Old Dagster runs with their event logs."""
    skipped: list[str] = field(default_factory=list[str])
    """What could not be done now, with the reason."""


def maintain(session: Session) -> Maintained:
    """Does everything once; each part that cannot be done now is skipped with its reason. Safe beside runs."""
    done = Maintained()
    found = recover(session.db)
    done.recovered = [*(f"build {build} marked failed" for build in found.failed_builds), *found.dropped_indexes]
    for part in (_builds, _versions, _orphans, _tables, _staging, _causes):
        try:
            part(session, done)
        except KbError as error:
            done.skipped.append(str(error))
    log.info("maintenance: %s", in_words(done))
    return done


def _builds(session: Session, done: Maintained) -> None:
    with session.db.connect("owner") as conn:
        leaving = leaving_builds(conn)
    over = [
        (tenant_id, build_id, "its soak is over" if why == "soak" else why, size)
        for tenant_id, build_id, why, size, seconds in leaving
        if why != "soak" or seconds >= parse_duration(session.settings.tenant(tenant_id).promotion.soak).total_seconds()
    ]
    if not over:
        return
    with build_lock(session.db, wait_s=WAIT_FOR_BUILD_S), session.db.connect("owner", autocommit=True) as conn:
        for tenant_id, build_id, why, size in over:
            if drop_build_locked(conn, tenant_id, build_id):
                done.dropped_builds[str(build_id)] = f"{tenant_id}: {why}"
                done.index_bytes += size


def _versions(session: Session, done: Maintained) -> None:
    from kb_pipeline.migrate.contract import contract

    gone = contract(session)
    done.emptied, done.dropped_columns = gone.emptied, gone.dropped_columns
    done.skipped += gone.skipped


def _orphans(session: Session, done: Maintained) -> None:
    with session.db.connect("owner", autocommit=True) as conn:
        for tenant_id in tenants_with_orphans(conn, timedelta()):
            grace = parse_duration(session.settings.tenant(tenant_id).maintenance.orphan_grace)
            if any(build.state == "building" for build in standing_builds(conn, tenant_id)):
                continue
            if count := collect_orphans(conn, tenant_id, grace):
                done.orphans[tenant_id] = count


def _tables(session: Session, done: Maintained) -> None:
    with session.db.connect("owner", autocommit=True) as conn:
        states = tables(conn)
        for state in states:
            if state.wants_analyze:
                analyze_table(conn, state.name)
                done.analyzed.append(state.name)
        for state in states:
            if not state.wants_vacuum:
                continue
            try:
                with build_lock(session.db, wait_s=WAIT_FOR_BUILD_S):
                    vacuum(conn, state.name)
            except TenantBusy as error:
                done.skipped.append(f"VACUUM {state.name}: {error}")
                continue
            done.vacuumed[state.name] = state.dead


def _staging(session: Session, done: Maintained) -> None:
    """Folders `{tenant}/{asset}/{run_id}` that no stage has registered, when their newest file is old enough."""
    import pyarrow.fs as pafs

    staging = session.staging()
    before = datetime.now(UTC) - parse_duration(session.settings.history.staging)
    with session.db.connect("owner") as conn:
        known = staged_urls(conn)
    fs, root = staging.place()
    newest: dict[str, tuple[datetime, int]] = {}
    for info in fs.get_file_info(pafs.FileSelector(root, allow_not_found=True, recursive=True)):
        parts = info.path.removeprefix(root).strip("/").split("/")
        if info.type != pafs.FileType.File or len(parts) != 4:
            continue
        folder = "/".join(parts[:3])
        time, size = newest.get(folder, (datetime.min.replace(tzinfo=UTC), 0))
        newest[folder] = (max(time, info.mtime or datetime.now(UTC)), size + (info.size or 0))
    for folder, (time, size) in newest.items():
        url = f"{staging.url}/{folder}"
        if url not in known and time < before:
            staging.delete(url)
            done.staged_folders += 1
            done.staged_bytes += size


def _causes(session: Session, done: Maintained) -> None:
    from kb_pipeline.store.fleet_attempts import forget_causes

    with session.db.connect("owner") as conn:
        done.causes_forgotten = forget_causes(conn)


def in_words(done: Maintained) -> str:
    """One line for a person."""
    said = [f"{len(done.dropped_builds)} builds dropped ({done.index_bytes / 2**20:,.1f} MB)"] * bool(
        done.dropped_builds
    )
    said += [f"{sum(done.emptied.values()):,} vectors of {', '.join(done.emptied)} taken out"] * bool(done.emptied)
    said += [f"columns dropped: {', '.join(f'v{n}' for n in done.dropped_columns)}"] * bool(done.dropped_columns)
    said += [f"{sum(done.orphans.values()):,} orphans collected"] * bool(done.orphans)
    said += [f"{sum(done.vacuumed.values()):,} dead rows vacuumed in {', '.join(done.vacuumed)}"] * bool(done.vacuumed)
    said += [f"{len(done.analyzed)} tables analyzed"] * bool(done.analyzed)
    said += [f"{done.staged_folders} staged folders removed ({done.staged_bytes / 2**20:,.1f} MB)"] * bool(
        done.staged_folders
    )
    said += [f"{done.runs_deleted} old runs deleted"] * bool(done.runs_deleted)
    said += [f"{len(done.recovered)} leftovers of a crash put right"] * bool(done.recovered)
    said += [f"skipped: {reason}" for reason in done.skipped]
    return "; ".join(said) or "nothing to do"
