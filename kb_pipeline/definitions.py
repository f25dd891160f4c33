"""The composition root: everything Dagster knows of this project, put together in one place."""

from __future__ import annotations

import os
import sys

import dagster as dg

from kb_pipeline.errors import ConfigError


@dg.definitions
def defs() -> dg.Definitions:
    """All assets, checks, jobs, sensors and schedules of the code location `kb_pipeline`."""
    refuse_foreign_server()

    from assets import chunks, documents, embeddings, fingerprints, hnsw_index, live_index
    from assets.jobs import kb_checks, kb_rebuild, kb_run
    from evals import checks, eval_report
    from kb_pipeline.resources import KnowledgeBase
    from sensors.batches import batches_sensor
    from sensors.data_checks import data_checks_schedule
    from sensors.failures import run_failure_sensor
    from sensors.maintenance import maintenance_job, maintenance_schedule
    from sensors.nightly import nightly_schedule
    from sensors.review_reminder import review_reminder_sensor
    from sensors.tenants import tenants_sensor
    from sensors.triggers import TRIGGER_SENSORS

    return dg.Definitions(
        assets=[
            documents.documents,
            chunks.chunks,
            fingerprints.fingerprints,
            embeddings.embeddings,
            hnsw_index.hnsw_index,
            eval_report.eval_report,
            live_index.live_index,
        ],
        asset_checks=[*checks.ALL],
        jobs=[kb_run, kb_rebuild, kb_checks, maintenance_job],
        sensors=[tenants_sensor, batches_sensor, review_reminder_sensor, *TRIGGER_SENSORS, run_failure_sensor],
        schedules=[nightly_schedule(), data_checks_schedule, maintenance_schedule()],
        resources={"kb": KnowledgeBase()},
        executor=dg.in_process_executor,
    )


def refuse_foreign_server() -> None:
    """Raises `ConfigError` in a webserver's or daemon's code server that was started without the shared instance."""
    serving = sys.argv[1:3] in (["api", "grpc"], ["code-server", "start"])
    if serving and not (os.environ.get("DAGSTER_HOME") and os.environ.get("DAGSTER_PG_URL")):
        raise ConfigError(
            "this webserver or daemon has no DAGSTER_HOME and DAGSTER_PG_URL, so it would not see the runs of `kb`: "
            "start it with `kb dev`, or let `kb db start` print what to set"
        )
