"""Asset checks: what must hold in Postgres after an asset was materialized, asked anew and not taken from the run.

A check has one status for all partitions: in a tenant's run it looks at that tenant, executed by itself at all.
"""

from collections.abc import Callable

import dagster as dg

from assets.live_index import how_to_decide
from assets.shown import shown, table
from evals import batches, data_quality
from evals.data_quality import Finding
from kb_pipeline.resources import PARTITION_TAG, KnowledgeBase, plain_failures
from kb_pipeline.stages.context import StageContext
from kb_pipeline.store.versions import read_version, served_versions


@dg.asset_check(asset="embeddings", description="Every content of a committed document has a vector.")
def embeddings_complete(context: dg.AssetCheckExecutionContext, kb: KnowledgeBase) -> dg.AssetCheckResult:
    """Fails when a content that a chunk refers to lacks the vector of the version that serves."""
    from kb_pipeline.store.status import tenant_status

    with plain_failures(), kb.session.db.connect("owner") as conn:
        missing = {name: tenant_status(conn, name).missing_embeddings for name in checked_tenants(context, kb)}
    incomplete = {name: count for name, count in missing.items() if count}
    return dg.AssetCheckResult(
        passed=not incomplete, metadata=shown({"missing": sum(missing.values()), "by_tenant": incomplete})
    )


@dg.asset_check(asset="hnsw_index", description="Every build has its index, and none is INVALID.")
def index_valid(context: dg.AssetCheckExecutionContext, kb: KnowledgeBase) -> dg.AssetCheckResult:
    """Fails when the index of a build is missing or INVALID, or one is there that no build owns."""
    from kb_pipeline.store.health import index_faults

    tenants = checked_tenants(context, kb)
    with plain_failures(), kb.session.db.connect("owner") as conn:
        faults = [fault.finding for fault in index_faults(conn) if fault.tenant_id in tenants]
    return dg.AssetCheckResult(passed=not faults, metadata=shown({"faults": faults}))


@dg.asset_check(asset="eval_report", description="The newest measured build passed.")
def verdict_passed(context: dg.AssetCheckExecutionContext, kb: KnowledgeBase) -> dg.AssetCheckResult:
    """Fails, with the reasons, when the newest eval run says that its build may not go live."""
    from kb_pipeline.store.eval_runs import newest_eval_run

    with plain_failures(), kb.session.db.connect("owner") as conn:
        runs = {name: newest_eval_run(conn, name) for name in checked_tenants(context, kb)}
    failed = {name: run.reasons for name, run in runs.items() if run is not None and run.verdict != "pass"}
    measured = {name: run.build_id for name, run in runs.items() if run is not None}
    return dg.AssetCheckResult(passed=not failed, metadata=shown({"reasons": failed, "builds": measured}))


@dg.asset_check(asset="live_index", description="No build waits for a person's decision.")
def nothing_waits(context: dg.AssetCheckExecutionContext, kb: KnowledgeBase) -> dg.AssetCheckResult:
    """Warns while a build that passed waits in review mode, and shows how to approve or refuse it."""
    from kb_pipeline.store.reviews import waiting_builds

    tenants = [one for one in checked_tenants(context, kb) if kb.session.tenant(one).promotion.mode == "review"]
    with plain_failures(), kb.session.db.connect("owner") as conn:
        waiting = [one for name in tenants for one in waiting_builds(conn, name)]
    how = "\n\n".join(how_to_decide(one.tenant_id, one.build_id) for one in waiting)
    rows = [
        {"tenant": one.tenant_id, "build": one.build_id, "since": one.since, "hours": round(one.hours, 1),
         "report": one.report or ""}
        for one in waiting
    ]  # fmt: skip
    shows = {"waiting": table(rows), "how_to_decide": dg.MetadataValue.md(how)} if waiting else {}
    return dg.AssetCheckResult(passed=not waiting, severity=dg.AssetCheckSeverity.WARN, metadata=shows)


@dg.asset_check(asset="chunks", description="Great Expectations: sizes, places, texts and kinds of the staged chunks.")
def chunks_sound(context: dg.AssetCheckExecutionContext, kb: KnowledgeBase) -> dg.AssetCheckResult:
    """Fails on doubled places, offsets outside the source, sizes over the limit, control characters, a wrong
    fingerprint, or when far more chunks than before are of another kind or language."""

    def findings(ctx: StageContext) -> list[Finding]:
        frame, moved = batches.chunk_frame(ctx), batches.shifts(ctx)
        if frame.empty:
            return []
        return [
            *data_quality.chunk_findings(frame, max_tokens=ctx.tenant.chunking.max_tokens),
            *data_quality.shift_findings(moved),
        ]

    return data_check(context, kb, findings)


