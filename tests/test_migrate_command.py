"""`kb migrate`: what it writes, shows and does."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from migrate_models import PREPARED, PROJECTED
from migrate_world import LOCAL, SMALL, Changing, Mould, mould
from stage_world import page

from kb_pipeline.cli.app import main
from kb_pipeline.config.schema import EmbedderConfig
from kb_pipeline.embed.protocol import EmbedderSpec
from kb_pipeline.errors import ConfigError, TenantBusy
from kb_pipeline.migrate import watch
from kb_pipeline.migrate.contract import contract
from kb_pipeline.migrate.cost import column_bytes, migration_cost
from kb_pipeline.migrate.target import target_config, target_keys, write_target
from kb_pipeline.store.database import Database
from kb_pipeline.store.locks import awaited, tenant_lock

FILE = """# ours
[embedder]  # the model
provider = "openai"
model = "text-embedding-3-small"
base_url = "http://inside/v1"
dims = 512  # cut
max_concurrency = 4

[tenants.docs]
source = "docs"
"""


@pytest.mark.parametrize(
    ("to", "expected"),
    [
        ("openai/text-embedding-3-large", ("openai", "text-embedding-3-large", 3072)),
        ("text-embedding-ada-002", ("openai", "text-embedding-ada-002", 1536)),
        ("local", ("local", None, None)),
        ("sentence-transformers/BAAI/bge-m3", ("sentence-transformers", "BAAI/bge-m3", None)),
    ],
)
def test_a_model_by_name(to: str, expected: tuple[str, str | None, int | None]) -> None:
    now = EmbedderConfig(provider="openai", model="text-embedding-3-small", dims=512, max_concurrency=4)
    config = target_config(now, target_keys(now, to, dims=None, storage=None))
    assert (config.provider, config.model, config.max_concurrency) == (*expected[:2], 4)
    assert config.dims is None


def test_an_unknown_model_needs_its_dims() -> None:
    now = EmbedderConfig(provider="openai")
    with pytest.raises(ConfigError, match=r"set embedder\.dims"):
        target_keys(now, "own-model", dims=None, storage=None)
    assert target_keys(now, "own-model", dims=900, storage=None) == {
        "provider": "openai", "model": "own-model", "dims": 900,
    }  # fmt: skip


def test_the_file_keeps_its_comments(tmp_path: Path) -> None:
    path = tmp_path / "kb.toml"
    path.write_text(FILE)
    now = EmbedderConfig(provider="openai", model="text-embedding-3-small", dims=512)
    where = write_target(path, None, now, {"provider": "openai", "model": "text-embedding-3-large"})
    text = path.read_text()
    assert where == f"[embedder] of {path}"
    assert "# ours" in text and "# the model" in text and "max_concurrency = 4" in text and "base_url" in text
    assert 'model = "text-embedding-3-large"' in text and "512" not in text
    write_target(path, "docs", now, {"provider": "local"})
    assert '[tenants.docs.embedder]\nprovider = "local"' in path.read_text()


@pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:dagster")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_from_the_first_word_to_the_end(
    kb_env: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    for name in ("apples", "pears", "cars"):
        (tmp_path / "docs" / f"{name}.md").write_text(page(name, [f"All that is known of {name}."]))
    (tmp_path / "kb.toml").write_text(
        "[eval]\nqueries = 5\nlatency_tolerance = 1e9\nrecall_floor = 0.0\nlatency_seconds = 0.1\n"
        '[tenants.docs]\nsource = "docs"\n'
    )
    assert main(["migrate", "pause"]) == 2, "nothing is live yet"
    assert main(["run"]) == 0
    capsys.readouterr()
    assert main(["migrate", "--sample", "10", "--to", PROJECTED, "--dims", "384"]) == 0
    said = capsys.readouterr().out
    assert "95 % interval" in said and "no golden set" in said and "disk: column" in said
    assert main(["migrate", "--to", PROJECTED, "--dims", "384", "--yes"]) == 0
    capsys.readouterr()
    assert main(["migrate", "status", "--json"]) == 0
    status = json.loads(capsys.readouterr().out)["docs"]
    assert (status["stage"], status["target"]) == ("soak", None) and "Projected 384" in status["live"]
    assert main(["migrate", "pause"]) == 2, "it is live"
    assert main(["rollback"]) == 0
    capsys.readouterr()
    assert main(["plan", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["migration"] is None and plan["texts_to_embed"] == 0
    assert main(["migrate", "abort", "--yes"]) == 0
    assert "columns dropped: v2" in capsys.readouterr().out
    assert main(["search", "pears"]) == 0


def four_hundred(world: Changing) -> None:
    world.sections = {
        "index": {"exact_below": 0},
        "eval": {"queries": 5, "latency_tolerance": 1e9, "recall_floor": 0.0},
    }
    world.model(LOCAL)
    world.write({f"{n:03}.md": page(f"Page {n}", [f"Number {n} of the pages, {n * 7919} in all."]) for n in range(400)})
    world.chain()


@pytest.fixture(scope="module")
def made(server_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mould]:
    with mould(server_home, tmp_path_factory.mktemp("mould"), four_hundred) as made:
        yield made


@pytest.fixture
def world(made: Mould) -> Iterator[Changing]:
    """A tenant with an index and 400 contents."""
    with made.cast() as world:
        yield world


def test_what_it_will_take(world: Changing) -> None:
    session = world.session()
    cost = migration_cost(session, "world", EmbedderConfig(provider="openai", model="text-embedding-3-large"))
    assert (cost.texts, cost.dims, cost.storage) == (400, 3072, "halfvec")
    assert cost.usd_sync and cost.usd_batch == cost.usd_sync / 2
    assert cost.index_bytes >= 400 * 8192 and cost.build_memory_mb > 4
    world.model({"provider": PREPARED, "model": "x", "dims": 768})
    world.run()
    guessed = 400 * column_bytes(EmbedderSpec(PREPARED, "x", 768, "vector"))
    assert world.one("SELECT sum(pg_column_size(embedding_v2)) FROM kb.contents") <= guessed <= 400 * 3400
    again = migration_cost(world.session(), "world", world.context().tenant.embedder)
    assert again.texts == 0


@pytest.mark.alone
def test_a_back_fill_is_hot_and_the_live_index_does_not_grow_and_the_space_is_used_again(world: Changing) -> None:
    size = "SELECT pg_relation_size(to_regclass('kb.' || index_name)) FROM kb.builds WHERE state = 'live'"
    counts = (
        "SELECT sum(n_tup_upd)::int, sum(n_tup_hot_upd)::int FROM pg_stat_user_tables WHERE relname ~ '^contents_p'"
    )
    heap = (
        "SELECT sum(pg_total_relation_size(inhrelid))::bigint FROM pg_inherits "
        "WHERE inhparent = 'kb.contents'::regclass"
    )
    before, live = world.query(counts)[0], world.one(size)
    world.model({"provider": PREPARED, "model": "a", "dims": 768})
    world.run()
    world.change("SELECT pg_stat_force_next_flush()")
    updated, hot = (now - then for now, then in zip(world.query(counts)[0], before, strict=True))
    assert world.one(size) == live
    assert updated >= 400 and hot >= 0.95 * updated
    sizes: list[int] = []
    for model in ("b", "c", "d"):  # each supersedes the one before, which is given back
        world.model({"provider": PREPARED, "model": model, "dims": 768})
        world.run()
        assert contract(world.session()).dropped_columns
        sizes.append(world.one(heap))
    # VACUUM may cut the end off a file, which then grows again to where it was.
    assert max(sizes[1:]) <= sizes[0] * 1.1, "the same volume again uses the space"


def test_who_waits_is_let_in(world: Changing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "LOOK_EVERY_S", 0.0)
    world.model(SMALL)
    entered = threading.Event()

    def wait() -> None:
        with tenant_lock(world.db, "world", wait_s=None):
            entered.set()

    waiter = threading.Thread(target=wait)
    with tenant_lock(world.db, "world", wait_s=0):
        waiter.start()
        with world.db.connect("owner", autocommit=True) as conn:
            while not awaited(conn, "world"):
                pass
        with pytest.raises(TenantBusy, match="gave way"):
            world.run()
    waiter.join()
    assert entered.is_set()
    with world.db.connect("owner", autocommit=True) as conn:
        assert not awaited(conn, "world")
    world.chain()
    assert (world.live(), world.lacking(2)) == (2, 0)


def test_the_local_model_answers_several_threads_rightly() -> None:
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np

    from kb_pipeline.embed.registry import make_embedder

    texts = [f"word{n} and thing{n * 7} of number {n * 31}" for n in range(800)]
    expected = make_embedder(EmbedderConfig()).embed_queries(texts).vectors
    shared = make_embedder(EmbedderConfig())
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda text: shared.embed_queries([text]).vectors[0], texts))
    assert np.allclose(np.stack(found), expected, atol=1e-5)
