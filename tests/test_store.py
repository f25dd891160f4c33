"""Tenants, erasing, quarantine and spending in Postgres."""

from __future__ import annotations

from pathlib import Path

import pytest
from stage_world import SENT, Trouble, World, page

from kb_pipeline.errors import ConfigError
from kb_pipeline.store import erase, tenants
from kb_pipeline.store.database import Database
from kb_pipeline.store.dead_letters import DeadLetter, drop_letters_but, list_dead_letters, put_dead_letters
from kb_pipeline.store.spend import add_spend, spent, spent_this_month_usd
from kb_pipeline.store.status import tenant_status

ONE = page("One", ["Apples are red and round.", "Pears are green and long."])
TWO = page("Two", ["Plums are blue and small.", "Figs are brown and soft."])


@pytest.fixture
def world(db: Database, tmp_path: Path) -> World:
    """An indexed tenant."""
    SENT.clear()
    Trouble.poison = None
    Trouble.unavailable_after = None
    world = World(db, tmp_path, sections={"chunking": {"max_tokens": 16}})
    world.write({"one.md": ONE, "two.md": TWO})
    world.run()
    return world


def states(db: Database) -> dict[str, str]:
    with db.connect("owner") as conn:
        return dict(conn.execute("SELECT tenant_id, state FROM kb.tenants").fetchall())  # type: ignore[arg-type]


def test_tenants_follow_the_file_and_are_never_deleted(db: Database) -> None:
    with db.connect("owner") as conn:
        assert tenants.sync_tenants(conn, {"a": {"source": "/a"}, "b": {}}) == (["a", "b"], [])
        tenants.remember_tenant(conn, "given", {"source": "/given"})
        assert tenants.sync_tenants(conn, {"a": {"source": "/a"}, "b": {}}) == ([], [])
        assert tenants.sync_tenants(conn, {"b": {}}) == ([], ["a"])
    assert states(db) == {"a": "paused", "b": "active", "given": "active"}
    with db.connect("owner") as conn:
        assert tenants.unlisted_tenants(conn, ["b"]) == {"given": {"source": "/given"}}
        assert tenants.sync_tenants(conn, {}, pause_missing=False) == ([], [])
        assert tenants.sync_tenants(conn, {"a": {"source": "/a"}, "b": {}}) == (["a"], [])
    assert states(db)["a"] == "active"


@pytest.mark.parametrize("name", ["../up", "A", "a'; DROP TABLE kb.tenants; --", "", "x" * 64])
def test_only_a_checked_id_becomes_a_tenant(db: Database, name: str) -> None:
    with db.connect("owner") as conn:
        for attempt in (
            lambda: tenants.sync_tenants(conn, {name: {}}),
            lambda: tenants.remember_tenant(conn, name, {}),
            lambda: tenants.ensure_tenant(conn, name),
        ):
            with pytest.raises(ConfigError):
                attempt()


def test_a_purged_document_is_gone_everywhere(world: World) -> None:
    world.write({"copy.md": page("One", ["Apples are red and round."]), "one.md": ONE.replace("Pears", "Peaches")})
    world.run()
    ctx = world.context()
    with world.db.connect("owner", autocommit=True) as conn:
        erased = erase.purge_document(conn, world.tenant_id, "one.md", ctx.staging)
    assert erased.documents == 1 and erased.chunks >= 2
    bodies = " ".join(row[0] for row in world.query("SELECT body FROM kb.contents"))
    assert "Apples" in bodies and "Peaches" not in bodies
    assert "Pears" not in bodies, "texts of its earlier forms go too"
    assert not (world.root / "staging" / world.tenant_id).exists()
    assert world.one("SELECT count(*) FROM kb.stage_outputs") == 0
    world.require_true_counters()
    world.write({"one.md": None})
    assert world.run().documents.unchanged == 2


def test_a_dropped_tenant_leaves_no_row_and_no_file(world: World) -> None:
    other = World(world.db, world.root, "other", world.sections)
    other.write({"one.md": ONE})
    other.run()
    mine = other.state()
    with world.db.connect("owner", autocommit=True) as conn:
        erased = erase.drop_tenant(conn, world.tenant_id, world.context().staging)
    assert (erased.documents, erased.contents) == (2, 4)
    tables = world.query(
        "SELECT table_name FROM information_schema.columns JOIN information_schema.tables USING (table_schema, "
        "table_name) "
        "WHERE table_schema = 'kb' AND column_name = 'tenant_id' AND table_type = 'BASE TABLE'"
    )
    assert len(tables) > 10
    for (table,) in tables:
        assert world.one(f"SELECT count(*) FROM kb.{table} WHERE tenant_id = %(t)s") == 0, table
    assert not (world.root / "staging" / world.tenant_id).exists()
    assert other.state() == mine


def test_a_place_has_one_letter_and_an_equal_one_is_not_written_again(world: World) -> None:
    letter = DeadLetter("documents", "bad\x00name\udcff.md", "broken", "detail\x00")
    other = DeadLetter("embeddings", "a.md", "refused", "why", ordinal=3, fingerprint=b"f" * 32)
    with world.db.connect("writer", world.tenant_id, autocommit=True) as conn:
        put_dead_letters(conn, world.tenant_id, "r1", [letter, letter, other])
        first = list_dead_letters(conn, world.tenant_id)
        put_dead_letters(conn, world.tenant_id, "r2", [letter, other])
        assert list_dead_letters(conn, world.tenant_id) == first
        assert [(one.stage, one.reason, one.ordinal, one.run_id) for one in first] == [
            ("documents", "broken", None, "r1"),
            ("embeddings", "refused", 3, "r1"),
        ]
        put_dead_letters(conn, world.tenant_id, "r3", [DeadLetter("documents", letter.doc_id, "other", "detail")])
        assert list_dead_letters(conn, world.tenant_id, doc_id=first[0].doc_id)[0].reason == "other"
        drop_letters_but(conn, world.tenant_id, "documents", [letter.doc_id])
        assert len(list_dead_letters(conn, world.tenant_id)) == 2
        drop_letters_but(conn, world.tenant_id, "documents", [])
        assert [one.stage for one in list_dead_letters(conn, world.tenant_id)] == ["embeddings"]


def test_spending_adds_up_by_run(world: World) -> None:
    with world.db.connect("writer", world.tenant_id, autocommit=True) as conn:
        for run_id in ("x", "x", "y"):
            facts = {"texts": 2, "tokens": 10, "usd": 0.5, "requests": 1, "retries": 0}
            add_spend(conn, world.tenant_id, run_id, model="m", lane="sync", **facts)  # type: ignore[arg-type]
        of_run = spent(conn, world.tenant_id, run_id="x")
        assert (of_run.tokens, of_run.usd) == (20, 1.0)
        assert spent_this_month_usd(conn, world.tenant_id) == 1.5


def test_status_of_a_tenant_and_of_none(world: World) -> None:
    with world.db.connect("owner") as conn:
        status = tenant_status(conn, world.tenant_id)
        assert (status.documents, status.chunks, status.contents, status.missing_embeddings) == (2, 4, 4, 0)
        assert tenant_status(conn, "never").documents == 0


def test_a_writer_of_one_tenant_sees_nothing_of_another(world: World) -> None:
    with world.db.connect("writer", "somebody") as conn:
        assert tenant_status(conn, world.tenant_id).contents == 0
