"""Old Dagster runs and their event logs: they grow without end, and nobody looks back that far."""

from datetime import UTC, datetime, timedelta

import dagster as dg

from kb_pipeline.resources import PARTITION_TAG

ENDED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
MOST = 1000
"""Runs that are looked at in one go."""


def purge_old_runs(instance: dg.DagsterInstance, keep: timedelta, *, most: int = MOST) -> int:
    """Delete ended runs that were last updated before so long, with their events; how many. The newest good run of each
    tenant and job stays, because the UI shows from it what is materialized."""
    before = datetime.now(UTC) - keep
    newest: dict[tuple[str, str], str | None] = {}
    deleted = 0
    old = instance.get_runs(dg.RunsFilter(statuses=ENDED, updated_before=before), limit=most, ascending=True)
    for run in old:
        if run.status is dg.DagsterRunStatus.SUCCESS:
            place = (run.job_name, run.tags.get(PARTITION_TAG, ""))
            if place not in newest:
                tags = {PARTITION_TAG: place[1]} if place[1] else {}
                good = dg.RunsFilter(job_name=place[0], statuses=[dg.DagsterRunStatus.SUCCESS], tags=tags)
                newest[place] = next((one.run_id for one in instance.get_runs(good, limit=1)), None)
            if newest[place] == run.run_id:
                continue
        instance.delete_run(run.run_id)
        deleted += 1
    return deleted
