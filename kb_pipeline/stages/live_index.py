"""Stage `live_index`: what the tenant is searched through, and the gate before it changes."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta

from kb_pipeline.config.durations import parse_duration
from kb_pipeline.errors import StaleStage
from kb_pipeline.index.promote import check_gate, promote
from kb_pipeline.index.recover import drop_build
from kb_pipeline.stages.context import StageContext
from kb_pipeline.store.builds import BuildRow, standing_builds
from kb_pipeline.store.eval_runs import newest_eval_run
from kb_pipeline.store.live import LiveRow, read_live


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
    reasons: list[str] = field(default_factory=list[str])
    dropped_builds: list[int] = field(default_factory=list[int])
    """Builds whose soak was over."""


def run(ctx: StageContext, *, by: str) -> LiveSummary:
    """Promotes the newest candidate if its stored verdict and the review mode allow, and drops what is past its soak.

    Raises `GateRefused` with the reasons when the candidate did not pass, `StaleStage` when it was not measured: what
    is live stays.
    """
    tenant_id = ctx.tenant_id
    with ctx.db.connect("owner") as conn:
        candidate = _newest_candidate(standing_builds(conn, tenant_id))
        evaluated = newest_eval_run(conn, tenant_id, candidate.build_id) if candidate else None
    waiting: int | None = None
    promoted = False
    if candidate is not None:
        if evaluated is None:
            raise StaleStage(f"build {candidate.build_id} was not measured: materialize eval_report first")
        check_gate(candidate.build_id, evaluated)
        if ctx.tenant.promotion.mode == "review":
            waiting = candidate.build_id
        else:
            promote(ctx.db, tenant_id, candidate.build_id, by=by)
            promoted = True
    dropped = drop_past_soak(ctx, parse_duration(ctx.tenant.promotion.soak))
    with ctx.db.connect("owner") as conn:
        live = read_live(conn, tenant_id)
    if live is None and waiting is None:
        raise StaleStage(f"tenant {tenant_id} has no build yet: materialize hnsw_index first")
    return _summary(tenant_id, live, promoted, waiting, list(evaluated.reasons) if evaluated else [], dropped)


def drop_past_soak(ctx: StageContext, soak: timedelta) -> list[int]:
    """Drops the tenant's previous builds that were kept long enough, or that nothing goes back to any more."""
    with ctx.db.connect("owner") as conn:
        live = read_live(conn, ctx.tenant_id)
        builds = standing_builds(conn, ctx.tenant_id)
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
    return [build_id for build_id in leaving if drop_build(ctx.db, ctx.tenant_id, build_id)]


def _newest_candidate(builds: list[BuildRow]) -> BuildRow | None:
    """The candidate that decides. One that is older than the live build was passed over."""
    live = max((build.build_id for build in builds if build.state in ("live", "previous")), default=0)
    return max(
        (build for build in builds if build.state == "candidate" and build.build_id > live),
        key=lambda build: build.build_id,
        default=None,
    )


def _summary(
    tenant_id: str, live: LiveRow | None, promoted: bool, waiting: int | None, reasons: list[str], dropped: list[int]
) -> LiveSummary:
    back = "there is no previous build to go back to"
    if live is not None and live.previous_build_id is not None:
        back = f"kb rollback --tenant {tenant_id}  (to build {live.previous_build_id})"
    if waiting is not None:
        reasons = [
            *reasons,
            f"build {waiting} passed and waits for a person: kb promote {waiting} --tenant {tenant_id}",
        ]
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
        reasons=reasons,
        dropped_builds=dropped,
    )
