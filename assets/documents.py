"""The `documents` asset: what the source holds now."""

import dagster as dg

from assets.shown import shown
from kb_pipeline.partitions import TENANTS
from kb_pipeline.resources import KnowledgeBase, plain_failures
from kb_pipeline.stages import documents as stage


class DocumentsConfig(dg.Config):
    """Run configuration of `documents`."""

    allow_mass_delete: bool = False
    """Go on although the source lists far fewer documents than are indexed (`[sources] max_delete_fraction`)."""


@dg.asset(partitions_def=TENANTS, group_name="knowledge_base", kinds={"python", "parquet"})
def documents(
    context: dg.AssetExecutionContext, kb: KnowledgeBase, config: DocumentsConfig
) -> dg.MaterializeResult[None]:
    """What the tenant's source holds now, compared with what is indexed: new, changed, renamed, deleted, unchanged.
    Reads only what may have changed and writes a manifest; nothing is deleted or embedded yet."""
    with plain_failures():
        summary = kb.ahead(stage.ASSET) or stage.run(kb.stage(context), allow_mass_delete=config.allow_mass_delete)
    return dg.MaterializeResult(metadata=shown(summary))
