"""Sensors as Dagster runs them: one request for a cause, another after it failed; old runs leave."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from index_helpers import Corpus, build, clustered, load, measured, serve

from kb_pipeline.config.schema import EmbedderConfig
from kb_pipeline.embed.registry import resolve_spec
from kb_pipeline.store.database import Database

pytestmark = [
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:dagster"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

SPEC = resolve_spec(EmbedderConfig())


@pytest.fixture
def grown(kb_env: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Database:
    """Tenant acme with a live index, and 30 % more contents than it was built with."""
    toml = tmp_path / "kb.toml"
    toml.write_text('[index]\nexact_below = 50\npreset = "dev"\n[tenants.acme]\nsource = "docs"\n')
    monkeypatch.setenv("KB_CONFIG", str(toml))
    serve(kb_env, load(kb_env, "acme", clustered(100, SPEC.dims), spec=SPEC))
    with kb_env.connect("owner") as conn:
        conn.execute("UPDATE kb.tenants SET contents = 130, inserted_total = 130")
    return kb_env


def tick(instance: Any) -> Any:
    import dagster as dg

    from sensors.growth import growth_sensor

    context = dg.build_sensor_context(instance=instance)
    return growth_sensor(context)


def test_a_cause_is_asked_for_once_and_again_after_a_failure(grown: Database) -> None:
    import dagster as dg

    from kb_pipeline.partitions import add_tenants

    with dg.instance_for_test() as instance:
        add_tenants(instance, ["acme"])
        first = tick(instance).run_requests[0]
        assert first.run_key.startswith("growth:acme:b") and first.run_key.endswith(":0")
        assert (first.partition_key, first.tags["kb/contents"], first.tags["kb/rows_at_build"]) == (
            "acme",
            "130",
            "100",
        )
        run = instance.create_run_for_job(_job(), tags={"dagster/run_key": first.run_key, "dagster/partition": "acme"})
        waits = tick(instance)
        assert isinstance(waits, dg.SkipReason) and "under way" in str(waits.skip_message)
        instance.report_run_failed(run)
        second = tick(instance).run_requests[0]
        assert second.run_key == first.run_key[:-1] + "1"
        assert (first.tags["kb/attempt"], second.tags["kb/attempt"]) == ("0", "1")
        again = instance.create_run_for_job(_job(), tags={"dagster/run_key": second.run_key})
        instance.report_run_failed(again)
        rests = tick(instance)
        assert isinstance(rests, dg.SkipReason) and "2 runs failed" in str(rests.skip_message)
    with grown.connect("owner") as conn:
        assert conn.execute("SELECT trigger, attempts FROM kb.trigger_attempts").fetchall() == [("growth", 2)]


def test_a_run_that_somebody_else_asked_for_is_waited_for(grown: Database) -> None:
    import dagster as dg

    from kb_pipeline.partitions import add_tenants

    with dg.instance_for_test() as instance:
        add_tenants(instance, ["acme"])
        run = instance.create_run_for_job(_job(), tags={"dagster/partition": "acme"})
        waits = tick(instance)
        assert isinstance(waits, dg.SkipReason) and "a run is queued or under way" in str(waits.skip_message)
        instance.report_run_failed(run)
        assert len(tick(instance).run_requests) == 1
    with grown.connect("owner") as conn:
        assert conn.execute("SELECT count(*) FROM kb.trigger_attempts").fetchone() == (0,), "it was not this cause's"


def test_a_candidate_that_waits_for_a_person_answers_the_cause(grown: Database, tmp_path: Path) -> None:
    import dagster as dg

    from kb_pipeline.partitions import add_tenants
    from sensors.parameters import parameters_sensor

    toml = tmp_path / "kb.toml"
    toml.write_text(
        '[index]\nexact_below = 50\npreset = "dev"\nm = 10\n[promotion]\nmode = "review"\n'
        '[tenants.acme]\nsource = "docs"\n'
    )
    with grown.connect("owner") as conn:
        conn.execute("UPDATE kb.tenants SET contents = 100, inserted_total = 100")
    with dg.instance_for_test() as instance:
        add_tenants(instance, ["acme"])
        assert len(parameters_sensor(dg.build_sensor_context(instance=instance)).run_requests) == 1
        corpus = Corpus("acme", 1, clustered(1, SPEC.dims), [], [])
        candidate = build(grown, corpus, m=10).build_id
        measured(grown, "acme", candidate, "pass")
        for _ in range(3):
            assert isinstance(parameters_sensor(dg.build_sensor_context(instance=instance)), dg.SkipReason)
            assert isinstance(tick(instance), dg.SkipReason)


def test_nothing_over_a_threshold_is_a_reason(grown: Database) -> None:
    import dagster as dg

    with grown.connect("owner") as conn:
        conn.execute("UPDATE kb.tenants SET contents = 129")
    with dg.instance_for_test() as instance:
        skipped = tick(instance)
    assert isinstance(skipped, dg.SkipReason) and "none of 1 tenants" in str(skipped.skip_message)


def test_old_runs_leave_but_the_newest_good_one_of_each_tenant(tmp_path: Path) -> None:
    import dagster as dg

    from sensors.old_runs import purge_old_runs

    with dg.instance_for_test() as instance:
        for tenant in ("a", "a", "b"):
            run = instance.create_run_for_job(_job(), tags={"dagster/partition": tenant})
            instance.report_dagster_event(
                dg.DagsterEvent(event_type_value="PIPELINE_SUCCESS", job_name=run.job_name), run.run_id
            )
        failed = instance.create_run_for_job(_job())
        instance.report_run_failed(failed)
        assert purge_old_runs(instance, timedelta(days=1)) == 0
        assert purge_old_runs(instance, timedelta(seconds=-60)) == 2
        assert sorted(run.tags["dagster/partition"] for run in instance.get_runs()) == ["a", "b"]


def test_the_failure_sensor_tells_what_failed(grown: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    import dagster as dg

    from kb_pipeline import alerts
    from sensors.failures import run_failure_sensor

    told: list[Any] = []
    monkeypatch.setattr(alerts, "tell", lambda db, config, failure, well_since: told.append(failure) or "told")

    @dg.op
    def broken() -> None:
        raise dg.Failure("the provider is down")

    @dg.job(name="kb_run")
    def job() -> None:
        broken()

    with dg.instance_for_test() as instance:
        result = job.execute_in_process(instance=instance, raise_on_error=False, tags={"dagster/partition": "acme"})
        context = dg.build_run_status_sensor_context(
            "run_failures", result.get_run_failure_event(), instance, result.dagster_run
        ).for_run_failure()
        run_failure_sensor(context)
    assert [(one.subject, one.job, one.step, one.message) for one in told] == [
        ("acme", "kb_run", "broken", "the provider is down")
    ]


def test_the_maintenance_job_says_what_it_did(grown: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    import dagster as dg

    from kb_pipeline.resources import KnowledgeBase
    from sensors.maintenance import maintenance_job, maintenance_schedule

    with dg.instance_for_test() as instance:
        result = maintenance_job.execute_in_process(instance=instance, resources={"kb": KnowledgeBase()})
        assert result.success
        event = next(each for each in result.all_events if each.event_type_value == "STEP_OUTPUT")
        assert event.step_output_data.metadata["summary"].value == "nothing to do"
    assert maintenance_schedule().cron_schedule == "30 4 * * *"


def _job() -> Any:
    import dagster as dg

    @dg.op
    def nothing() -> None:
        pass

    @dg.job(name="kb_run")
    def job() -> None:
        nothing()

    return job


def test_the_nightly_pass_asks_only_where_something_changed(
    kb_env: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dagster as dg

    from sensors.nightly import nightly_schedule

    names = ("quiet", "changed", "new", "broken", "unsettled")
    for name in names:
        (tmp_path / name).mkdir()
        if name != "new":
            serve(kb_env, load(kb_env, name, clustered(1, SPEC.dims)[:0], spec=SPEC), method="exact")
    (tmp_path / "changed" / "a.md").write_text("# A\n\nA document.\n")
    (tmp_path / "broken").rmdir()
    (tmp_path / "kb.toml").write_text("\n".join(f'[tenants.{name}]\nsource = "{tmp_path / name}"' for name in names))
    monkeypatch.setenv("KB_CONFIG", str(tmp_path / "kb.toml"))
    with kb_env.connect("owner") as conn:
        conn.execute("UPDATE kb.tenants SET unsettled = true WHERE tenant_id = 'unsettled'")
    with dg.instance_for_test() as instance:
        asked = [
            each
            for each in nightly_schedule()(
                dg.build_schedule_context(instance=instance, scheduled_execution_time=datetime.now(UTC))
            )
            if isinstance(each, dg.RunRequest)
        ]
    assert {one.partition_key: one.tags["kb/reason"] for one in asked} == {
        "changed": "documents: 1 new",
        "new": "nothing is indexed yet",
        "unsettled": "the last run did not end",
    }
