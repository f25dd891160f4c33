"""The `hnsw_index` asset: a build beside the live one."""

import dagster as dg

from assets.shown import shown
from kb_pipeline.partitions import TENANTS
from kb_pipeline.resources import KnowledgeBase, plain_failures
from kb_pipeline.stages import hnsw_index as stage

INDEX_POOL = "index_builds"


class IndexConfig(dg.Config):
    """Run configuration of `hnsw_index`."""

    rebuild: bool = False
    """Build a candidate also when the live build is fine."""


@dg.asset(
    partitions_def=TENANTS,
    group_name="knowledge_base",
    kinds={"postgres", "pgvector"},
    deps=["embeddings"],
    pool=INDEX_POOL,
)
def hnsw_index(context: dg.AssetExecutionContext, kb: KnowledgeBase, config: IndexConfig) -> dg.MaterializeResult[None]:
    """A candidate build in the free slot when the plan asks for one; a small tenant is scanned exactly instead.
    Searches go on against the live build and never see the candidate before it was measured and promoted."""
    with plain_failures():
        summary = stage.run(kb.stage(context), rebuild=config.rebuild)
    return dg.MaterializeResult(metadata=shown(summary))
