"""The sensor that asks the provider about batch jobs, and runs the tenants whose jobs have ended."""

from datetime import UTC, datetime

import dagster as dg

from assets.jobs import kb_run


@dg.sensor(
    name="batches",
    job=kb_run,
    minimum_interval_seconds=300,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def batches_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Looks at jobs that were submitted; requests a run of a tenant when one of its jobs has ended, to collect it."""
    from kb_pipeline.batch_watch import ended_jobs
    from kb_pipeline.session import open_session

    watched = ended_jobs(open_session())
    for tenant_id, error in watched.errors.items():
        context.log.error("batch jobs of tenant %s cannot be asked about: %s", tenant_id, error)
    now = datetime.now(UTC)
    requests = [
        dg.RunRequest(
            # with the hour: a run that could not collect is followed by another
            run_key=f"batches:{tenant_id}:{'-'.join(str(job) for job in jobs)}:{now:%Y-%m-%dT%H}",
            partition_key=tenant_id,
            tags={"kb/trigger": "batches", "kb/reason": f"{len(jobs)} batch jobs have ended"},
        )
        for tenant_id, jobs in watched.ended.items()
    ]
    if not requests:
        return dg.SkipReason(f"{watched.open} batch jobs are at the provider, none has ended")
    return dg.SensorResult(run_requests=requests)
