"""Stage `live_index`: what the tenant is searched through, and the gate before it changes."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

from kb_pipeline.config.durations import parse_duration
from kb_pipeline.errors import ConfigError, StaleStage
from kb_pipeline.index.promote import check_gate, promote
from kb_pipeline.index.recover import drop_build
from kb_pipeline.stages.context import StageContext
from kb_pipeline.store.builds import BuildRow, note_refusal, standing_builds
from kb_pipeline.store.eval_runs import EvalRun, newest_eval_run
from kb_pipeline.store.live import LiveRow, read_live
from kb_pipeline.store.reviews import Decision, newest_decision

if TYPE_CHECKING:
    from kb_pipeline.store.database import Database

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Approval:
    """A person's word that the waiting build may go live."""

    build_id: int
    """The waiting one: no approval in advance, and none of whatever comes next."""
    by: str
    why: str


@dataclass(frozen=True, slots=True)
class LiveSummary:
    """What is live, since when, by whom, and how to go back."""

    tenant: str
    promoted: bool
    """This run changed what is live."""
    build_id: int | None
    version: int | None
    method: str | None
    model: str | None
    dims: int | None
    since: str | None
    by: str | None
    why: str | None
    eval_id: int | None
    previous_build_id: int | None
    go_back: str
    """The command that undoes the last switch, or why there is none."""
    waiting: int | None = None
    """A build that passed and waits for a person (`[promotion] mode = "review"`)."""
    refused: int | None = None
    """A build that did not pass (`[promotion] on_refusal = "warn"`, or an earlier run was failed for it), or that a
    person refused."""
    reasons: list[str] = field(default_factory=list[str])
    dropped_builds: list[int] = field(default_factory=list[int])
    """Builds whose soak was over."""


def run(ctx: StageContext, *, by: str, approve: Approval | None = None) -> LiveSummary:
    """Promotes the newest candidate if its stored verdict and the review mode allow, and drops what is past its soak.

    A build that a person refused is not promoted. Raises `ConfigError` for an approval of another build than the one
    that waits, `GateRefused` with the reasons when the candidate did not pass, once for each time it was measured and
    not with `on_refusal = "warn"`; `StaleStage` when it was not measured. What is live stays.
    """
    tenant_id = ctx.tenant_id
    with ctx.db.connect("owner") as conn:
        candidate = _newest_candidate(standing_builds(conn, tenant_id))
        evaluated = newest_eval_run(conn, tenant_id, candidate.build_id) if candidate else None
        decided = newest_decision(conn, tenant_id, candidate.build_id) if candidate else None
    if approve is not None:
        _check_approval(tenant_id, approve, candidate)
    waiting: int | None = None
    refused: int | None = None
    promoted = False
    if candidate is not None:
        if evaluated is None:
            raise StaleStage(f"build {candidate.build_id} was not measured: materialize eval_report first")
        if evaluated.verdict != "pass":
            refused = candidate.build_id
            if approve is not None:
                check_gate(candidate.build_id, evaluated)
            _tell_refusal(ctx, refused, evaluated)
        elif approve is not None:
            promote(ctx.db, tenant_id, candidate.build_id, by=approve.by, why=approve.why)
            promoted = True
        elif decided is not None and decided.decision == "rejected":
            refused = candidate.build_id
        elif ctx.tenant.promotion.mode == "review":
            waiting = candidate.build_id
        else:
            promote(ctx.db, tenant_id, candidate.build_id, by=by, person=False)
            promoted = True
    dropped = drop_past_soak(ctx.db, tenant_id, parse_duration(ctx.tenant.promotion.soak))
    with ctx.db.connect("owner") as conn:
        live = read_live(conn, tenant_id)
    if live is None and waiting is None and refused is None:
        raise StaleStage(f"tenant {tenant_id} has no build yet: materialize hnsw_index first")
    reasons = list(evaluated.reasons) if evaluated else []
    if refused is not None and decided is not None and decided.decision == "rejected":
        reasons = [_refusal(decided)]
    return _summary(tenant_id, live, promoted, waiting, refused, reasons, dropped)


