"""What was spent, what was saved, what may be spent; breakers and texts on their way as people see them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from batch_world import PARAGRAPHS, batch_world
from provider_server import KEY, ProviderServer
from stage_world import World, page

from kb_pipeline.cli.app import main
from kb_pipeline.embed.estimate import estimate
from kb_pipeline.errors import BudgetExceeded, ConfigError, ProviderUnavailable
from kb_pipeline.stages.carry import Carrier
from kb_pipeline.store.breakers import breaker_rows
from kb_pipeline.store.database import Database
from kb_pipeline.store.spend import spend_rows

pytestmark = pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ProviderServer]:
    from kb_pipeline.chunking.tokens import make_counter
    from kb_pipeline.config.schema import EmbedderConfig

    monkeypatch.setenv("KB_TEST_EMBED_KEY", KEY)
    counter = make_counter(EmbedderConfig(provider="openai", model="text-embedding-3-small"))
    with ProviderServer(dims=16, tokens=lambda text: counter.count([text])[0]) as running:
        yield running


@pytest.fixture
def world(db: Database, tmp_path: Path, server: ProviderServer) -> World:
    return batch_world(db, tmp_path, server, settings(server))


def settings(server: ProviderServer, **options: object) -> dict[str, Any]:
    """[embedder] for the server."""
    return {
        "provider": "openai",
        "model": "text-embedding-3-small",
        "dims": 16,
        "base_url": server.url,
        "api_key_env": "KB_TEST_EMBED_KEY",
        "max_batch_inputs": 5,
        "max_concurrency": 2,
        "request_timeout_s": 60.0,
        "max_wait_s": 50.0,  # less than an open breaker's minute: with it the run ends
        "breaker_failures": 2,
        **options,
    }


def rows(world: World, *by: str) -> list[dict[str, Any]]:
    """`kb spend --by` these."""
    with world.db.connect("owner") as conn:
        return spend_rows(conn, ["world"], by=by)


def test_spend_is_what_the_provider_billed_and_the_plan_said(world: World, server: ProviderServer) -> None:
    planned = world.run_until_fingerprints()
    assert server.ledger.requests == 0
    world.run()
    assert planned.tokens_to_embed == pytest.approx(server.ledger.paid_tokens, rel=0.01)
    (row,) = rows(world, "tenant", "model", "lane")
    assert (row["model"], row["lane"], row["texts"]) == ("text-embedding-3-small", "sync", 30)
    assert row["tokens"] == server.ledger.paid_tokens
    assert row["usd"] == pytest.approx(server.ledger.paid_tokens * 0.02 / 1e6)
    assert row["usd"] == pytest.approx(planned.cost_usd, rel=0.01)
    assert (row["saved_texts"], row["paid_again"]) == (0, 0)


def test_known_texts_are_counted_as_saved(world: World) -> None:
    world.run()
    world.write({"copy.md": page("Title 0", PARAGRAPHS[:3]), "0.md": page("Title 0", [*PARAGRAPHS[:3], "One more."])})
    world.run(run_id="second")
    saved = {row["run"]: (row["texts"], row["saved_texts"]) for row in rows(world, "run")}
    assert saved["second"][1] >= 5
    assert next(row for row in rows(world, "run") if row["run"] == "second")["saved_usd"] > 0


def test_a_budget_refuses_to_start_with_the_numbers(world: World, server: ProviderServer) -> None:
    with pytest.raises(BudgetExceeded, match=r"bring this run to \$0\.\d+, above the \$0\.0000") as caught:
        world.run(max_cost=1e-9)
    assert caught.value.exit_code == 75
    world.sections["budget"] = {"monthly_usd": 1e-9}
    with pytest.raises(BudgetExceeded, match="bring this month to"):
        world.run()
    assert server.ledger.requests == 0


def test_a_budget_stops_between_batches_and_keeps_what_was_paid(
    world: World, server: ProviderServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    cost = world.run_until_fingerprints().cost_usd
    monkeypatch.setattr("kb_pipeline.stages.embeddings._require_budget", lambda *_: None)
    with pytest.raises(BudgetExceeded, match="What was embedded is kept"):
        world.run(max_cost=cost / 2)
    assert 0 < sum(server.ledger.paid_texts.values()) <= 15
    assert sum(row["usd"] for row in rows(world, "tenant")) <= cost / 2
    world.run()
    assert server.ledger.paid_twice() == 0


def test_a_budget_needs_a_price(world: World, server: ProviderServer) -> None:
    server.model = "some-model"
    world.sections |= {"embedder": settings(server, model="some-model"), "budget": {"monthly_usd": 1.0}}
    with pytest.raises(ConfigError, match="embedder.usd_per_million_tokens"):
        world.run()
    world.sections["embedder"] = settings(server, model="some-model", usd_per_million_tokens=5.0)
    world.run()
    assert rows(world, "tenant")[0]["usd"] == pytest.approx(server.ledger.paid_tokens * 5 / 1e6)


def test_an_open_breaker_stays_visible_until_the_provider_answers(world: World, server: ProviderServer) -> None:
    server.fail("503", -1)
    with pytest.raises(ProviderUnavailable):
        world.run()
    with world.db.connect("owner") as conn:
        (breaker,) = breaker_rows(conn, "world")
    assert (breaker["endpoint"], breaker["state"], breaker["opened"]) == (server.url, "open", 1)
    server.faults.clear()
    ran = world.run()
    assert (ran.embeddings.breaker, ran.embeddings.endpoints) == ("closed", {server.url: "used"})
    with world.db.connect("owner") as conn:
        assert breaker_rows(conn, "world")[0]["state"] == "closed"


def test_what_was_on_its_way_at_a_kill_is_counted(
    world: World, server: ProviderServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("kb_pipeline.stages.embedding.Embedding._kept", die)
        with pytest.raises(Killed):
            world.run()
    lost = world.one("SELECT coalesce(sum(cardinality(fingerprints)), 0)::int FROM kb.in_flight")
    assert lost > 0
    ran = world.run()
    assert ran.embeddings.paid_again == lost
    assert server.ledger.paid_twice() <= lost
    assert sum(row["paid_again"] for row in rows(world, "tenant")) == lost
    assert world.query("SELECT FROM kb.in_flight") == []


def test_a_run_that_ends_in_order_leaves_nothing_on_its_way(world: World, server: ProviderServer) -> None:
    server.fail("503", -1)
    with pytest.raises(ProviderUnavailable):
        world.run()
    server.faults.clear()
    assert world.run().embeddings.paid_again == 0
    assert server.ledger.paid_twice() == sum(row["paid_again"] for row in rows(world, "tenant")) == 0


def test_a_killed_run_is_counted_once(world: World) -> None:
    world.run()
    ctx = world.context()
    with world.db.connect("writer", "world", autocommit=True) as conn:
        assert Carrier(ctx, conn, None).done.paid_again == 0  # type: ignore[arg-type]


def test_minutes_follow_the_configured_limits(server: ProviderServer) -> None:
    from kb_pipeline.config.schema import EmbedderConfig

    free = EmbedderConfig.model_validate(settings(server))
    assert estimate(free, texts=1000, tokens=100_000, sync_usd=0.002).minutes is None
    limited = free.model_copy(update={"tokens_per_minute": 10_000.0})
    found = estimate(limited, texts=1000, tokens=100_000, sync_usd=0.002)
    assert (found.minutes, found.batch_usd) == (10.0, 0.001)
    requests = free.model_copy(update={"requests_per_minute": 10.0})
    assert estimate(requests, texts=1000, tokens=100_000, sync_usd=None).minutes == 20.0


@pytest.fixture
def folder(tmp_path: Path, kb_env: Database, server: ProviderServer, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a kb.toml and two documents, in which `kb` runs."""
    here = tmp_path / "here"
    (here / "docs").mkdir(parents=True)
    for at in range(2):
        (here / "docs" / f"{at}.md").write_text(page(f"Title {at}", PARAGRAPHS[at * 3 : at * 3 + 3]))
    lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in settings(server).items())
    (here / "kb.toml").write_text(f'[embedder]\n{lines}\n[tenants.acme]\nsource = "docs"\n')
    monkeypatch.chdir(here)
    return here


