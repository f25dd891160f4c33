"""The `live_index` asset: what the tenant is searched through."""

import dagster as dg

from assets.shown import shown
from kb_pipeline.partitions import TENANTS
from kb_pipeline.resources import KnowledgeBase, plain_failures
from kb_pipeline.stages import live_index as stage


@dg.asset(partitions_def=TENANTS, group_name="knowledge_base", kinds={"postgres", "pgvector"}, deps=["eval_report"])
def live_index(context: dg.AssetExecutionContext, kb: KnowledgeBase) -> dg.MaterializeResult[None]:
    """Promotes the measured candidate, in one transaction, if its stored verdict and the review mode allow it.
    Shows what is live, since when and by whom; `kb rollback` goes back to the build before."""
    with plain_failures():
        summary = stage.run(kb.stage(context), by=f"run {context.run.run_id}")
    return dg.MaterializeResult(
        metadata={"go_back": dg.MetadataValue.md(f"`{summary.go_back}`"), **shown(summary, without=("go_back",))}
    )
