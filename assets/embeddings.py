"""The `embeddings` asset: a vector for every text, and the documents that have them all."""

import dagster as dg

from assets.shown import shown
from kb_pipeline.partitions import TENANTS
from kb_pipeline.resources import KnowledgeBase, plain_failures
from kb_pipeline.stages import embeddings as stage


class EmbeddingsConfig(dg.Config):
    """Run configuration of `embeddings`."""

    max_cost: float | None = None
    """Stop before this many US dollars are spent in this run; what was done is kept."""


@dg.asset(partitions_def=TENANTS, group_name="knowledge_base", kinds={"postgres", "pgvector"}, deps=["fingerprints"])
def embeddings(
    context: dg.AssetExecutionContext, kb: KnowledgeBase, config: EmbeddingsConfig
) -> dg.MaterializeResult[None]:
    """A vector for every content that lacks one; each finished batch is kept at once, so no text is paid for twice.
    A document is replaced when all its contents have vectors; until then its old form stays searchable."""
    with plain_failures():
        summary = stage.run(kb.stage(context), max_cost=config.max_cost)
    return dg.MaterializeResult(metadata=shown(summary))