def kb_run(capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """`kb run --until embeddings`: exit code and standard error."""
    capsys.readouterr()
    return main(["run", "--until", "embeddings"]), capsys.readouterr().err


def dagster_runs() -> list[tuple[str, str | None]]:
    """State of each run as the UI shows it, newest first, and what it waits for."""
    from kb_pipeline.cli.instance import open_instance
    from kb_pipeline.session import open_session

    with open_instance(open_session()) as instance:
        return [(run.status.value, run.tags.get("kb/waits_for")) for run in instance.get_runs()]


def told(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    """What `kb ... --json` prints."""
    capsys.readouterr()
    main([*words, "--json"])
    return json.loads(capsys.readouterr().out)


def test_plan_shows_both_lanes_and_asks_nothing(
    folder: Path, server: ProviderServer, capsys: pytest.CaptureFixture[str]
) -> None:
    found = told(capsys, "plan")
    assert found["cost_batch_usd"] == pytest.approx(found["cost_usd"] / 2)
    assert main(["plan"]) == 0
    assert "batch lane: $" in capsys.readouterr().out
    assert server.ledger.statuses.total() == 0


def test_commands_show_spend_batches_and_breakers(
    folder: Path, server: ProviderServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert kb_run(capsys)[0] == 0
    (row,) = told(capsys, "spend", "--by", "tenant,month")
    assert (row["tenant"], row["texts"]) == ("acme", sum(server.ledger.paid_texts.values()))
    assert told(capsys, "batches") == []
    assert told(capsys, "status")["acme"]["breakers"] == []
    assert main(["spend", "--by", "planet"]) == 2
    (folder / "docs" / "new.md").write_text("# New\n\nSomething new.\n")
    server.fail("503", -1)
    assert kb_run(capsys)[0] == 75
    capsys.readouterr()
    assert main(["status"]) == 0
    assert "breaker open" in capsys.readouterr().out
    assert main(["doctor"]) == 1
    assert f"the circuit breaker of {server.url} is open" in capsys.readouterr().out


def test_run_ends_with_4_while_batch_jobs_are_pending(
    folder: Path, server: ProviderServer, capsys: pytest.CaptureFixture[str]
) -> None:
    config = folder / "kb.toml"
    config.write_text(config.read_text().replace("[embedder]", '[embedder]\nlane = "batch"', 1))
    code, said = kb_run(capsys)
    assert (code, "`kb batches` shows them" in said) == (4, True), said
    assert dagster_runs() == [("SUCCESS", "batch jobs")]
    assert [job["state"] for job in told(capsys, "batches", "--open")] == ["submitted"]
    server.desk.finish()
    assert kb_run(capsys)[0] == 0
    assert dagster_runs() == [("SUCCESS", None), ("SUCCESS", "batch jobs")]
    assert [job["state"] for job in told(capsys, "batches")] == ["collected"]
    assert [row["lane"] for row in told(capsys, "spend") if row["texts"]] == ["batch"]