@dg.asset_check(asset="embeddings", description="Great Expectations: dims, length and variety of the vectors.")
def vectors_sound(context: dg.AssetCheckExecutionContext, kb: KnowledgeBase) -> dg.AssetCheckResult:
    """Fails on vectors of other dims, of another length than 1, not finite, near-constant, or too often the same."""

    def findings(ctx: StageContext) -> list[Finding]:
        with ctx.db.connect("owner") as conn:
            versions = [read_version(conn, version) for version in served_versions(conn, ctx.tenant_id)]
        return [
            found
            for version in versions
            for found in data_quality.vector_findings(
                batches.vector_frame(ctx, version.version, unit=version.spec.normalize),
                dims=version.spec.dims,
                unit=version.spec.normalize,
            )
        ]

    return data_check(context, kb, findings)


@dg.asset_check(
    asset="hnsw_index", description="Great Expectations: indexes are there, used, and find what is embedded."
)
def index_sound(context: dg.AssetCheckExecutionContext, kb: KnowledgeBase) -> dg.AssetCheckResult:
    """Fails on an index that is missing, INVALID or not used, and when embedded rows are not found through it."""

    def findings(ctx: StageContext) -> list[Finding]:
        frame = batches.index_frame(ctx)
        return [] if frame.empty else data_quality.index_findings(frame)

    return data_check(context, kb, findings)


def data_check(
    context: dg.AssetCheckExecutionContext, kb: KnowledgeBase, findings: Callable[[StageContext], list[Finding]]
) -> dg.AssetCheckResult:
    """The result over the tenants, with every expectation and the offending rows as tables."""
    with plain_failures():
        found = {name: findings(kb.session.stage(name, context.run.run_id)) for name in checked_tenants(context, kb)}
    failed = [(name, one) for name, all_ in found.items() for one in all_ if not one.passed]
    expectations = [
        {"tenant": name, "expectation": one.expected, "passed": one.passed, "unexpected": one.unexpected, "of": one.of}
        for name, all_ in found.items()
        for one in sorted(all_, key=lambda one: one.passed)
    ]
    offending = [
        {"tenant": name, "expectation": one.expected,
         "row": ", ".join(f"{key} = {value}" for key, value in row.items())}
        for name, one in failed
        for row in one.rows
    ]  # fmt: skip
    errors = [name for name, _ in failed if kb.session.tenant(name).eval.check_severity == "error"]
    return dg.AssetCheckResult(
        passed=not failed,
        severity=dg.AssetCheckSeverity.ERROR if errors or not failed else dg.AssetCheckSeverity.WARN,
        metadata={
            "expectations": table(expectations[:200]),
            **({"offending_rows": table(offending[:50])} if offending else {}),
        },
    )


@dg.asset_check(
    asset="live_index", description="What `kb doctor` finds: plans, indexes, dead rows, memory, stored vectors."
)
def doctor(context: dg.AssetCheckExecutionContext, kb: KnowledgeBase) -> dg.AssetCheckResult:
    """Warns of what is wrong, why it matters, and the command that mends it. Never stops a run."""
    from kb_pipeline.diagnose import diagnose

    with plain_failures():
        findings = diagnose(kb.session, checked_tenants(context, kb))
    wrong = [f"{one.check}: {one.finding}. {one.why}. Do: {one.fix}" for one in findings if not one.ok]
    return dg.AssetCheckResult(
        passed=not wrong,
        severity=dg.AssetCheckSeverity.WARN,
        metadata=shown({"wrong": wrong, "looked_at": len(findings)}),
    )


def checked_tenants(context: dg.AssetCheckExecutionContext, kb: KnowledgeBase) -> list[str]:
    """The run's tenant, or all of them where the check was executed by itself."""
    tenant_id = context.run.tags.get(PARTITION_TAG)
    return [tenant_id] if tenant_id else kb.session.tenant_ids()


ALL = (
    embeddings_complete,
    index_valid,
    verdict_passed,
    nothing_waits,
    chunks_sound,
    vectors_sound,
    index_sound,
    doctor,
)
