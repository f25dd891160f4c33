"""The `eval_report` asset: the measurements of a build, for people to read."""

import dagster as dg

from assets.shown import shown
from kb_pipeline.partitions import TENANTS
from kb_pipeline.resources import KnowledgeBase, plain_failures


class EvalConfig(dg.Config):
    """Run configuration of `eval_report`."""

    build_id: int | None = None
    """The build to measure; by default the newest candidate, else the live build."""
    golden: str | None = None
    """Folder of a golden set in BEIR layout; by default what `[eval] golden` says."""


@dg.asset(partitions_def=TENANTS, group_name="knowledge_base", kinds={"python", "postgres"}, deps=["hnsw_index"])
def eval_report(context: dg.AssetExecutionContext, kb: KnowledgeBase, config: EvalConfig) -> dg.MaterializeResult[None]:
    """Measures the candidate beside the live build: recall against the exact answer, quality, latency, coverage.
    The verdict is stored in Postgres, where `live_index` reads it again; nothing goes live unmeasured."""
    from evals.run import evaluate

    with plain_failures():
        summary = evaluate(kb.stage(context), build_id=config.build_id, golden=config.golden)
    return dg.MaterializeResult(
        metadata={
            "report": dg.MetadataValue.md(summary.markdown),
            "file": dg.MetadataValue.path(summary.html_path),
            **shown(summary.headline),
            **shown(summary, without=("markdown", "html_path", "headline", "data")),
        }
    )
