"""The `chunks` asset: changed documents in pieces."""

import dagster as dg

from assets.shown import picture, shown, table
from kb_pipeline.partitions import TENANTS
from kb_pipeline.resources import KnowledgeBase, plain_failures
from kb_pipeline.stages import chunks as stage


@dg.asset(partitions_def=TENANTS, group_name="knowledge_base", kinds={"python", "parquet"}, deps=["documents"])
def chunks(context: dg.AssetExecutionContext, kb: KnowledgeBase) -> dg.MaterializeResult[None]:
    """The changed documents, cut at headings, paragraphs, functions and elements, sized in the embedder's tokens.
    The same document and settings always give the same chunks; each knows its place in the source."""
    with plain_failures():
        summary = kb.ahead(stage.ASSET) or stage.run(kb.stage(context))
    return dg.MaterializeResult(
        metadata={
            "sizes": picture("Chunks by size", x="tokens", y="chunks", counts=summary.sizes),
            **shown(summary, without=("sizes", "samples")),
            "samples": table([{"text": sample["text"], **sample} for sample in summary.samples]),
        }
    )
