"""One Dagster run in this process: the lock, the run, and what came of it."""

from __future__ import annotations

import gc
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from kb_pipeline.errors import BatchesPending, KbError
from kb_pipeline.session import CURRENT, Ahead, Session, process_mark

if TYPE_CHECKING:
    import dagster as dg


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run of one tenant came to."""

    tenant: str
    run_id: str | None
    """None: nothing was to be done, so no run was started."""
    exit_code: int
    message: str
    assets: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    """Metadata of each asset that was materialized."""


def execute(
    session: Session,
    tenant_id: str,
    *,
    job_name: str,
    assets: tuple[str, ...],
    op_config: Mapping[str, Mapping[str, Any]] | None = None,
    trigger: str = "command",
) -> tuple[str, dict[str, dict[str, Any]]]:
    """Materialize these assets for the tenant in this process; the run's id and each asset's metadata.

    The caller holds the tenant's lock. Raises the engine's own error where a stage raised one.
    """
    from kb_pipeline.cli.ahead import StagesAhead
    from kb_pipeline.cli.instance import PROCESS_TAG, fail_dead_runs, open_instance

    run_id = str(uuid4())
    config = {name: dict(options) for name, options in (op_config or {}).items() if name in assets}
    with (
        StagesAhead(session, tenant_id, run_id=run_id, assets=assets, op_config=config) as ahead,
        ExitStack() as stack,
    ):
        with _kept_for_good():
            import dagster as dg

            from kb_pipeline.definitions import defs
            from kb_pipeline.partitions import add_tenants
            from kb_pipeline.resources import WAITS_FOR

            instance = stack.enter_context(open_instance(session))

        fail_dead_runs(instance)
        add_tenants(instance, [tenant_id])
        job = part(defs().resolve_job_def(job_name), assets)
        with active(session, tenant_id, ahead):
            try:
                result = job.execute_in_process(
                    instance=instance,
                    run_id=run_id,
                    partition_key=tenant_id,
                    run_config={
                        "ops": {name: {"config": options} for name, options in config.items()},
                        "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
                    },
                    tags={
                        PROCESS_TAG: process_mark(),
                        "kb/trigger": trigger,
                        ".dagster/repository": "__repository__@kb_pipeline",
                    },
                )
            except dg.Failure as failure:
                cause = failure.__cause__
                raise cause if isinstance(cause, KbError) else KbError(str(failure.description)) from None
    for observed in result.get_asset_observation_events():
        waits = observed.asset_observation_data.asset_observation.metadata.get(WAITS_FOR)
        if waits is not None:
            raise BatchesPending(str(waits.value))
    return result.run_id, {
        event.asset_key.to_user_string(): facts(event.step_materialization_data.materialization.metadata)
        for event in result.get_asset_materialization_events()
        if event.asset_key is not None
    }


@contextmanager
def _kept_for_good() -> Generator[None]:
    """Imports make a million objects that stay: the collector need not walk them, now (a fifth of it) or later."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_on:
            gc.enable()


def part(job: dg.JobDefinition, assets: tuple[str, ...]) -> dg.JobDefinition:
    """The job for these assets and the checks it has for them. `execute_in_process(asset_selection=...)` would add the
    checks the job leaves out: those of Great Expectations, seconds of import and 150 MB.
    """
    import dagster as dg

    keys = {dg.AssetKey(name) for name in assets}
    if keys == job.asset_layer.selected_asset_keys:
        return job
    checks = {check for check in job.asset_layer.asset_graph.asset_check_keys if check.asset_key in keys}
    return job.get_subset(asset_selection=keys, asset_check_selection=checks)


def facts(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """An asset's metadata as plain values; tables and pictures are for the UI only."""
    plain = {name: value.value for name, value in metadata.items() if type(value).__name__ not in _FOR_THE_UI}
    return {name: value for name, value in plain.items() if isinstance(value, str | int | float | bool | list | dict)}


_FOR_THE_UI = ("MarkdownMetadataValue", "TableMetadataValue")


@contextmanager
def active(session: Session, tenant_id: str, ahead: Ahead) -> Generator[None]:
    """Make this session the one the run's resource takes: same database, lock held, progress on the terminal."""
    token = CURRENT.set(replace(session, locked=session.locked | {tenant_id}, ahead=ahead))
    try:
        yield
    finally:
        CURRENT.reset(token)
