"""The Dagster instance that `kb` and the UI share: its folder, its environment, and runs left by a killed process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import kb_pipeline
from kb_pipeline.errors import KbError
from kb_pipeline.home import kb_home
from kb_pipeline.session import Session, process_lives
from kb_pipeline.store.database import dagster_dsn

if TYPE_CHECKING:
    import dagster as dg

PROCESS_TAG = "kb/process"
"""`host:pid:start` of the `kb` process that executes the run."""


def shipped(name: str) -> Path:
    """A file that stands at the top of the project, or inside the package where that was installed from a wheel."""
    package = Path(kb_pipeline.__file__).parent
    for place in (package.parent / name, package / "files" / name):
        if place.is_file():
            return place
    raise KbError(f"{name} is missing from the installation of kb_pipeline; install it again")


def instance_folder() -> Path:
    """`dagster` under KB_HOME, with our dagster.yaml in it: whole at any moment, since others may start just now and
    would take an empty one for "keep everything in SQLite"."""
    folder = kb_home() / "dagster"
    folder.mkdir(parents=True, exist_ok=True)
    wanted, target = shipped("dagster.yaml").read_text(), folder / "dagster.yaml"
    if not target.is_file() or target.read_text() != wanted:
        draft = folder / f"dagster.yaml.{os.getpid()}"
        draft.write_text(wanted)
        draft.replace(target)
    return folder


def dagster_environment(session: Session) -> dict[str, str]:
    """The variables a webserver, a daemon or a run needs; writes the instance's folder under KB_HOME."""
    folder = instance_folder()
    environment = {
        "DAGSTER_HOME": str(folder),
        "DAGSTER_PG_URL": dagster_dsn(session.db),
        "KB_HOME": str(kb_home()),
        "DAGSTER_DISABLE_TELEMETRY": "yes",
    }
    if session.configuration.path:
        environment["KB_CONFIG"] = str(session.configuration.path)
    return environment


def open_instance(session: Session) -> dg.DagsterInstance:
    """The shared instance. Imports Dagster: about 2.5 seconds, so only commands that run something call this."""
    import dagster as dg

    for name, value in dagster_environment(session).items():
        if name.startswith("DAGSTER_"):  # the KB_ ones are for other processes; here they would outlive this session
            os.environ[name] = value
    return dg.DagsterInstance.get()


def fail_dead_runs(instance: dg.DagsterInstance) -> list[str]:
    """Mark runs whose `kb` process on this host is gone as failed and free what they held; their ids."""
    import dagster as dg

    going = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.NOT_STARTED]
    dead: list[str] = []
    for run in instance.get_runs(dg.RunsFilter(statuses=going)):
        mark = run.tags.get(PROCESS_TAG)
        if mark and process_lives(mark) is False:
            instance.report_run_failed(
                run, f"process {mark} ended without finishing this run; run `kb run` again to go on"
            )
            if instance.event_log_storage.supports_global_concurrency_limits:
                instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
            dead.append(run.run_id)
    return dead
