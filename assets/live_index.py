"""The `live_index` asset: what the tenant is searched through."""

import dagster as dg

from assets.shown import shown
from kb_pipeline.errors import ConfigError
from kb_pipeline.partitions import TENANTS
from kb_pipeline.resources import KnowledgeBase, plain_failures
from kb_pipeline.stages import live_index as stage


class Approve(dg.Config):
    """A person's approval of the build that waits (`[promotion] mode = "review"`)."""

    build_id: int
    """The waiting build, as this asset's metadata and `kb status` name it."""
    by: str
    """Who approves."""
    why: str
    """Why; kept with the decision."""


class LiveConfig(dg.Config):
    """Run configuration of `live_index`."""

    approve: Approve | None = None
    """Makes the waiting build live; heeded only where this asset is materialized alone, after its report was read."""


@dg.asset(partitions_def=TENANTS, group_name="knowledge_base", kinds={"postgres", "pgvector"}, deps=["eval_report"])
def live_index(context: dg.AssetExecutionContext, kb: KnowledgeBase, config: LiveConfig) -> dg.MaterializeResult[None]:
    """Promotes the measured candidate, in one transaction, if its stored verdict and the review mode allow it.
    Shows what is live, since when and by whom; `kb rollback` goes back to the build before."""
    with plain_failures():
        summary = stage.run(kb.stage(context), by=f"run {context.run.run_id}", approve=approval(context, config))
    return dg.MaterializeResult(
        metadata={
            "go_back": dg.MetadataValue.md(f"`{summary.go_back}`"),
            **(
                {"review": dg.MetadataValue.md(how_to_decide(summary.tenant, summary.waiting))}
                if summary.waiting
                else {}
            ),
            **shown(summary, without=("go_back",)),
        }
    )


def approval(context: dg.AssetExecutionContext, config: LiveConfig) -> stage.Approval | None:
    """What the run's configuration approves. Raises `ConfigError` in a run that does other work before it."""
    if config.approve is None:
        return None
    if context.selected_asset_keys != {context.asset_key} or context.run.asset_selection != {context.asset_key}:
        raise ConfigError(
            "`approve` is heeded only where live_index is materialized alone: in this run the build could be measured "
            "anew after its report was read"
        )
    return stage.Approval(config.approve.build_id, config.approve.by, config.approve.why)


def how_to_decide(tenant_id: str, build_id: int) -> str:
    """The three ways to decide on a waiting build, as Markdown."""
    return (
        f"**Build {build_id} passed and waits for a person.** Read `eval_report`, then materialize `live_index` alone "
        f"(Shift-click *Materialize*, or the launchpad) with\n\n"
        "```yaml\nops:\n  live_index:\n    config:\n      approve:\n"
        f"        build_id: {build_id}\n        by: your name\n        why: what convinced you\n```\n\n"
        f"or `kb promote {build_id} --tenant {tenant_id} --why '...'`; to refuse it: "
        f"`kb reject {build_id} --tenant {tenant_id} --why '...'`."
    )
