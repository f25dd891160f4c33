"""Asset checks: what must hold in Postgres after an asset was materialized, asked anew and not taken from the run.

A check has one status for all partitions: in a tenant's run it looks at that tenant, executed by itself at all.
"""

import dagster as dg

from assets.shown import shown
from kb_pipeline.resources import PARTITION_TAG, KnowledgeBase, plain_failures


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


def checked_tenants(context: dg.AssetCheckExecutionContext, kb: KnowledgeBase) -> list[str]:
    """The run's tenant, or all of them where the check was executed by itself."""
    tenant_id = context.run.tags.get(PARTITION_TAG)
    return [tenant_id] if tenant_id else kb.session.tenant_ids()


ALL = (embeddings_complete, index_valid, verdict_passed)
