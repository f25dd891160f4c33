"""Open batch jobs and what else happens meanwhile: plans, purges, and results that are lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from batch_world import Killed, batch_world, kill_at, pending, require_done
from provider_server import KEY, ProviderServer
from stage_world import World, page

from kb_pipeline.errors import ProviderUnavailable
from kb_pipeline.stages.purging import purge
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


def test_a_plan_does_not_count_what_a_job_holds(world: World, server: ProviderServer) -> None:
    before = world.run_until_fingerprints()
    assert (before.texts_to_embed, before.texts_at_hand) == (30, 0)
    pending(world)
    world.write({"new.md": page("New", ["Only this one is new."])})
    planned = world.run_until_fingerprints()
    assert (planned.texts_to_embed, planned.texts_at_hand) == (1, 30)
    assert 0 < planned.cost_usd < before.cost_usd / 10
    server.desk.finish()
    pending(world)
    assert world.run_until_fingerprints().texts_at_hand == 1


def test_what_a_job_brings_for_a_purged_document_is_billed_and_not_kept(world: World, server: ProviderServer) -> None:
    pending(world)
    world.write({"1.md": None})
    pending(world)  # the job goes on, for nobody
    with world.db.connect("owner", autocommit=True) as conn:
        assert purge(conn, "world", "0.md", world.context().staging).waiting == 3
    world.write({"0.md": None})
    server.desk.finish()
    world.run()
    assert world.query("SELECT FROM kb.vector_bank") == []
    assert world.one("SELECT count(*) FROM kb.contents") == 24
    assert world.one("SELECT sum(texts)::int FROM kb.spend WHERE lane = 'batch'") == 30


def test_a_purged_document_that_comes_back_has_what_the_job_brings(world: World, server: ProviderServer) -> None:
    pending(world)
    with world.db.connect("owner", autocommit=True) as conn:
        purge(conn, "world", "0.md", world.context().staging)
    pending(world)
    server.desk.finish()
    world.run()
    require_done(world, server)


def test_collected_vectors_of_a_purged_document_leave_the_bank(
    world: World, server: ProviderServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pending(world)
    server.desk.finish()
    with monkeypatch.context() as patch:
        kill_at(patch, batches, "close_job", before=False)
        with pytest.raises(Killed):
            world.run()
    assert world.one("SELECT count(*) FROM kb.vector_bank") == 30
    with world.db.connect("owner", autocommit=True) as conn:
        purge(conn, "world", "0.md", world.context().staging)
    assert world.one("SELECT count(*) FROM kb.vector_bank") == 27


@pytest.mark.parametrize("lost", ["job", "results"])
def test_a_job_the_provider_lost_does_not_stop_all_runs(world: World, server: ProviderServer, lost: str) -> None:
    pending(world)
    if lost == "job":
        server.desk.jobs.clear()
    else:
        server.desk.finish()
        server.desk.content.clear()
    with pytest.raises(ProviderUnavailable, match="batch job 1 is lost"):
        world.run()
    pending(world)
    server.desk.finish()
    assert world.run().embeddings.documents_committed == 10


def test_a_result_file_that_was_cut_off_is_fetched_again(world: World, server: ProviderServer) -> None:
    pending(world)
    server.desk.finish()
    whole = server.desk.handle
    cut: list[str] = []

    def once_cut(method: str, path: str, *rest: object) -> tuple[int, bytes]:
        status, content = whole(method, path, *rest)  # type: ignore[arg-type]
        if path.endswith("/content") and not cut:
            cut.append(path)
            content = content[: len(content) // 2]
        return status, content

    server.desk.handle = once_cut  # type: ignore[method-assign]
    world.run()
    assert cut
    require_done(world, server)
