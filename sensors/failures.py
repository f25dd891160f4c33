"""The sensor that tells people of failed runs."""

from datetime import datetime

import dagster as dg

from kb_pipeline.resources import PARTITION_TAG


@dg.run_failure_sensor(name="run_failures", minimum_interval_seconds=30, default_status=dg.DefaultSensorStatus.RUNNING)
def run_failure_sensor(context: dg.RunFailureSensorContext) -> None:
    """Tells the webhook or mail address of `[alerts]` what failed for which tenant, once for each cause."""
    from kb_pipeline.alerts import Failure, tell
    from kb_pipeline.fleet import open_fleet

    run = context.dagster_run
    subject = run.tags.get(PARTITION_TAG, run.job_name)
    step, message = failed_step(context)
    fleet = open_fleet()
    told = tell(
        fleet.db,
        fleet.settings.alerts,
        Failure(subject, run.job_name, run.run_id, step, message),
        well_since=last_success(context.instance, run),
    )
    context.log.info(f"{subject}: {told}")


def failed_step(context: dg.RunFailureSensorContext) -> tuple[str, str]:
    """(step, one message) of what failed first: the engine's own words where there are some."""
    for event in context.get_step_failure_events():
        data = event.step_failure_data
        said = data.user_failure_data.description if data.user_failure_data else None
        error = data.error.message if data.error else ""
        return event.step_key or "", (said or error or str(event.message)).strip()
    return "", (context.failure_event.message or "the run failed").strip()


def last_success(instance: dg.DagsterInstance, run: dg.DagsterRun) -> datetime | None:
    """When the same job last ended well for the same tenant."""
    tags = {PARTITION_TAG: run.tags[PARTITION_TAG]} if PARTITION_TAG in run.tags else {}
    good = dg.RunsFilter(job_name=run.job_name, statuses=[dg.DagsterRunStatus.SUCCESS], tags=tags)
    return next((record.update_timestamp for record in instance.get_run_records(good, limit=1)), None)