def _check_approval(tenant_id: str, approve: Approval, candidate: BuildRow | None) -> None:
    if not approve.by.strip() or not approve.why.strip():
        raise ConfigError("an approval says by whom and why: approve: {build_id, by, why}")
    if candidate is None:
        raise ConfigError(f"build {approve.build_id} was approved, but no build of tenant {tenant_id} waits")
    if candidate.build_id != approve.build_id:
        raise ConfigError(
            f"build {approve.build_id} was approved, but build {candidate.build_id} of tenant {tenant_id} waits: "
            "read its report and approve that one"
        )


def _refusal(decision: Decision) -> str:
    return f"refused by {decision.by} at {decision.at}: {decision.why}"


def _tell_refusal(ctx: StageContext, build_id: int, evaluated: EvalRun) -> None:
    """Fails the first run that comes here after the candidate was measured, as configured: later ones have other work
    to do, and nothing to add."""
    with ctx.db.connect("owner") as conn:
        first = note_refusal(conn, ctx.tenant_id, build_id, evaluated.eval_id)
    if first and ctx.tenant.promotion.on_refusal == "fail":
        check_gate(build_id, evaluated)
    log.warning("build %d was refused in eval run %d: %s", build_id, evaluated.eval_id, "; ".join(evaluated.reasons))


def drop_past_soak(db: Database, tenant_id: str, soak: timedelta) -> list[int]:
    """Drops the tenant's previous builds that were kept long enough, or that nothing goes back to any more."""
    with db.connect("owner") as conn:
        live = read_live(conn, tenant_id)
        builds = standing_builds(conn, tenant_id)
    if live is None:
        return []
    leaving = [
        build.build_id
        for build in builds
        if (
            build.state == "previous"
            and (build.build_id != live.previous_build_id or build.since_s >= soak.total_seconds())
        )
        or (build.state == "candidate" and build.build_id < live.build_id)
    ]
    return [build_id for build_id in leaving if drop_build(db, tenant_id, build_id)]


def _newest_candidate(builds: list[BuildRow]) -> BuildRow | None:
    """The candidate that decides. One that is older than the live build was passed over."""
    live = max((build.build_id for build in builds if build.state in ("live", "previous")), default=0)
    return max(
        (build for build in builds if build.state == "candidate" and build.build_id > live),
        key=lambda build: build.build_id,
        default=None,
    )


def _summary(
    tenant_id: str,
    live: LiveRow | None,
    promoted: bool,
    waiting: int | None,
    refused: int | None,
    reasons: list[str],
    dropped: list[int],
) -> LiveSummary:
    back = "there is no previous build to go back to"
    if live is not None and live.previous_build_id is not None:
        back = f"kb rollback --tenant {tenant_id}  (to build {live.previous_build_id})"
    if waiting is not None:
        reasons = [
            *reasons,
            f"build {waiting} passed and waits for a person: kb promote {waiting} --tenant {tenant_id} --why '...', or "
            f"kb reject {waiting} --tenant {tenant_id} --why '...'",
        ]
    if refused is not None:
        reasons = [f"build {refused} was refused and is not served", *reasons]
    return LiveSummary(
        tenant=tenant_id,
        promoted=promoted,
        build_id=live.build_id if live else None,
        version=live.version if live else None,
        method=live.method if live else None,
        model=live.model if live else None,
        dims=live.dims if live else None,
        since=live.promoted_at.isoformat(timespec="seconds") if live else None,
        by=live.promoted_by if live else None,
        why=live.why if live else None,
        eval_id=live.eval_id if live else None,
        previous_build_id=live.previous_build_id if live else None,
        go_back=back,
        waiting=waiting,
        refused=refused,
        reasons=reasons,
        dropped_builds=dropped,
    )
