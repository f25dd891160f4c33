"""Stage `hnsw_index`: makes a candidate build when the plan says so."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from kb_pipeline.config.durations import parse_duration
from kb_pipeline.errors import StaleStage
from kb_pipeline.index.build import Built, build_exact, build_hnsw
from kb_pipeline.index.desired import desired_state
from kb_pipeline.index.recover import recover
from kb_pipeline.planner.model import Build
from kb_pipeline.planner.plan import plan
from kb_pipeline.stages.context import StageContext
from kb_pipeline.store.actual import actual_state
from kb_pipeline.store.orphans import collect_orphans
from kb_pipeline.store.versions import Version, read_version


@dataclass(frozen=True, slots=True)
class IndexSummary:
    """What was built, or why nothing was."""

    build_id: int | None
    """None: nothing had to be built."""
    reason: str
    method: str | None = None
    slot: str | None = None
    version: int | None = None
    params: dict[str, int | str] = field(default_factory=dict[str, int | str])
    rows: int = 0
    seconds: float = 0.0
    rows_per_second: float = 0.0
    bytes: int = 0
    memory_used_mb: int = 0
    """`maintenance_work_mem` that was set, computed from the rows."""
    memory_allowed_mb: int = 0
    workers: int = 0
    orphans_collected: int = 0
    dropped_build: int | None = None
    """An earlier build that gave up its slot."""
    recovered: list[str] = field(default_factory=list[str])
    """Left by a crash and put right: builds marked failed, indexes dropped."""


def run(ctx: StageContext, *, rebuild: bool = False) -> IndexSummary:
    """Carries out the plan's build, if there is one; `rebuild` asks for one in any case.

    Raises `StaleStage` when vectors are missing still, `IndexBuildError` when the build is refused or fails: what is
    live stays.
    """
    found = recover(ctx.db)
    recovered = [*(f"build {build_id} marked failed" for build_id in found.failed_builds), *found.dropped_indexes]
    with ctx.db.connect("owner") as conn:
        actual = actual_state(conn, ctx.tenant_id)
    action = plan(desired_state(ctx.tenant), actual, rebuild=rebuild).rebuild
    if action is None:
        return IndexSummary(None, "the build there is answers the configuration", recovered=recovered)
    version = _complete_version(ctx, action)
    with ctx.db.connect("owner", autocommit=True) as conn:
        orphans = collect_orphans(conn, ctx.tenant_id, parse_duration(ctx.tenant.maintenance.orphan_grace))
    built = (
        build_exact(ctx.db, ctx.tenant_id, action, version, run_id=ctx.run_id)
        if action.method == "exact"
        else build_hnsw(
            ctx.db, ctx.tenant_id, action, version, ctx.tenant.index, run_id=ctx.run_id, progress=ctx.progress
        )
    )
    return _summary(action, version, built, orphans, recovered)


def _complete_version(ctx: StageContext, action: Build) -> Version:
    if action.version is None:
        raise StaleStage("the configured embedder has no vectors yet: materialize embeddings first")
    with ctx.db.connect("owner") as conn:
        facts = next((one for one in actual_state(conn, ctx.tenant_id).versions if one.version == action.version), None)
        if facts is None or facts.state is None or facts.missing:
            missing = "all" if facts is None or facts.state is None else str(facts.missing)
            raise StaleStage(f"{missing} contents lack a vector of v{action.version}: materialize embeddings first")
        return read_version(conn, action.version)


def _summary(action: Build, version: Version, built: Built, orphans: int, recovered: list[str]) -> IndexSummary:
    return IndexSummary(
        build_id=built.build_id,
        reason=action.reason,
        method=action.method,
        slot=built.slot,
        version=version.version,
        params=asdict(action.params) if action.params else {},
        rows=built.rows,
        seconds=round(built.seconds, 3),
        rows_per_second=round(built.rows / built.seconds, 1) if built.seconds else 0.0,
        bytes=built.bytes,
        memory_used_mb=built.memory_mb,
        memory_allowed_mb=built.allowed_mb,
        workers=built.workers,
        orphans_collected=orphans,
        dropped_build=built.dropped,
        recovered=recovered,
    )
