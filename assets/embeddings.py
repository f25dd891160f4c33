"""The `embeddings` asset: a vector for every text, and the documents that have them all."""

from collections.abc import Iterator

import dagster as dg

from assets.shown import shown
from kb_pipeline.errors import BatchesPending
from kb_pipeline.partitions import TENANTS
from kb_pipeline.resources import WAITS_FOR, KnowledgeBase, plain_failures, tenant_of
from kb_pipeline.stages import embeddings as stage


class EmbeddingsConfig(dg.Config):
    """Run configuration of `embeddings`."""

    max_cost: float | None = None
    """Stop before this many US dollars are spent in this run; what was done is kept."""


@dg.asset(
    partitions_def=TENANTS,
    group_name="knowledge_base",
    kinds={"postgres", "pgvector"},
    deps=["fingerprints"],
    output_required=False,
)
def embeddings(
    context: dg.AssetExecutionContext, kb: KnowledgeBase, config: EmbeddingsConfig
) -> Iterator[dg.MaterializeResult[None]]:
    """A vector for every content that lacks one; each finished batch is kept at once, so no text is paid for twice.
    A document is replaced when all its contents have vectors; until then its old form stays searchable."""
    with plain_failures():
        try:
            summary = stage.run(kb.stage(context), max_cost=config.max_cost)
        except BatchesPending as waits:  # no failure: the run ends here, and a later one goes on
            context.log_event(
                dg.AssetObservation("embeddings", partition=tenant_of(context), metadata={WAITS_FOR: str(waits)})
            )
            context.instance.add_run_tags(context.run.run_id, {f"kb/{WAITS_FOR}": "batch jobs"})
            return
    yield dg.MaterializeResult(metadata=shown(summary))
