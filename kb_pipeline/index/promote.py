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
    db: Database, tenant_id: str, build_id: int, *, by: str, why: str | None = None, force: bool = False
) -> Switched:
    """Makes a measured build live. Its newest verdict is read in the same transaction; a live build is left as it is.

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
            switch(conn, tenant_id, build_id, by=by, why=why, eval_id=evaluated.eval_id if evaluated else None)
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
    assert now is not None
    return Switched(tenant_id, now.build_id, now.version, now.previous_build_id, by, now.why)


def _standing(conn: Connection[TupleRow], tenant_id: str, build_id: int) -> BuildRow:
    build = read_build(conn, tenant_id, build_id)
    if build is None:
        raise ConfigError(f"tenant {tenant_id} has no build {build_id}: `kb builds --tenant {tenant_id}` lists them")
    if build.state not in ("candidate", "live", "previous"):
        raise ConfigError(f"build {build_id} is {build.state} and cannot go live: `kb rebuild` makes a new one")
    return build
