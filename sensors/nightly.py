"""The nightly schedule: one planning pass over all tenants, a run only where there is something to do."""

from collections.abc import Iterator

import dagster as dg

from assets.jobs import kb_run
from kb_pipeline.config.load import load
from kb_pipeline.config.schema import ScheduleConfig
from kb_pipeline.errors import ConfigError, KbError
from kb_pipeline.partitions import add_tenants


def nightly_schedule() -> dg.ScheduleDefinition:
    """The schedule at the time `[schedule] nightly` names; at the default one while the configuration is broken."""
    try:
        when = load().settings.schedule
    except ConfigError:
        when = ScheduleConfig()

    @dg.schedule(
        name="nightly",
        job=kb_run,
        cron_schedule=when.nightly,
        execution_timezone=when.timezone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
    )
    def nightly(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
        """Looks at every tenant's source and plan; requests a run where either says that something changed."""
        from kb_pipeline.due import due_each
        from kb_pipeline.session import open_session

        session = open_session()
        add_tenants(context.instance, session.tenant_ids())
        day = context.scheduled_execution_time.date().isoformat()
        quiet = 0
        for tenant_id, found in due_each(session, session.tenant_ids()):
            if isinstance(found, KbError):
                context.log.error("tenant %s cannot be planned: %s", tenant_id, found)
                continue
            reasons = found.reasons()
            if reasons:
                yield dg.RunRequest(
                    run_key=f"nightly:{tenant_id}:{day}",
                    partition_key=tenant_id,
                    tags={"kb/trigger": "nightly", "kb/reason": "; ".join(reasons)[:250]},
                )
            else:
                quiet += 1
        if quiet == len(session.tenant_ids()):
            yield dg.SkipReason(f"nothing changed for {quiet} tenants")

    return nightly
