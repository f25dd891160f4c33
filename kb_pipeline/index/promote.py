"""Makes a build live, or goes back: one transaction that searches do not feel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import Connection
from psycopg.rows import TupleRow

from kb_pipeline.errors import ConfigError, GateRefused, NotLive
from kb_pipeline.store.builds import BuildRow, read_build
from kb_pipeline.store.eval_runs import EvalRun, newest_eval_run
from kb_pipeline.store.live import lock_builds, read_live, switch
from kb_pipeline.store.migrations_state import settle_switch
from kb_pipeline.store.reviews import Made, add_decision

if TYPE_CHECKING:
    from kb_pipeline.store.database import Database


@dataclass(frozen=True, slots=True)
class Switched:
    """What a promotion or a rollback did."""

    tenant: str
    build_id: int
    version: int
    previous_build_id: int | None
    by: str
    why: str | None


def promote(
    db: Database,
    tenant_id: str,
    build_id: int,
    *,
    by: str,
    why: str | None = None,
    force: bool = False,
    person: bool = True,
) -> Switched:
    """Makes a measured build live. Its newest verdict is read in the same transaction; a live build is left as it is.

    `person`: somebody decided it, so the decision is kept beside the build; a run in `auto` mode leaves none.

    `force` overrides a missing or failed verdict and needs `why`, which is kept. Raises `GateRefused` with the reasons,
    `ConfigError` for a build that cannot go live.
    """
    if force and not why:
        raise ConfigError("a promotion by force needs a reason (--why), which is kept with the decision")
    with db.connect("owner") as conn, conn.transaction():
        lock_builds(conn, tenant_id)
        build = _standing(conn, tenant_id, build_id)
        evaluated = newest_eval_run(conn, tenant_id, build_id)
        if build.state != "live":
            if not force:
                check_gate(build_id, evaluated)
            eval_id = evaluated.eval_id if evaluated else None
            before = read_live(conn, tenant_id)
            switch(conn, tenant_id, build_id, by=by, why=why, eval_id=eval_id)
            settle_switch(conn, tenant_id, before.version if before else None, build.version, back=False, by=by)
            if person:
                made: Made = "approved" if evaluated and evaluated.verdict == "pass" else "forced"
                add_decision(conn, tenant_id, build_id, eval_id=eval_id, decision=made, by=by, why=why)
        live = read_live(conn, tenant_id)
    assert live is not None
    return Switched(tenant_id, live.build_id, live.version, live.previous_build_id, live.promoted_by, live.why)


def check_gate(build_id: int, evaluated: EvalRun | None) -> None:
    """Raises `GateRefused` unless the build's newest eval run passed."""
    if evaluated is None:
        raise GateRefused(f"build {build_id} was not measured: run `kb eval`, or materialize eval_report, first")
    if evaluated.verdict != "pass":
        reasons = "; ".join(evaluated.reasons) or "no reason was stored"
        raise GateRefused(
            f"build {build_id} may not go live: {reasons}. What is live stays; to override: kb promote "
            f"{build_id} --force --why '...'"
        )


def reject(db: Database, tenant_id: str, build_id: int, *, by: str, why: str) -> None:
    """Refuses a candidate: it is not promoted by any run and not built again as long as nothing asks for another one.
    It stays until a newer build goes live; `promote` can still change the decision. Raises `ConfigError`."""
    if not why.strip():
        raise ConfigError("refusing a build needs a reason (--why), which is kept with the decision")
    with db.connect("owner") as conn, conn.transaction():
        lock_builds(conn, tenant_id)
        build = _standing(conn, tenant_id, build_id)
        if build.state != "candidate":
            raise ConfigError(f"build {build_id} is {build.state}: only a candidate can be refused")
        evaluated = newest_eval_run(conn, tenant_id, build_id)
        eval_id = evaluated.eval_id if evaluated else None
        add_decision(conn, tenant_id, build_id, eval_id=eval_id, decision="rejected", by=by, why=why)


def rollback(db: Database, tenant_id: str, *, by: str, why: str | None = None) -> Switched:
    """Goes back to the build that was live before; a second rollback goes forward again. Raises `NotLive` when there is
    none."""
    with db.connect("owner") as conn, conn.transaction():
        lock_builds(conn, tenant_id)
        live = read_live(conn, tenant_id)
        if live is None:
            raise NotLive(f"tenant {tenant_id} serves nothing yet, so there is nothing to go back to")
        if live.previous_build_id is None:
            raise NotLive(
                f"build {live.build_id} of tenant {tenant_id} has no previous build: the soak time is over, or "
                "it is the first"
            )
        evaluated = newest_eval_run(conn, tenant_id, live.previous_build_id)
        switch(
            conn, tenant_id, live.previous_build_id, by=by, why=why or f"rollback from build {live.build_id}",
            eval_id=evaluated.eval_id if evaluated else None,
        )  # fmt: skip
        now = read_live(conn, tenant_id)
        if now is not None:
            settle_switch(conn, tenant_id, live.version, now.version, back=True, by=by)
    assert now is not None
    return Switched(tenant_id, now.build_id, now.version, now.previous_build_id, by, now.why)


def _standing(conn: Connection[TupleRow], tenant_id: str, build_id: int) -> BuildRow:
    build = read_build(conn, tenant_id, build_id)
    if build is None:
        raise ConfigError(f"tenant {tenant_id} has no build {build_id}: `kb builds --tenant {tenant_id}` lists them")
    if build.state not in ("candidate", "live", "previous"):
        raise ConfigError(f"build {build_id} is {build.state} and cannot go live: `kb rebuild` makes a new one")
    return build
