"""What every trigger's sensor does: ask the engine what is due, look at the runs asked for before, request new ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

import dagster as dg

from assets.jobs import CHAIN, kb_run
from kb_pipeline.fleet import DueTenant, desired_states, due_tenants, fire, open_fleet
from kb_pipeline.partitions import PARTITIONS_NAME
from kb_pipeline.planner.firing import Firing, LastRun
from kb_pipeline.resources import PARTITION_TAG

RUN_KEY_TAG = "dagster/run_key"
MOST = 50
"""Runs that one tick asks for: the queue is worked off before more are added."""
INDEX_ASSETS = CHAIN[CHAIN.index("hnsw_index") :]
UNDER_WAY = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
ENDED: dict[dg.DagsterRunStatus, LastRun] = {
    dg.DagsterRunStatus.FAILURE: "failed",
    dg.DagsterRunStatus.CANCELED: "failed",
    dg.DagsterRunStatus.SUCCESS: "succeeded",
}


def trigger_sensor(name: str, description: str, *, assets: tuple[str, ...] = INDEX_ASSETS) -> dg.SensorDefinition:
    """The sensor of one trigger. It never asks twice for one cause; a run that failed is asked for again, later and
    later."""

    @dg.sensor(
        name=name,
        description=description,
        job=kb_run,
        minimum_interval_seconds=120,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        fleet = open_fleet()
        due = due_tenants(fleet.db, desired_states(fleet.settings, fleet.tenant_ids), (name,))
        if not due:
            return dg.SkipReason(f"{name}: none of {len(fleet.tenant_ids):,} tenants is over its threshold")
        partitions = set(context.instance.get_dynamic_partitions(PARTITIONS_NAME))
        busy = tenants_with_runs(context.instance)
        decided = fire(
            fleet.db,
            [one for one in due if one.tenant_id in partitions - busy],
            last_runs(context.instance, (one.run_key for one in due)),
            now=datetime.now(UTC),
        )
        requests = [request(one, found, assets) for one, found in decided if found.run_key][:MOST]
        message = words(name, decided, len(requests), [one.tenant_id for one in due if one.tenant_id in busy])
        context.log.info(message)
        return dg.SensorResult(run_requests=requests) if requests else dg.SkipReason(message)

    return sensor


def request(due: DueTenant, found: Firing, assets: tuple[str, ...]) -> dg.RunRequest:
    """A run of the tenant's index assets, with the numbers in its tags."""
    numbers = {f"kb/{key}": f"{value:g}" for key, value in due.trigger.numbers}
    return dg.RunRequest(
        run_key=found.run_key,
        partition_key=due.tenant_id,
        asset_selection=[dg.AssetKey(asset) for asset in assets],
        tags={
            "kb/trigger": due.trigger.name,
            "kb/cause": due.cause,
            "kb/reason": due.trigger.reason[:250],
            "kb/attempt": str(found.attempts.failed),
            **numbers,
        },
    )


def last_runs(instance: dg.DagsterInstance, keys: Iterable[str]) -> dict[str, LastRun]:
    """What came of the runs with these keys; nothing for a key that no run had."""
    asked = list(keys)
    found: dict[str, LastRun] = {}
    for start in range(0, len(asked), 500):
        for run in instance.get_runs(dg.RunsFilter(tags={RUN_KEY_TAG: asked[start : start + 500]})):
            found.setdefault(run.tags[RUN_KEY_TAG], ENDED.get(run.status, "going"))
    return found


def tenants_with_runs(instance: dg.DagsterInstance) -> set[str]:
    """Tenants with a run queued or under way, whoever asked for it: it does what is due, and what is left is seen by
    the next tick. One that has not ended for a day is not waited for."""
    asked = dg.RunsFilter(statuses=UNDER_WAY, created_after=datetime.now(UTC) - timedelta(days=1))
    return {run.tags[PARTITION_TAG] for run in instance.get_runs(asked) if PARTITION_TAG in run.tags}


def words(name: str, decided: list[tuple[DueTenant, Firing]], requested: int, busy: Sequence[str] = ()) -> str:
    """The tick's message: what fires with its numbers, and why the others do not."""
    fires = [one for one, found in decided if found.run_key]
    waits = Counter(found.words.split(",")[0] for _, found in decided if not found.run_key)
    said = [f"{one.tenant_id}: {one.trigger.reason}" for one in fires[:5]]
    if len(fires) > 5:
        said.append(f"and {len(fires) - 5} more, {requested} asked for now")
    said += [f"{count} wait: {why}" for why, count in waits.most_common(3)]
    said += [f"{len(busy)} wait: a run is queued or under way"] * bool(busy)
    return f"{name}: " + ("; ".join(said) or "nothing")
