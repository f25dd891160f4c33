"""The stages up to the embeddings on real Postgres: what is embedded, what is written, what a user would notice."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

import pytest
from stage_world import SENT, Trouble, World, page, sent

from kb_pipeline.errors import MassDeletionRefused, StaleStage
from kb_pipeline.stages import chunks, documents, embeddings, fingerprints
from kb_pipeline.stages.preview import scan_preview
from kb_pipeline.store.database import Database

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


def test_the_first_run_indexes_everything(world: World) -> None:
    ran = world.run()
    assert (ran.documents.new, ran.documents.listed, ran.documents.refused) == (2, 2, 0)
    texts = world.one("SELECT count(*) FROM kb.contents WHERE tenant_id = %(t)s AND embedding_v1 IS NOT NULL")
    assert texts == ran.embeddings.texts == ran.change_set.texts_to_embed == len(SENT) == len(set(SENT)) >= 4
    assert ran.embeddings.documents_committed == 2
    assert (ran.embeddings.version, ran.embeddings.missing, ran.embeddings.dead_letters) == (1, 0, 0)
    assert world.one("SELECT state FROM kb.tenant_versions WHERE tenant_id = %(t)s") == "complete"
    for doc_id, start, end, body in world.query(
        "SELECT p.doc_id, start_offset, end_offset, body FROM kb.chunks p JOIN kb.contents USING (tenant_id, "
        "fingerprint)"
    ):
        assert (world.source / doc_id).read_text()[start:end] == body
    world.require_true_counters()


def test_a_second_run_writes_no_row_and_embeds_nothing(world: World) -> None:
    world.run()
    before = world.versions_of_rows()
    again = sent(lambda: world.run())
    assert (again, world.versions_of_rows()) == ([], before)


def test_a_touched_file_is_not_written(world: World) -> None:
    world.run()
    before = world.versions_of_rows()
    os.utime(world.source / "one.md", (1, 1))
    ran = world.run()
    assert (ran.documents.unchanged, ran.documents.read) == (2, 1)
    assert world.versions_of_rows() == before


def test_an_edit_embeds_the_new_texts_only(world: World) -> None:
    world.run()
    world.write({"one.md": page("One", ["Apples are red and round.", "Quinces are yellow."])})
    texts = sent(lambda: world.run())
    assert any("Quinces" in text for text in texts) and not any("Apples" in text for text in texts)
    assert world.one("SELECT count(*) FROM kb.contents WHERE body LIKE '%%Pears%%' AND orphaned_at IS NOT NULL") == 1
    contents, inserted, deleted = world.counters()
    assert inserted - contents == deleted == 1
    world.require_true_counters()


def test_a_text_that_comes_back_is_adopted_and_not_paid_again(world: World) -> None:
    world.run()
    world.write({"one.md": page("One", ["Apples are red and round."])})
    world.run()
    world.write({"one.md": ONE})
    assert sent(lambda: world.run()) == []
    assert world.one("SELECT count(*) FROM kb.contents WHERE orphaned_at IS NOT NULL") == 0
    world.require_true_counters()


def test_a_rename_embeds_nothing_and_touches_no_content(world: World) -> None:
    world.run()
    before = world.query("SELECT ctid::text, xmin::text FROM kb.contents ORDER BY 1")
    counters = world.counters()
    (world.source / "one.md").rename(world.source / "sub.md")
    (world.source / "deep").mkdir()
    (world.source / "two.md").rename(world.source / "deep" / "two.md")
    ran = world.run()
    assert (ran.documents.renamed, ran.documents.new, ran.documents.deleted, ran.embeddings.texts) == (2, 0, 0, 0)
    assert (ran.change_set.chunks_new, ran.change_set.contents_removed) == (0, 0)
    assert ran.change_set.chunks_moved == ran.change_set.chunks_reused > 0
    assert {row[0] for row in world.query("SELECT doc_id FROM kb.documents")} == {"sub.md", "deep/two.md"}
    assert world.query("SELECT ctid::text, xmin::text FROM kb.contents ORDER BY 1") == before
    assert world.counters() == counters


def test_a_copy_is_new_and_embeds_nothing(world: World) -> None:
    world.run()
    world.write({"copy.md": ONE})
    assert sent(lambda: world.run()) == []
    assert world.one("SELECT count(*) FROM kb.documents") == 3
    world.require_true_counters()


def test_a_front_matter_edit_changes_metadata_and_embeds_nothing(world: World) -> None:
    world.write({"one.md": "---\ntags: [a]\n---\n" + ONE})
    world.run()
    world.write({"one.md": "---\ntags: [a, bb]\nowner: me\n---\n" + ONE})
    before = len(SENT)
    ran = world.run()
    assert (ran.documents.metadata_only, ran.documents.changed, len(SENT) - before) == (1, 0, 0)
    assert world.one("SELECT metadata FROM kb.documents WHERE doc_id = 'one.md'") == {
        "tags": ["a", "bb"],
        "owner": "me",
    }
    start, end, body = world.query(
        "SELECT start_offset, end_offset, body FROM kb.chunks JOIN kb.contents USING (tenant_id, fingerprint) "
        "WHERE doc_id = 'one.md' ORDER BY ordinal LIMIT 1"
    )[0]
    assert (world.source / "one.md").read_text()[start:end] == body


def test_a_deletion_leaves_orphans_for_the_grace_period(world: World) -> None:
    world.run()
    world.write({"one.md": None})
    ran = world.run()
    assert (ran.documents.deleted, ran.embeddings.documents_deleted) == (1, 1)
    assert ran.change_set.contents_removed == ran.embeddings.contents_removed > 0
    assert world.one("SELECT count(*) FROM kb.chunks WHERE doc_id = 'one.md'") == 0
    world.require_true_counters()


def test_a_source_that_lists_nothing_deletes_nothing_unless_asked(world: World) -> None:
    world.run()
    world.write({"one.md": None, "two.md": None})
    before = world.state()
    with pytest.raises(MassDeletionRefused, match="2 of the 2"):
        world.run()
    assert world.state() == before
    assert scan_preview(world.context()).mass_deletion is not None
    world.run(allow_mass_delete=True)
    assert world.one("SELECT count(*) FROM kb.documents") == 0
    world.require_true_counters()


def test_other_chunker_settings_chunk_unchanged_documents_anew(world: World) -> None:
    world.run()
    world.sections["chunking"] = {"max_tokens": 160}
    ran = world.run()
    assert (ran.documents.rechunked, ran.documents.unchanged, ran.documents.changed) == (2, 2, 0)
    fresh = World(world.db, world.root, "fresh", world.sections)
    fresh.write({"one.md": ONE, "two.md": TWO})
    fresh.run()
    assert fresh.state()["chunks"] == world.state()["chunks"]
    assert world.run().documents.rechunked == 0


def test_a_preview_writes_nothing_and_tells_what_the_run_will_do(world: World) -> None:
    world.run()
    world.write({"one.md": ONE.replace("red", "tan"), "three.md": TWO, "two.md": None})
    before = (world.state(), world.versions_of_rows(), world.one("SELECT max(output_id) FROM kb.stage_outputs"))
    preview = scan_preview(world.context())
    after = (world.state(), world.versions_of_rows(), world.one("SELECT max(output_id) FROM kb.stage_outputs"))
    assert after == before
    ran = world.run()
    ignored = {"seconds", "output_id"}
    for planned, done in ((preview.documents, ran.documents), (preview.change_set, ran.change_set)):
        assert {k: v for k, v in asdict(planned).items() if k not in ignored} == {
            k: v for k, v in asdict(done).items() if k not in ignored
        }
    assert preview.change_set.texts_to_embed == ran.embeddings.texts == 1
    assert ran.embeddings.contents_removed == ran.change_set.contents_removed


def test_two_tenants_with_the_same_documents_share_nothing(world: World) -> None:
    other = World(world.db, world.root, "other", world.sections)
    other.write({"one.md": ONE, "two.md": TWO})
    world.run()
    mine = world.state()
    before = len(SENT)
    other.run()
    assert len(SENT) == 2 * before
    assert world.state() == mine
    with world.db.connect("writer", "other") as conn:
        assert conn.execute("SELECT count(DISTINCT tenant_id) FROM kb.contents").fetchone() == (1,)
    other.write({"one.md": None})
    other.run()
    assert world.state() == mine


def test_the_same_text_in_many_documents_is_embedded_once(world: World) -> None:
    world.write({f"copy-{n}.md": ONE for n in range(20)})
    ran = world.run()
    assert len(SENT) == len(set(SENT)) == ran.change_set.texts_to_embed
    assert ran.change_set.dedup_ratio > 0.8


@pytest.mark.parametrize("name", ["it's.md", 'quo"te; DROP TABLE kb.documents; --.md', "ünïcode ☃.md", "%s.md"])
def test_a_hostile_name_is_a_name(world: World, name: str) -> None:
    world.write({name: page("Odd", ["Kiwis are hairy."])})
    assert world.run().documents.new == 3
    assert name in {row[0] for row in world.query("SELECT doc_id FROM kb.documents")}
    world.write({name: None})
    assert world.run().documents.deleted == 1


def test_a_name_that_is_not_utf8_and_one_that_is_too_long_are_quarantined(world: World) -> None:
    path = os.fsencode(world.source) + b"/b\xff.md"
    with open(path, "wb") as file:
        file.write(b"# Text\n\nHere.\n")
    deep = "/".join(["d" * 200] * 6)
    world.write({f"{deep}/x.md": "# Long\n\nHere.\n"})
    ran = world.run()
    assert ran.documents.new == 2
    assert ran.embeddings.dead_letters == ran.documents.refused == 2
    assert world.run().documents.refused == 2


def test_each_stage_runs_alone_from_the_newest_output(world: World) -> None:
    documents.run(world.context("a"))
    chunks.run(world.context("b"))
    fingerprints.run(world.context("c"))
    assert embeddings.run(world.context("d")).documents_committed == 2
    before = world.versions_of_rows()
    again = embeddings.run(world.context("e"))
    assert (again.texts, again.documents_committed, world.versions_of_rows()) == (0, 0, before)


def test_a_stage_without_its_input_names_the_one_to_run(world: World) -> None:
    with pytest.raises(StaleStage, match="`documents`"):
        chunks.run(world.context())
    documents.run(world.context())
    with pytest.raises(StaleStage, match="`chunks`"):
        fingerprints.run(world.context())
    chunks.run(world.context())
    with pytest.raises(StaleStage, match="`fingerprints`"):
        embeddings.run(world.context())


def test_a_stage_refuses_what_does_not_follow_from_the_present_state(world: World) -> None:
    world.run()
    world.write({"three.md": page("Three", ["Kiwis are hairy."])})
    documents.run(world.context())
    with pytest.raises(StaleStage, match="run `chunks` first"):
        fingerprints.run(world.context())
    chunks.run(world.context())
    with pytest.raises(StaleStage, match="run `fingerprints` first"):
        embeddings.run(world.context())
    late = world.context("late")
    documents.run(late)
    chunks.run(late)
    fingerprints.run(late)
    world.change("UPDATE kb.tenants SET applied_manifest = 12345 WHERE tenant_id = %(t)s")
    for stage in (chunks, fingerprints, embeddings):
        with pytest.raises(StaleStage, match="documents"):
            stage.run(world.context())


def test_a_document_that_changes_between_the_stages_is_taken_as_it_is_then(world: World) -> None:
    documents.run(world.context("a"))
    newer = page("One", ["Cherries are late."])
    world.write({"one.md": newer})
    assert chunks.run(world.context("b")).changed_meanwhile == 1
    fingerprints.run(world.context("c"))
    embeddings.run(world.context("d"))
    assert world.one("SELECT count(*) FROM kb.contents WHERE body LIKE '%%Cherries%%'") == 1
    before = world.versions_of_rows()
    assert world.run().documents.unchanged == 2
    assert world.versions_of_rows() == before


def test_a_document_that_vanishes_between_the_stages_waits_for_the_next_run(world: World) -> None:
    documents.run(world.context("a"))
    world.write({"one.md": None})
    assert chunks.run(world.context("b")).refused == 1
    fingerprints.run(world.context("c"))
    embeddings.run(world.context("d"))
    assert world.one("SELECT count(*) FROM kb.documents") == 1
    world.run()
    assert world.state()["letters"] == []


def test_old_outputs_are_removed_with_their_files(world: World) -> None:
    for _ in range(6):
        world.run()
    staged = world.root / "staging" / world.tenant_id
    assert {len(list((staged / asset).iterdir())) for asset in ("documents", "chunks", "fingerprints")} <= {3, 4}
    assert world.one("SELECT count(*) FROM kb.stage_outputs WHERE asset = 'documents'") == 3


def test_a_repeated_run_id_replaces_its_outputs(world: World) -> None:
    world.run(run_id="same")
    world.write({"one.md": None})
    assert world.run(run_id="same").documents.deleted == 1
    assert world.one("SELECT count(*) FROM kb.stage_outputs WHERE asset = 'documents'") == 1
