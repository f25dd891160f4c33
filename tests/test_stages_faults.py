"""Bad documents, refused texts, outages and budgets: what is kept, what is tried again, what is paid."""

from __future__ import annotations

from pathlib import Path

import pytest
from stage_world import SENT, Trouble, World, page, sent

from kb_pipeline.errors import BudgetExceeded, ProviderUnavailable
from kb_pipeline.store.database import Database
from kb_pipeline.store.dead_letters import DeadLetter, ask_retry, list_dead_letters
from kb_pipeline.store.status import tenant_status

ONE = page("One", ["Apples are red and round.", "Pears are green and long."])
TWO = page("Two", ["Plums are blue and small.", "Figs are brown and soft."])


@pytest.fixture(autouse=True)
def calm() -> None:
    SENT.clear()
    Trouble.poison = None
    Trouble.unavailable_after = None


@pytest.fixture
def world(db: Database, tmp_path: Path) -> World:
    """A tenant with two documents, not indexed yet; every paragraph is a chunk."""
    world = World(db, tmp_path, sections={"chunking": {"max_tokens": 16}})
    world.write({"one.md": ONE, "two.md": TWO})
    return world


def test_a_bad_document_keeps_its_old_form_until_it_is_mended(world: World) -> None:
    world.run()
    before = world.state()
    world.write({"one.md": "---\ntitle: [broken\n---\n" + ONE})
    ran = world.run()
    assert (ran.documents.refused, ran.documents.deleted, ran.embeddings.dead_letters) == (1, 0, 1)
    assert {**world.state(), "letters": []} == before
    letter = letters(world)[0]
    assert (letter.stage, letter.doc_id) == ("documents", "one.md") and letter.reason and letter.detail
    assert world.run().documents.refused == 1
    world.write({"one.md": ONE})
    assert world.run().documents.refused == 0
    assert letters(world) == []


def test_a_bad_document_that_goes_away_leaves_the_quarantine(world: World) -> None:
    world.write({"bad.md": "---\ntitle: [broken\n---\n"})
    world.run()
    assert len(letters(world)) == 1
    world.write({"bad.md": None})
    world.run()
    assert letters(world) == []


def letters(world: World) -> list[DeadLetter]:
    with world.db.connect("owner") as conn:
        return list_dead_letters(conn, world.tenant_id)


def test_a_refused_text_quarantines_its_document_and_no_other(world: World) -> None:
    Trouble.poison = "Pears"
    ran = world.run()
    assert (ran.embeddings.documents_committed, ran.embeddings.documents_waiting, ran.embeddings.missing) == (1, 1, 0)
    (letter,) = letters(world)
    assert (letter.stage, letter.doc_id, letter.reason) == ("embeddings", "one.md", "refused-by-provider")
    assert letter.ordinal is not None and letter.fingerprint and letter.content_sha256
    world.require_true_counters()


def test_a_refused_document_keeps_its_old_form_and_is_not_paid_again_until_it_changes(world: World) -> None:
    world.run()
    old = world.state()["chunks"]
    Trouble.poison = "poison"
    world.write({"one.md": page("One", ["Some poison here.", "Melons are heavy."])})
    world.run()
    assert world.state()["chunks"] == old
    assert sent(lambda: world.run()) == []
    Trouble.poison = None
    assert sent(lambda: world.run()) == []
    assert tenant_counts(world) == (2, 0, 1)
    world.write({"one.md": page("One", ["No harm here.", "Melons are heavy."])})
    texts = sent(lambda: world.run())
    assert all("Melons" not in text for text in texts), "what was paid before is not paid again"
    assert tenant_counts(world) == (2, 0, 0)
    world.require_true_counters()


def test_a_retry_tries_again_what_did_not_change(world: World) -> None:
    Trouble.poison = "Pears"
    world.run()
    Trouble.poison = None
    with world.db.connect("owner") as conn:
        assert ask_retry(conn, world.tenant_id) == 1
    texts = sent(lambda: world.run())
    assert any("Pears" in text for text in texts)
    assert letters(world) == [] and tenant_counts(world) == (2, 0, 0)


