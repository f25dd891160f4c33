"""The `fingerprints` asset: which texts were never seen before."""

import dagster as dg

from assets.shown import shown
from kb_pipeline.partitions import TENANTS
from kb_pipeline.resources import KnowledgeBase, plain_failures
from kb_pipeline.stages import fingerprints as stage


@dg.asset(partitions_def=TENANTS, group_name="knowledge_base", kinds={"parquet", "postgres"}, deps=["chunks"])
def fingerprints(context: dg.AssetExecutionContext, kb: KnowledgeBase) -> dg.MaterializeResult[None]:
    """The change set: chunks that are new, reused, moved or removed, told by the SHA-256 of what is embedded.
    Shows the tokens and dollars that `embeddings` is going to spend, before any are spent."""
    with plain_failures():
        summary = kb.ahead(stage.ASSET) or stage.run(kb.stage(context))
    return dg.MaterializeResult(metadata=shown(summary))
