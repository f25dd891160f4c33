"""`kb maintain --repack`: a partition made anew beside itself, while it is searched and written."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from migrate_models import PREPARED
from migrate_world import LOCAL, Changing, Mould, mould
from stage_world import page

from kb_pipeline.config.schema import IndexConfig
from kb_pipeline.errors import KbError
from kb_pipeline.index.recover import recover
from kb_pipeline.migrate import repack as engine
from kb_pipeline.migrate.contract import contract
from kb_pipeline.migrate.repack import Repacked, repack, repack_partition
from kb_pipeline.search.retriever import Retriever
from kb_pipeline.stages.context import NullProgress
from kb_pipeline.store import repack as store
from kb_pipeline.store import repack_swap
from kb_pipeline.store.index_ddl import leaf_partition

SHAPE = (
    "SELECT c.reloptions::text, c.relrowsecurity, c.relforcerowsecurity, c.relowner::regrole::text, c.relacl::text, "
    "c.relispartition, pg_get_expr(c.relpartbound, c.oid), "
    "ARRAY(SELECT polname || polroles::regrole[]::text FROM pg_policy WHERE polrelid = c.oid ORDER BY 1)::text, "
    "ARRAY(SELECT pg_get_indexdef(indexrelid) || indisvalid || coalesce((SELECT inhparent::regclass::text "
    "FROM pg_inherits h WHERE h.inhrelid = indexrelid), '') FROM pg_index WHERE indrelid = c.oid ORDER BY 1)::text, "
    "ARRAY(SELECT conname || pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = c.oid "
    "AND contype <> 'n' ORDER BY 1)::text, "
    "ARRAY(SELECT attname || ':' || format_type(atttypid, atttypmod) || attstorage::text || attnotnull || "
    "attgenerated::text || coalesce(pg_get_expr(d.adbin, d.adrelid), '') FROM pg_attribute a "
    "LEFT JOIN pg_attrdef d ON adrelid = attrelid "
    "AND adnum = attnum WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped ORDER BY 1)::text, "
    "ARRAY(SELECT tgname FROM pg_trigger WHERE tgrelid = c.oid)::text "
    "FROM pg_class c WHERE c.relnamespace = 'kb'::regnamespace AND c.relname ~ '^contents_p[0-7]$' ORDER BY c.relname"
)
ROWS = "SELECT md5(string_agg(c::text, '' ORDER BY tenant_id, fingerprint)) FROM kb.contents c"
SIZE = "SELECT sum(pg_total_relation_size(inhrelid))::bigint FROM pg_inherits WHERE inhparent = 'kb.contents'::regclass"


def six_hundred(world: Changing) -> None:
    # Searched so wide that the index misses nothing by chance.
    world.sections = {
        "index": {"exact_below": 0, "ef_search": 1000},
        "eval": {"queries": 5, "latency_tolerance": 1e9, "recall_floor": 0.0},
    }
    world.model(LOCAL)
    world.write({f"{n:03}.md": page(f"Page {n}", [f"Number {n} of the pages, {n * 7919} in all."]) for n in range(600)})
    world.chain()


@pytest.fixture(scope="module")
def made(server_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mould]:
    with mould(server_home, tmp_path_factory.mktemp("mould"), six_hundred) as made:
        yield made


@pytest.fixture
def world(made: Mould) -> Iterator[Changing]:
    """A tenant with an index and 600 contents."""
    with made.cast() as world:
        yield world


def leaf_of(world: Changing) -> str:
    with world.db.connect("owner") as conn:
        return leaf_partition(conn, world.tenant_id)


def again(world: Changing) -> Repacked:
    return repack_partition(world.db, leaf_of(world), IndexConfig(), NullProgress())


@contextmanager
def searched(world: Changing) -> Generator[list[str]]:
    """Four clients search without a pause; what failed or came short."""
    stop, wrong = threading.Event(), list[str]()
    with Retriever(world.db, world.session().settings) as retriever:

        def ask(number: int) -> None:
            while not stop.is_set():
                number = (number * 31 + 7) % 600
                try:
                    hits = retriever.search(f"number {number} of the pages", tenant=world.tenant_id, k=5)
                except Exception as error:
                    wrong.append(repr(error))
                else:
                    wrong.extend([f"{len(hits)} results"] * (len(hits) != 5))

        clients = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
        for client in clients:
            client.start()
        try:
            yield wrong
        finally:
            stop.set()
            for client in clients:
                client.join()


def test_the_same_partition_and_smaller(world: Changing) -> None:
    """A second model came and went; of its space and of its dropped column nothing stays."""
    fresh = world.one(SIZE)
    world.model({"provider": PREPARED, "model": "a", "dims": 768})
    world.run()
    world.model(LOCAL)
    world.run()
    assert contract(world.session()).dropped_columns == [2]
    shape, rows, grown = world.query(SHAPE), world.one(ROWS), world.one(SIZE)
    with searched(world) as wrong:
        done = list(repack(world.session()))
    assert wrong == []
    assert [one.partition for one in done] == [leaf_of(world)], "empty ones are left alone"
    assert (done[0].rows, done[0].indexes) == (600, 1)
    assert world.query(SHAPE) == shape
    assert world.one(ROWS) == rows
    assert grown > 1.25 * fresh and world.one(SIZE) <= 1.1 * fresh
    assert world.one("SELECT bytes FROM kb.builds WHERE state = 'live'") > 0
    assert world.search("number 77 of the pages", k=1)[0].doc_id == "077.md"
    assert world.plan().empty
    world.write({"new.md": page("New", ["Something else was added later."]), "001.md": None})
    world.chain()
    assert world.search("something else was added", k=1)[0].doc_id == "new.md"


def test_what_is_written_meanwhile_comes_over(world: Changing, monkeypatch: pytest.MonkeyPatch) -> None:
    """A nightly run goes on during the copy and after it, and somebody writes until the last moment."""
    build, written = repack_swap.build_index, list[int]()
    leaving = world.one("SELECT doc_id FROM kb.chunks ORDER BY fingerprint DESC LIMIT 1")

    def write(*args: object) -> None:
        number = len(written)
        written.append(number)
        if number == 1:
            world.write({"apples.md": page("Apples", ["Apples are red."]), leaving: None})
            world.run()
        world.change(
            "UPDATE kb.contents SET tokens = tokens + 1000 WHERE fingerprint IN "
            "(SELECT fingerprint FROM kb.contents ORDER BY fingerprint LIMIT 150)"
        )
        world.change("DELETE FROM kb.contents WHERE orphaned_at IS NOT NULL")
        build(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(engine.swapping, "build_index", write)
    done = again(world)
    assert len(written) >= 2 and done.changed_meanwhile >= 150 * len(written)
    assert world.one("SELECT sum(tokens / 1000) FROM kb.contents") == 150 * len(written)
    assert world.one("SELECT count(*) FROM kb.contents") == 600
    assert world.search("apples", k=1)[0].doc_id == "apples.md"
    assert world.one("SELECT count(*) FROM kb.repack_changes") == 0
    world.require_true_counters()


@pytest.mark.parametrize("at", ["begin_copy", "copy_rows", "catch_up", "snapshot_mark", "_exchange"])
def test_a_crash_leaves_what_was_there_and_the_next_run_cleans(
    world: Changing, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """As after `kill -9`: nobody cleans up behind it."""
    shape, rows = world.query(SHAPE), world.one(ROWS)
    where = repack_swap if at == "_exchange" else store
    step = getattr(where, at)

    def die(*args: object) -> object:
        result = step(*args)
        if at == "copy_rows":
            next(result)
        raise KeyboardInterrupt

    def leave(_: object) -> list[str]:
        return []

    with monkeypatch.context() as patch:
        patch.setattr(where, at, die)
        patch.setattr(store, "drop_leftovers", leave)
        with pytest.raises(KeyboardInterrupt):
            again(world)
    world.change("UPDATE kb.contents SET tokens = tokens WHERE tenant_id = %(t)s")
    assert world.search("number 77 of the pages", k=1)[0].doc_id == "077.md"
    assert recover(world.db).dropped_indexes, "what is left is named"
    assert world.query(SHAPE) == shape and world.one(ROWS) == rows
    assert world.one("SELECT count(*) FROM pg_class WHERE relname ~ 'repack' AND relname !~ '^repack_changes'") == 0
    assert world.one("SELECT count(*) FROM kb.repack_changes") == 0


def test_a_reader_with_an_old_snapshot_is_waited_for(world: Changing, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has not looked at the contents yet: in the copy it would see no row."""
    with psycopg.connect(world.db.dsn) as reader, monkeypatch.context() as patch:
        patch.setattr(engine, "GIVE_UP_S", 0.0)
        reader.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        reader.execute("SELECT 1 FROM kb.tenants")
        with pytest.raises(KbError, match="is older than the copy"):
            again(world)
        assert reader.execute("SELECT count(*) FROM kb.contents").fetchone() == (600,)
    assert again(world).rows == 600