def test_a_retry_that_fails_again_waits_again(world: World) -> None:
    Trouble.poison = "Pears"
    world.run()
    with world.db.connect("owner") as conn:
        ask_retry(conn, world.tenant_id)
    world.run()
    (letter,) = letters(world)
    assert letter.retry_asked_at is None
    Trouble.poison = None
    assert sent(lambda: world.run()) == []


def test_another_embedder_tries_what_one_refused(world: World) -> None:
    Trouble.poison = "Pears"
    world.run()
    Trouble.poison = None
    world.sections["embedder"] = {"model": "m2"}
    world.run()
    assert letters(world) == []


def tenant_counts(world: World) -> tuple[int, int, int]:
    with world.db.connect("owner") as conn:
        status = tenant_status(conn, world.tenant_id)
    return status.documents, status.missing_embeddings, status.dead_letters


def test_an_outage_keeps_what_is_done_and_the_next_run_pays_for_the_rest_only(world: World) -> None:
    world.sections["embedder"] = {"max_batch_inputs": 1}
    Trouble.unavailable_after = 3
    with pytest.raises(ProviderUnavailable):
        world.run()
    assert len(SENT) == 3
    assert world.one("SELECT count(*) FROM kb.contents") == 3
    Trouble.unavailable_after = None
    world.run()
    assert len(SENT) == len(set(SENT))
    assert tenant_counts(world) == (2, 0, 0)
    world.require_true_counters()


def test_an_outage_deletes_nothing_and_commits_what_needs_no_embedding(world: World) -> None:
    world.run()
    world.write({"one.md": None, "copy.md": TWO, "three.md": page("Three", ["Kiwis are hairy."])})
    Trouble.unavailable_after = len(SENT)
    with pytest.raises(ProviderUnavailable):
        world.run()
    assert {row[0] for row in world.query("SELECT doc_id FROM kb.documents")} == {"one.md", "two.md", "copy.md"}
    Trouble.unavailable_after = None
    world.run()
    assert {row[0] for row in world.query("SELECT doc_id FROM kb.documents")} == {"two.md", "copy.md", "three.md"}
    world.require_true_counters()


def test_texts_of_a_stopped_run_that_nobody_needs_any_more_become_orphans(world: World) -> None:
    world.sections["embedder"] = {"max_batch_inputs": 1}
    Trouble.unavailable_after = 2
    with pytest.raises(ProviderUnavailable):
        world.run()
    Trouble.unavailable_after = None
    world.write({"one.md": page("One", ["Nothing of before."]), "two.md": page("Two", ["Nor here."])})
    world.run()
    assert world.one("SELECT count(*) FROM kb.contents WHERE orphaned_at IS NOT NULL") == 2
    world.require_true_counters()


def test_a_run_costs_no_more_than_allowed(world: World) -> None:
    world.sections["embedder"] = {"usd_per_million_tokens": 1000.0}
    with pytest.raises(BudgetExceeded, match=r"\$0\.0000"):
        world.run(max_cost=0.001)
    assert SENT == []
    ran = world.run(max_cost=10.0)
    assert ran.embeddings.usd == pytest.approx(ran.change_set.cost_usd) and ran.embeddings.usd > 0
    assert float(world.one("SELECT sum(usd) FROM kb.spend")) == pytest.approx(ran.embeddings.usd)
    assert world.one("SELECT sum(texts) FROM kb.spend") == len(SENT)


def test_the_monthly_budget_counts_earlier_runs(world: World) -> None:
    world.sections["embedder"] = {"usd_per_million_tokens": 1000.0}
    spent = world.run().embeddings.usd
    world.sections["budget"] = {"monthly_usd": spent}
    world.write({"three.md": page("Three", ["Kiwis are hairy."])})
    with pytest.raises(BudgetExceeded, match="monthly_usd"):
        world.run()
