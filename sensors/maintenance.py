"""The maintenance job and its schedule."""

from dataclasses import asdict

import dagster as dg

from assets.shown import shown
from kb_pipeline.config.durations import parse_duration
from kb_pipeline.config.load import load
from kb_pipeline.config.schema import ScheduleConfig
from kb_pipeline.errors import ConfigError
from kb_pipeline.resources import KnowledgeBase, plain_failures
from sensors.old_runs import purge_old_runs


@dg.op(out=dg.Out(dagster_type=dg.Nothing))
def maintain(context: dg.OpExecutionContext, kb: KnowledgeBase) -> None:
    """Drops what is past its soak or was refused, collects orphans, vacuums and analyzes what needs it, and removes old
    event logs and staged files that nobody registered."""
    from kb_pipeline import maintenance

    with plain_failures():
        done = maintenance.maintain(kb.session)
        done.runs_deleted = purge_old_runs(context.instance, parse_duration(kb.session.settings.history.keep))
    context.log.info(maintenance.in_words(done))
    context.add_output_metadata(shown({"summary": maintenance.in_words(done), **asdict(done)}))


@dg.job(name="maintenance", description="Give back what nothing needs any more: builds, orphans, dead rows, old logs.")
def maintenance_job() -> None:
    """One op over all tenants."""
    maintain()


def maintenance_schedule() -> dg.ScheduleDefinition:
    """The schedule at the time `[schedule] maintenance` names; at the default one while the configuration is broken."""
    try:
        when = load().settings.schedule
    except ConfigError:
        when = ScheduleConfig()
    return dg.ScheduleDefinition(
        name="maintenance",
        job=maintenance_job,
        cron_schedule=when.maintenance,
        execution_timezone=when.timezone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
    )
