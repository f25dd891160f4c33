"""The schedule of the data checks: once a day, after the nightly runs."""

import dagster as dg

from assets.jobs import kb_checks

data_checks_schedule = dg.ScheduleDefinition(
    name="data_checks",
    job=kb_checks,
    cron_schedule="0 6 * * *",
    description="Checks the data of all tenants with Great Expectations.",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
