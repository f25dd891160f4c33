"""What Dagster sees: a rename is a visible difference here, and the engine stays free of Dagster."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")

ROOT = Path(__file__).parent.parent
CHAIN = ("documents", "chunks", "fingerprints", "embeddings", "hnsw_index", "eval_report", "live_index")


def test_names_are_those_that_people_know() -> None:
    from kb_pipeline.definitions import defs

    repository = defs().get_repository_def()
    assert {key.to_user_string() for key in repository.asset_graph.get_all_asset_keys()} == set(CHAIN)
    assert {f"{key.asset_key.to_user_string()}:{key.name}" for key in repository.asset_graph.asset_check_keys} == {
        "embeddings:embeddings_complete",
        "hnsw_index:index_valid",
        "eval_report:verdict_passed",
        "live_index:doctor",
        "chunks:chunks_sound",
        "embeddings:vectors_sound",
        "hnsw_index:index_sound",
        "live_index:nothing_waits",
    }
    assert {job.name for job in repository.get_all_jobs() if not job.name.startswith("__")} == {
        "kb_run",
        "kb_rebuild",
        "kb_checks",
        "maintenance",
    }
    assert {sensor.name for sensor in repository.sensor_defs} == {
        "tenants",
        "batches",
        "review_reminder",
        "growth",
        "churn",
        "parameters",
        "model",
        "quality",
        "run_failures",
    }
    assert {schedule.name for schedule in repository.schedule_defs} == {"nightly", "maintenance", "data_checks"}


def test_every_asset_is_partitioned_by_tenant_and_follows_the_one_before() -> None:
    from kb_pipeline.definitions import defs
    from kb_pipeline.partitions import PARTITIONS_NAME

    graph = defs().get_repository_def().asset_graph
    for key in graph.get_all_asset_keys():
        node = graph.get(key)
        assert getattr(node.partitions_def, "name", None) == PARTITIONS_NAME
        place = CHAIN.index(key.to_user_string())
        assert {parent.to_user_string() for parent in node.parent_keys} == set(CHAIN[max(place - 1, 0) : place])


def test_every_asset_says_in_two_lines_what_it_does() -> None:
    from kb_pipeline.definitions import defs

    graph = defs().get_repository_def().asset_graph
    for key in graph.get_all_asset_keys():
        assert len((graph.get(key).description or "").splitlines()) == 2, key


def test_the_command_line_names_the_same_chain() -> None:
    from assets.jobs import CHAIN as jobs
    from kb_pipeline.cli.run import ASSETS

    assert jobs == ASSETS == CHAIN


def test_a_part_of_the_chain_has_the_checks_of_the_job_and_not_the_slow_ones() -> None:
    from kb_pipeline.cli.execute import part
    from kb_pipeline.definitions import defs

    job = part(defs().resolve_job_def("kb_run"), CHAIN[:4])
    layer = job.asset_layer
    assert {key.to_user_string() for key in layer.selected_asset_keys} == set(CHAIN[:4])
    assert {check.name for check in layer.asset_graph.asset_check_keys} == {"embeddings_complete"}


def test_workspace_and_project_name_the_same_location() -> None:
    import tomllib

    import yaml

    module = yaml.safe_load((ROOT / "workspace.yaml").read_text())["load_from"][0]["python_module"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["dg"]["project"]
    assert module["location_name"] == project["code_location_name"] == "kb_pipeline"
    assert module["module_name"] == project["code_location_target_module"]


def test_the_nightly_schedule_follows_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sensors.nightly import nightly_schedule

    (tmp_path / "kb.toml").write_text('[schedule]\nnightly = "30 4 * * *"\ntimezone = "Europe/Berlin"\n')
    monkeypatch.setenv("KB_CONFIG", str(tmp_path / "kb.toml"))
    schedule = nightly_schedule()
    assert (schedule.cron_schedule, schedule.execution_timezone) == ("30 4 * * *", "Europe/Berlin")


def test_the_engine_and_quick_commands_import_no_dagster() -> None:
    """Stages, store, search and the command line's start: none of them may pull Dagster in."""
    code = (
        "import sys, pkgutil, importlib, kb_pipeline\n"
        "outside = ('kb_pipeline.definitions', 'kb_pipeline.resources', 'kb_pipeline.partitions')\n"
        "for module in pkgutil.walk_packages(kb_pipeline.__path__, 'kb_pipeline.'):\n"
        "    if module.name not in outside:\n"
        "        importlib.import_module(module.name)\n"
        "from kb_pipeline.cli.app import build_app\n"
        "build_app()\n"
        "assert not [name for name in sys.modules if name.split('.')[0].startswith('dagster')]\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
