"""What is due over all tenants: the sensors' question, answered from one statement and the planner."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from kb_pipeline.config.schema import Settings, Shared
from kb_pipeline.errors import KbError
from kb_pipeline.planner.firing import Attempts, Firing, LastRun, cause_of, firing, run_key
from kb_pipeline.planner.model import Desired
from kb_pipeline.planner.plan import need
from kb_pipeline.planner.triggers import Trigger

if TYPE_CHECKING:
    from kb_pipeline.store.database import Database

log = logging.getLogger(__name__)

TRIGGERS = ("growth", "churn", "parameters", "model", "quality")


@dataclass(frozen=True, slots=True)
class DueTenant:
    """A tenant with a trigger that has something to do."""

    tenant_id: str
    trigger: Trigger
    cause: str
    attempts: Attempts = Attempts()

    @property
    def run_key(self) -> str:
        """The key a run is asked for with, while no further run of the cause has failed."""
        return run_key(self.trigger.name, self.tenant_id, self.cause, self.attempts.failed)


@dataclass(frozen=True, slots=True)
class Fleet:
    """Settings, database and all tenants, for one who looks at all of them: nothing is written."""

    settings: Settings
    db: Database
    tenant_ids: list[str]


_LOADED: dict[tuple[str, int, int], Settings] = {}
"""The newest configuration this process has read: validating 10,000 tenants takes seconds, and sensors ask often.
"""


def open_fleet() -> Fleet:
    """Like `open_session`, without bringing the file's tenants to Postgres (a sensor of its own does that)."""
    import os

    from kb_pipeline.config.load import find_file, load
    from kb_pipeline.migrate.holds import held_back
    from kb_pipeline.store.database import open_database
    from kb_pipeline.store.migrations_state import read_holds
    from kb_pipeline.store.tenants import unlisted_tenants

    path = find_file(None, os.environ)
    stat = path.stat() if path else None
    key = (str(path), stat.st_mtime_ns if stat else 0, stat.st_size if stat else 0)
    if path is None or key not in _LOADED:
        _LOADED.clear()
        _LOADED[key] = load().settings
    settings = _LOADED[key]
    db = open_database()
    with db.connect("owner") as conn:
        stored = unlisted_tenants(conn, list(settings.tenants))
        holds = read_holds(conn)
    names = [*settings.tenants, *stored]
    held, unlisted = held_back(settings, stored, holds)
    own = {name: unlisted[name] for name in holds if name in unlisted}
    settings = held.model_copy(update={"tenants": {**held.tenants, **own}})
    return Fleet(settings, db, names)


def desired_states(settings: Settings, tenant_ids: list[str]) -> dict[str, Desired]:
    """What each tenant should be. Tenants with the same overrides are resolved once; one that cannot be is left out."""
    from dataclasses import replace

    from kb_pipeline.index.desired import desired_state

    known: dict[str, Desired | None] = {}
    found: dict[str, Desired] = {}
    for tenant_id in tenant_ids:
        raw = settings.tenants.get(tenant_id, {})
        own = {name: raw[name] for name in raw if name in Shared.model_fields}
        key = json.dumps(own, sort_keys=True, default=str) if own else ""
        if key not in known:
            try:
                known[key] = desired_state(settings.tenant(tenant_id))
            except KbError as error:
                log.error("tenant %s cannot be planned: %s", tenant_id, error)
                known[key] = None
        one = known[key]
        if one is not None:
            found[tenant_id] = replace(one, tenant_id=tenant_id)
    return found


def due_tenants(db: Database, wanted: Mapping[str, Desired], triggers: tuple[str, ...] = TRIGGERS) -> list[DueTenant]:
    """Tenants for which one of these triggers has something to build, measure or promote."""
    from kb_pipeline.store.fleet import over_threshold
    from kb_pipeline.store.fleet_attempts import read_attempts

    with db.connect("owner") as conn:
        due = [
            DueTenant(actual.tenant_id, trigger, cause_of(trigger, wanted[actual.tenant_id], actual))
            for actual in over_threshold(conn, wanted, triggers)
            if (trigger := need(wanted[actual.tenant_id], actual)) is not None and trigger.name in triggers
        ]
        attempts = read_attempts(conn, [(one.tenant_id, one.trigger.name, one.cause) for one in due])
    return [
        DueTenant(one.tenant_id, one.trigger, one.cause, attempts.get(key, one.attempts))
        for one in due
        for key in [(one.tenant_id, one.trigger.name, one.cause)]
    ]


def fire(
    db: Database,
    due: list[DueTenant],
    last_runs: Mapping[str, LastRun],
    *,
    now: datetime,
    error_of: Callable[[DueTenant], str] = lambda _: "",
) -> list[tuple[DueTenant, Firing]]:
    """Decides for each tenant, from what came of the runs with their present keys, and writes failed attempts down."""
    from kb_pipeline.store.fleet_attempts import keep_attempts

    decided = [
        (
            one,
            firing(
                one.trigger.name, one.tenant_id, one.cause, one.attempts, last_runs.get(one.run_key, "none"), now=now
            ),
        )  # fmt: skip
        for one in due
    ]
    changed = {
        (one.tenant_id, one.trigger.name, one.cause): (found.attempts, error_of(one))
        for one, found in decided
        if found.attempts != one.attempts
    }
    if changed:
        with db.connect("owner") as conn:
            keep_attempts(conn, changed)
    return decided
