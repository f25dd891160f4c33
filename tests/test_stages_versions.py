"""More than one embedding version: what a document waits for, what is back-filled, what a cast fills for nothing."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from psycopg import sql
from stage_world import DIMS, PROVIDER, SENT, Trouble, World, page

from kb_pipeline.embed.protocol import EmbedderSpec
from kb_pipeline.embed.registry import resolve_spec
from kb_pipeline.errors import KbError, ProviderUnavailable
from kb_pipeline.stages.preview import scan_preview
from kb_pipeline.stages.wanted import embedder_config
from kb_pipeline.store.actual import actual_state
from kb_pipeline.store.contents import Content, Target, write_new, write_vectors
from kb_pipeline.store.database import Database
from kb_pipeline.store.versions import alter_columns, ensure_version, find_version, read_version, served_versions

ONE = page("One", ["Apples are red and round.", "Pears are green and long."])
TWO = page("Two", ["Plums are blue and small.", "Figs are brown and soft."])


@pytest.fixture(autouse=True)
def calm() -> None:
    SENT.clear()
    Trouble.poison = None
    Trouble.unavailable_after = None


@pytest.fixture
def world(db: Database, tmp_path: Path) -> World:
    """A tenant that serves version 1 of two documents."""
    world = World(db, tmp_path, sections={"chunking": {"max_tokens": 16}})
    world.write({"one.md": ONE, "two.md": TWO})
    world.run()
    world.serve(1)
    SENT.clear()
    return world


def lacking(world: World, version: int) -> int:
    return world.one(f"SELECT count(*) FROM kb.contents WHERE tenant_id = %(t)s AND embedding_v{version} IS NULL")


def test_another_model_is_back_filled_from_stored_texts(world: World) -> None:
    world.sections["embedder"] = {"model": "m2", "dims": 24}
    before = world.versions_of_rows("documents", "chunks")
    preview = scan_preview(world.context()).change_set
    ran = world.run()
    assert (ran.documents.unchanged, ran.documents.rechunked) == (2, 0)
    assert ran.embeddings.backfilled == ran.embeddings.texts == len(SENT)
    assert preview.texts_to_embed == preview.backfill_texts == len(SENT)
    assert (lacking(world, 1), lacking(world, 2), ran.embeddings.version) == (0, 0, 2)
    assert world.one("SELECT count(*) FROM kb.contents WHERE vector_dims(embedding_v2) = 24") == len(SENT)
    assert world.versions_of_rows("documents", "chunks") == before
    assert world.one("SELECT state FROM kb.tenant_versions WHERE version = 2") == "complete"
    again = world.run()
    assert again.embeddings.texts == 0


def test_new_documents_get_the_vectors_of_both_versions(world: World) -> None:
    world.sections["embedder"] = {"model": "m2"}
    world.run()
    SENT.clear()
    world.write({"three.md": page("Three", ["Kiwis are hairy."])})
    ran = world.run()
    assert (len(SENT), len(set(SENT)), ran.embeddings.texts, ran.change_set.texts_to_embed) == (2, 1, 2, 2)
    assert (lacking(world, 1), lacking(world, 2)) == (0, 0)


def test_a_document_commits_with_the_served_version_although_the_new_one_is_away(world: World) -> None:
    world.sections["embedder"] = {"model": "m2", "max_batch_inputs": 1}
    world.write({"three.md": page("Three", ["Kiwis are hairy."])})
    Trouble.unavailable_after = 3
    with pytest.raises(ProviderUnavailable):
        world.run()
    assert {row[0] for row in world.query("SELECT doc_id FROM kb.documents")} == {"one.md", "two.md", "three.md"}
    assert lacking(world, 1) == 0 and lacking(world, 2) == 3
    assert world.one("SELECT state FROM kb.tenant_versions WHERE version = 2") == "backfilling"
    Trouble.unavailable_after = None
    world.run()
    assert len(SENT) == 6, "five texts for the new version, one for the old"
    assert lacking(world, 2) == 0


@pytest.mark.parametrize("change", [{"storage": "halfvec"}, {"normalize": False}])
def test_another_type_or_length_is_filled_by_a_cast(world: World, change: dict[str, object]) -> None:
    world.sections["embedder"] = change
    preview = scan_preview(world.context()).change_set
    assert (preview.texts_to_embed, preview.cost_usd) == (0, 0)
    ran = world.run()
    assert (SENT, ran.embeddings.cast, ran.embeddings.version) == ([], 4, 2)
    assert (lacking(world, 1), lacking(world, 2)) == (0, 0)
    assert world.one("SELECT max(embedding_v1 <=> embedding_v2::vector) FROM kb.contents") < 1e-3
    world.write({"three.md": page("Three", ["Kiwis are hairy."])})
    ran = world.run()
    assert (len(SENT), ran.embeddings.texts, ran.change_set.texts_to_embed) == (1, 1, 1)
    assert world.one("SELECT max(embedding_v1 <=> embedding_v2::vector) FROM kb.contents") < 1e-3
    assert (lacking(world, 1), lacking(world, 2)) == (0, 0)


def test_a_text_the_new_version_refuses_is_quarantined_and_explained(world: World) -> None:
    world.sections["embedder"] = {"model": "m2"}
    Trouble.poison = "Figs"
    ran = world.run()
    assert (ran.embeddings.missing, ran.embeddings.dead_letters, lacking(world, 2)) == (1, 1, 1)
    assert world.one("SELECT state FROM kb.tenant_versions WHERE version = 2") == "backfilling"
    SENT.clear()
    Trouble.poison = None
    assert world.run().embeddings.missing == 1 and SENT == []
    world.change("UPDATE kb.dead_letters SET retry_asked_at = now()")
    ran = world.run()
    assert (ran.embeddings.missing, ran.embeddings.dead_letters, len(SENT)) == (0, 0, 1)


@pytest.mark.alone
def test_back_fills_are_hot_updates(world: World) -> None:
    rows = 4000
    target = Target(1, "vector", DIMS, True)
    numbers: list[int] = np.random.default_rng(1).permutation(rows).tolist()
    contents = [Content(n.to_bytes(32, "big"), "Title", f"{n} " + "words " * 100, 9) for n in numbers]
    vectors = np.ones((rows, DIMS), np.float32)
    version = ensure_version(world.db, world.tenant_id, read_version_spec(world, "m2"))
    with world.db.connect("writer", world.tenant_id, autocommit=True) as conn:
        for at in range(0, rows, 100):
            write_new(conn, world.tenant_id, [target], contents[at : at + 100], vectors[at : at + 100])
        conn.execute("SELECT pg_stat_force_next_flush()")
        before = updates(world)
        ordered = sorted(content.fingerprint for content in contents)
        second = [Target(version.version, "vector", DIMS, True)]
        for at in range(0, rows, 100):
            write_vectors(conn, world.tenant_id, second, ordered[at : at + 100], vectors[:100])
        conn.execute("SELECT pg_stat_force_next_flush()")
    updated, hot = (now - then for now, then in zip(updates(world), before, strict=True))
    assert updated == rows
    assert hot / updated >= 0.99


def read_version_spec(world: World, model: str) -> EmbedderSpec:
    world.sections["embedder"] = {"model": model}
    return resolve_spec(world.context().tenant.embedder)


def updates(world: World) -> tuple[int, int]:
    time.sleep(0.05)
    counts = (
        "SELECT sum(n_tup_upd)::int, sum(n_tup_hot_upd)::int FROM pg_stat_user_tables WHERE relname ~ '^contents_p'"
    )
    return world.query(counts)[0]  # type: ignore[return-value]


def test_a_column_is_added_although_the_table_is_in_use_for_a_while(world: World) -> None:
    spec = read_version_spec(world, "m9")
    with world.db.connect("owner") as reader:
        reader.execute("SELECT count(*) FROM kb.contents")
        with world.db.connect("owner", autocommit=True) as conn, pytest.raises(KbError, match="in use for 0.3 s"):
            alter_columns(conn, lambda: conn.execute("ALTER TABLE kb.contents ADD COLUMN never integer"), give_up_s=0.3)
        assert reader.execute("SELECT count(*) FROM kb.contents").fetchone()
    version = ensure_version(world.db, world.tenant_id, spec)
    assert ensure_version(world.db, world.tenant_id, spec) == version
    storages = world.query(
        "SELECT DISTINCT attname, attstorage FROM pg_attribute JOIN pg_inherits ON attrelid = inhrelid "
        "WHERE inhparent = 'kb.contents'::regclass AND attname LIKE 'embedding_v%%' ORDER BY 1"
    )
    assert storages == [("embedding_v1", "m"), ("embedding_v2", "e")]


def test_long_vectors_go_out_of_line_from_the_first(db: Database, tmp_path: Path) -> None:
    world = World(db, tmp_path, sections={"embedder": {"dims": 1536}})
    world.write({"one.md": ONE})
    world.run()
    query = "SELECT attstorage FROM pg_attribute WHERE attrelid = 'kb.contents_p0'::regclass AND attname = %s"
    assert world.one(query, "embedding_v1") == "e"


def test_a_dropped_version_comes_back_under_its_number(world: World) -> None:
    spec = read_version_spec(world, "m9")
    number = ensure_version(world.db, world.tenant_id, spec).version
    with world.db.connect("owner") as conn:
        conn.execute(sql.SQL("ALTER TABLE kb.contents DROP COLUMN {}").format(sql.Identifier(f"embedding_v{number}")))
        conn.execute("UPDATE kb.embedding_versions SET column_state = 'dropped' WHERE version = %s", (number,))
        conn.execute("UPDATE kb.tenant_versions SET state = 'retired' WHERE version = %s", (number,))
        assert find_version(conn, spec) is None
    assert ensure_version(world.db, world.tenant_id, spec).version == number
    assert lacking(world, number) == 4
    assert world.one("SELECT state FROM kb.tenant_versions WHERE version = %s", number) == "backfilling"


def test_numbers_are_given_once_also_to_concurrent_tenants(db: Database, tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    worlds = [World(db, tmp_path, f"t{n}") for n in range(4)]
    for world in worlds:
        world.write({"one.md": ONE})
    with ThreadPoolExecutor(4) as pool:
        ran = list(pool.map(lambda world: world.run(), worlds))
    assert {one.embeddings.version for one in ran} == {1}
    for world in worlds:
        assert world.one("SELECT count(*) FROM kb.contents WHERE tenant_id = %(t)s AND embedding_v1 IS NOT NULL") > 0


def test_the_planner_is_told_what_is_there(world: World) -> None:
    other = World(world.db, world.root, "other", {"embedder": {"model": "m7"}})
    other.write({"one.md": ONE})
    other.run()
    with world.db.connect("owner") as conn:
        actual = actual_state(conn, world.tenant_id)
        nothing = actual_state(conn, "never")
        assert served_versions(conn, world.tenant_id) == [1]
    assert (actual.contents, actual.inserted_total, actual.deleted_total) == (4, 4, 0)
    versions = [(facts.version, facts.state, facts.missing) for facts in actual.versions]
    assert versions == [(1, "complete", 0), (2, None, 4)]
    assert actual.versions[0].spec.model == "m1"
    assert [(build.method, build.state, build.verdict) for build in actual.builds] == [("exact", "live", None)]
    assert actual.live is not None and actual.live.version == 1
    assert (nothing.contents, nothing.builds, nothing.live) == (0, (), None)


def test_the_embedder_of_a_version_is_made_from_its_own_identity(world: World) -> None:
    config = world.context().tenant.embedder.model_copy(update={"model": "m2", "tokenizer": "of-m2"})
    with world.db.connect("owner") as conn:
        spec = read_version(conn, 1).spec
    same = embedder_config(config, spec)
    assert (same.provider, same.model, same.dims, same.tokenizer) == (PROVIDER, "m1", DIMS, None)
    other = embedder_config(config.model_copy(update={"provider": "openai", "base_url": "http://elsewhere"}), spec)
    assert (other.provider, other.base_url) == (PROVIDER, None)
