"""The batch lane: half price, nothing submitted or paid twice wherever a run is killed, expired jobs completed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from batch_world import PARAGRAPHS, Killed, batch_world, kill_at, pending, require_done, settings
from provider_server import KEY, AnswerLost, ProviderServer
from stage_world import World, page

from kb_pipeline.errors import BatchesPending, BudgetExceeded, EmbedderError, ProviderUnavailable
from kb_pipeline.stages.batch_lane import BatchLane
from kb_pipeline.store import batches
from kb_pipeline.store.database import Database


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ProviderServer]:
    monkeypatch.setenv("KB_TEST_EMBED_KEY", KEY)
    with ProviderServer(dims=16) as running:
        yield running


@pytest.fixture
def world(db: Database, tmp_path: Path, server: ProviderServer) -> World:
    return batch_world(db, tmp_path, server)


def test_documents_wait_until_their_job_is_collected(world: World, server: ProviderServer) -> None:
    assert "30 texts in 1 batch jobs" in pending(world)
    assert world.one("SELECT count(*) FROM kb.documents WHERE tenant_id = %(t)s") == 0
    pending(world)
    assert server.ledger.batch_jobs == 1
    server.desk.finish()
    ran = world.run()
    assert ran.embeddings.reused_vectors == 30
    assert ran.embeddings.documents_committed == 10
    require_done(world, server)
    assert server.desk.files == {}
    assert world.run().embeddings.documents_committed == 0
    assert server.ledger.batch_jobs == 1


def test_an_edited_document_stays_searchable_in_its_old_form(world: World, server: ProviderServer) -> None:
    pending(world)
    server.desk.finish()
    world.run()
    before = world.state()
    world.write({"0.md": page("Title 0", ["A new paragraph in place of all."]), "1.md": None})
    pending(world)
    assert world.state()["chunks"] == before["chunks"]
    server.desk.finish()
    world.run()
    assert world.one("SELECT count(*) FROM kb.documents WHERE tenant_id = %(t)s") == 9


@pytest.mark.parametrize(
    ("owner", "name", "before"),
    [
        (BatchLane, "_start", True),
        (batches, "plan_job", False),
        (BatchLane, "_uploaded", True),
        (BatchLane, "_submitted", True),
        (BatchLane, "_submitted", False),
    ],
    ids=["nothing yet", "planned", "file uploaded", "job created", "recorded"],
)
def test_killed_while_submitting(
    world: World, server: ProviderServer, monkeypatch: pytest.MonkeyPatch, owner: object, name: str, before: bool
) -> None:
    with monkeypatch.context() as patch:
        kill_at(patch, owner, name, before=before)
        with pytest.raises(Killed):
            world.run()
    pending(world)
    server.desk.finish()
    world.run()
    assert server.ledger.batch_jobs == 1
    require_done(world, server)


@pytest.mark.parametrize(
    ("owner", "name", "before", "after"),
    [
        (BatchLane, "_collect", True, 0),
        (BatchLane, "_keep", False, 0),
        (BatchLane, "_keep", True, 2),
        (batches, "settle_items", False, 1),
        (batches, "close_job", True, 0),
        (batches, "close_job", False, 0),
    ],
    ids=["completed", "first part kept", "half collected", "inside a part", "all kept", "closed"],
)
def test_killed_while_collecting(
    world: World,
    server: ProviderServer,
    monkeypatch: pytest.MonkeyPatch,
    owner: object,
    name: str,
    before: bool,
    after: int,
) -> None:
    monkeypatch.setattr("kb_pipeline.stages.batch_lane._LINES", 7)
    pending(world)
    server.desk.finish()
    with monkeypatch.context() as patch:
        kill_at(patch, owner, name, before=before, after=after)
        with pytest.raises(Killed):
            world.run()
    world.run()
    assert server.ledger.batch_jobs == 1
    require_done(world, server)


@pytest.mark.parametrize("step", ["upload", "create"])
def test_a_lost_answer_submits_nothing_twice(world: World, server: ProviderServer, step: str) -> None:
    lost: list[str] = []

    def lose(done: str) -> None:
        if done == step and not lost:
            lost.append(done)
            raise AnswerLost

    server.desk.after = lose
    pending(world)
    assert (lost, server.ledger.batch_jobs, len(server.desk.files)) == ([step], 1, 1)
    server.desk.finish()
    world.run()
    require_done(world, server)


def test_an_expired_job_is_completed_by_a_second_for_the_missing_half(world: World, server: ProviderServer) -> None:
    pending(world)
    server.desk.finish("expired", share=0.5)
    pending(world)
    sizes = world.query("SELECT texts, got, state FROM kb.batch_jobs ORDER BY job_id")
    assert sizes == [(30, 15, "collected"), (15, 0, "submitted")]
    server.desk.finish()
    world.run()
    require_done(world, server)


def test_a_refused_item_goes_through_the_sync_lane_and_the_rest_is_kept(world: World, server: ProviderServer) -> None:
    world.write({"bad.md": page("Bad", ["This POISON is refused."])})
    pending(world)
    server.desk.finish()
    ran = world.run()
    assert (ran.embeddings.dead_letters, ran.embeddings.documents_waiting) == (1, 1)
    assert server.ledger.requests > 0
    assert world.one("SELECT reason FROM kb.dead_letters") == "refused-by-provider"
    assert server.ledger.paid_twice() == 0
    assert world.one("SELECT count(*) FROM kb.documents WHERE tenant_id = %(t)s") == 10
    assert world.query("SELECT FROM kb.batch_items") == []


def test_a_job_the_provider_refuses_is_an_error_with_its_words(world: World, server: ProviderServer) -> None:
    server.desk.server.model = "another"
    pending(world)
    with pytest.raises(ProviderUnavailable, match="The model does not exist"):
        world.run()
    server.desk.server.model = "text-embedding-3-small"
    pending(world)
    server.desk.finish()
    world.run()
    require_done(world, server)


def test_many_texts_make_several_jobs(world: World, server: ProviderServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kb_pipeline.stages.batch_lane.MAX_INPUTS", 8)
    pending(world)
    assert [row[0] for row in world.query("SELECT texts FROM kb.batch_jobs ORDER BY job_id")] == [8, 8, 8, 6]
    server.desk.finish()
    world.run()
    require_done(world, server)


def test_auto_takes_the_batch_lane_from_a_number_of_texts_on(world: World, server: ProviderServer) -> None:
    world.sections["embedder"] = settings(server, lane="auto", batch_above=31)
    world.run()
    assert (server.ledger.batch_jobs, server.ledger.paid_twice()) == (0, 0)
    world.sections["embedder"] = settings(server, lane="auto", batch_above=2)
    world.write(
        {"new.md": page("New", [f"Yet another paragraph, number {n}, at some length again." for n in range(3)])}
    )
    pending(world)
    assert server.ledger.batch_jobs == 1


def test_another_lane_does_not_send_what_a_job_holds(world: World, server: ProviderServer) -> None:
    pending(world)
    world.sections["embedder"] = settings(server, lane="sync")
    world.write({"new.md": page("New", ["Only this one is new."])})
    pending(world)
    assert sum(server.ledger.paid_texts.values()) == 1
    server.desk.finish()
    world.run()
    assert server.ledger.paid_twice() == 0
    assert world.one("SELECT count(*) FROM kb.documents WHERE tenant_id = %(t)s") == 11


def test_a_budget_is_kept_at_the_price_of_the_lane(world: World, server: ProviderServer) -> None:
    cost = world.run_until_fingerprints().cost_usd
    with pytest.raises(BudgetExceeded, match="bring this run to"):
        world.run(max_cost=cost * 0.4)
    assert server.ledger.batch_jobs == 0
    world.sections["budget"] = {"monthly_usd": cost * 0.6}
    pending(world)
    assert server.ledger.batch_jobs == 1
    world.write({"new.md": page("New", PARAGRAPHS[:1] + [f"More and more of it, {n}." for n in range(20)])})
    with pytest.raises(BudgetExceeded, match="bring this month to"):
        world.run()
    server.desk.finish()
    world.write({"new.md": None})
    world.run()
    require_done(world, server)


def test_a_server_without_a_batch_api_says_so(world: World, server: ProviderServer) -> None:
    def none(*_: object) -> tuple[int, bytes]:
        return 404, b'{"error": {"message": "Not Found"}}'

    server.desk.handle = none  # type: ignore[method-assign]
    with pytest.raises(EmbedderError, match='embedder.lane = "sync"'):
        world.run()
    world.sections["embedder"] = settings(server, lane="sync")
    with pytest.raises(ProviderUnavailable, match="batch job 1 is lost"):
        world.run()
    assert world.run().embeddings.documents_committed == 10


@pytest.mark.parametrize(
    "words",
    [
        "Enqueued token limit reached for the model in organization org-1. Limit: {room:,} enqueued tokens.",
        "429 Too many tokens are enqueued",
    ],
    ids=["openai", "a gateway that names no limit"],
)
def test_jobs_wait_for_room_in_the_queue_of_the_provider(
    world: World, server: ProviderServer, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    monkeypatch.setattr("kb_pipeline.stages.batch_queue._LEAST_TOKENS", 50)
    server.desk.room, server.desk.no_room = 250, words
    said = pending(world)
    for _ in range(12):
        open_before = world.query("SELECT FROM kb.batch_jobs WHERE state NOT IN ('collected', 'failed')")
        if len(open_before) > 1:
            break
        said = pending(world)
    assert "until there is room in its queue" in said
    created = server.ledger.batch_jobs
    pending(world)  # nothing has ended: nothing is asked for in vain
    assert server.ledger.batch_jobs == created
    for _ in range(12):
        server.desk.finish()
        try:
            world.run()
            break
        except BatchesPending:
            pass
    require_done(world, server)
    assert server.desk.files == {}


def test_a_queue_that_others_fill_is_waited_for(world: World, server: ProviderServer) -> None:
    server.desk.room, server.desk.no_room = 0, "Enqueued token limit reached. Limit: 2,000,000 enqueued tokens."
    pending(world)
    assert "until there is room" in pending(world)
    assert world.query("SELECT texts, state, detail <> '' FROM kb.batch_jobs") == [(30, "uploaded", True)]
    server.desk.room = None
    pending(world)
    server.desk.finish()
    world.run()
    require_done(world, server)


@pytest.mark.parametrize("polled", [True, False])
def test_texts_that_wait_for_room_go_through_the_sync_lane_when_asked(
    world: World, server: ProviderServer, polled: bool
) -> None:
    server.desk.room, server.desk.no_room = 0, "Too many tokens are enqueued."
    pending(world)
    if polled:
        pending(world)
    world.sections["embedder"] = settings(server, lane="sync")
    assert world.run().embeddings.documents_committed == 10
    assert (server.ledger.paid_twice(), len(server.ledger.batch_texts), server.desk.files) == (0, 0, {})
