"""A change of the embedding model from beginning to end, and every way back."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from migrate_models import WORSE, Projected
from migrate_world import LARGE, LOCAL, SMALL, Changing, Mould, mould
from stage_world import page

from evals.migration_sample import compare_on_sample
from kb_pipeline.embed.protocol import Vectors
from kb_pipeline.errors import ConfigError, GateRefused, MigrationHeld, NotLive
from kb_pipeline.index.promote import rollback
from kb_pipeline.migrate.contract import contract
from kb_pipeline.migrate.control import abort, pause, resume
from kb_pipeline.migrate.status import migration_status
from kb_pipeline.search.retriever import Retriever

EVAL = {"queries": 10, "latency_tolerance": 1e9, "latency_seconds": 0.05}
"""On a busy machine the p95 of a search in a few rows is anything."""
FRUIT = {
    "apple.md": page("Apples", ["Apples are red and round fruit.", "An apple a day keeps the doctor away."]),
    "pear.md": page("Pears", ["Pears are green and long fruit.", "Pears grow on trees in the garden."]),
    "plum.md": page("Plums", ["Plums are blue and small fruit.", "Plum cake is baked in the oven."]),
    "car.md": page("Cars", ["A car has four wheels and an engine.", "The motor burns petrol or diesel."]),
}


def fruit(world: Changing) -> None:
    world.sections = {"index": {"exact_below": 0}, "chunking": {"max_tokens": 24}, "eval": EVAL}
    world.model(LOCAL)
    world.write(dict(FRUIT))
    world.chain()
    assert world.live() == 1 and world.plan().empty


@pytest.fixture(scope="module")
def made(server_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mould]:
    with mould(server_home, tmp_path_factory.mktemp("mould"), fruit) as made:
        yield made


@pytest.fixture
def world(made: Mould) -> Iterator[Changing]:
    """A tenant that serves the local model, with an index although it is small."""
    with made.cast() as world:
        yield world


def stage(world: Changing) -> str:
    with world.db.connect("owner") as conn:
        return migration_status(conn, world.session().tenant(world.tenant_id)).stage


def end_soak(world: Changing) -> None:
    world.change("UPDATE kb.builds SET changed_at = now() - interval '8 days' WHERE state = 'previous'")


def test_three_models_and_the_columns_of_those_that_left(world: Changing) -> None:
    world.model(LARGE)
    assert stage(world) == "planned"
    world.chain()
    assert (world.live(), stage(world), world.plan().empty) == (2, "soak", True)
    assert world.search("engine of a car")[0].doc_id == "car.md"
    assert world.search_in(1, "engine of a car")[0].doc_id == "car.md", "in soak, searchable with its own vectors"
    world.model(SMALL)
    world.chain()
    assert world.live() == 3
    with pytest.raises(NotLive, match="v1"):
        world.search_in(1, "engine of a car")
    done = contract(world.session())
    assert done.dropped_columns == [1], "nothing refers to the first any more"
    end_soak(world)
    world.write({"kiwi.md": page("Kiwis", ["Kiwis are hairy and brown fruit."])})
    world.chain()
    assert stage(world) == "none"
    done = contract(world.session())
    assert (done.dropped_columns, world.columns()) == ([2], ["embedding_v3"])
    assert done.emptied == {"world v2": world.one("SELECT count(*) FROM kb.contents")}
    assert world.search("hairy kiwis")[0].doc_id == "kiwi.md"
    assert world.plan().empty and world.lacking(3) == 0


def test_text_is_right_in_both_versions_at_every_stage(world: Changing) -> None:
    def edit(at: int) -> None:
        world.write({
            f"new{at}.md": page(f"New {at}", [f"Invention number {at} flies to the moon."]),
            "pear.md": page("Pears", [f"Pears of harvest {at} are sweet and yellow fruit."]),
        })  # fmt: skip
        if at:
            world.write({f"new{at - 1}.md": None})

    def check(at: int, *versions: int) -> None:
        for version in versions:
            assert world.lacking(version) == 0
            assert world.search_in(version, f"invention number {at} flies to the moon")[0].doc_id == f"new{at}.md"
            assert f"harvest {at}" in world.search_in(version, "sweet yellow pears of the harvest")[0].text
            found = {hit.doc_id for hit in world.search_in(version, "invention flies to the moon", k=10)}
            assert f"new{at - 1}.md" not in found

    world.model(SMALL)
    edit(0)  # during the migration: the same run brings the source and the new model
    world.chain()
    check(0, 1, 2)
    edit(1)  # soak
    world.chain()
    check(1, 1, 2)
    rollback(world.db, world.tenant_id, by="test")
    assert world.live() == 1 and stage(world) == "rolled back"
    again = world.plan().rebuild
    assert again is None or again.version == 1, "going forward again is a person's to ask for"
    edit(2)  # after the rollback
    world.chain()
    assert world.live() == 1
    check(2, 1, 2)
    rollback(world.db, world.tenant_id, by="test")
    assert world.live() == 2 and stage(world) == "soak"
    edit(3)  # forward again
    world.chain()
    check(3, 1, 2)
    end_soak(world)
    edit(4)
    world.chain()
    contract(world.session())
    edit(5)  # after
    world.chain()
    check(5, 2)
    assert world.columns() == ["embedding_v2"]


def test_searches_go_on_while_one_of_them_loads_the_new_model(world: Changing, monkeypatch: pytest.MonkeyPatch) -> None:
    loading, loaded, found = threading.Event(), threading.Event(), list[str]()
    embed = Projected.embed_documents

    def slow(self: Projected, texts: list[str]) -> Vectors:
        loading.set()
        loaded.wait()
        return embed(self, texts)

    with Retriever(world.db, world.session().settings) as retriever:

        def search() -> None:
            found.append(retriever.search("engine of a car", tenant=world.tenant_id, k=1)[0].doc_id)

        search()
        world.model(SMALL)
        world.chain()
        monkeypatch.setattr(Projected, "embed_documents", slow)
        first = threading.Thread(target=search)
        first.start()
        loading.wait()
        search()  # answered by the version in soak
        assert first.is_alive() and found == ["car.md"] * 2
        loaded.set()
        first.join()
        search()
        assert found == ["car.md"] * 4


def test_after_a_rollback_and_its_soak_the_new_version_goes_and_nothing_is_paid_again(world: Changing) -> None:
    world.model(SMALL)
    world.chain()
    rollback(world.db, world.tenant_id, by="test")
    end_soak(world)
    world.write({"kiwi.md": page("Kiwis", ["Kiwis are hairy and brown fruit."])})
    world.chain()
    assert contract(world.session()).dropped_columns == [2]
    assert (world.live(), stage(world), world.plan().empty) == (1, "rolled back", True)
    assert world.run().embeddings.texts == 0
    with pytest.raises(NotLive, match="no previous build"):
        rollback(world.db, world.tenant_id, by="test")
    resume(world.db, world.tenant_id, by="test")
    world.chain()
    assert (world.live(), world.lacking(2)) == (2, 0), "its number is its own for ever"


def test_going_back_to_an_earlier_model_finds_its_version(world: Changing) -> None:
    world.model(SMALL)
    world.chain()
    world.model(LOCAL)  # in soak: everything is there still
    assert world.run().embeddings.texts == 0
    world.chain()
    assert world.live() == 1
    world.model(SMALL)
    world.chain()
    assert world.live() == 2
    assert [row[0] for row in world.query("SELECT version FROM kb.embedding_versions ORDER BY 1")] == [1, 2]


def test_pause_keeps_what_there_is_and_the_nightly_run_goes_on(world: Changing) -> None:
    world.model(SMALL)
    world.sections["migration"] = {"texts_per_minute": 100_000}
    tenant = world.session().tenant(world.tenant_id)
    world.run()
    pause(world.db, tenant, by="someone")
    assert (stage(world), world.plan().actions) == ("paused", ())
    world.write({"kiwi.md": page("Kiwis", ["Kiwis are hairy and brown fruit."])})
    world.chain()
    assert (world.live(), world.lacking(1), world.lacking(2)) == (1, 0, 1)
    assert contract(world.session()).emptied == {}, "a paused one is kept"
    resume(world.db, world.tenant_id, by="someone")
    assert stage(world) == "back-fill"
    world.chain()
    assert (world.live(), world.lacking(2)) == (2, 0)


def test_a_back_fill_under_way_hears_of_a_pause(world: Changing, monkeypatch: pytest.MonkeyPatch) -> None:
    from kb_pipeline.migrate import watch

    monkeypatch.setattr(watch, "LOOK_EVERY_S", 0.0)
    world.model({**SMALL, "max_batch_inputs": 1})
    ctx = world.context()
    pause(world.db, ctx.tenant, by="someone")
    from kb_pipeline.stages import chunks, documents, embeddings, fingerprints

    for each in (documents, chunks, fingerprints):
        each.run(ctx)
    with pytest.raises(MigrationHeld, match="paused by a person"):
        embeddings.run(ctx)
    assert world.search("engine of a car")[0].doc_id == "car.md"


def test_abort_gives_back_everything(world: Changing) -> None:
    world.sections["promotion"] = {"mode": "review"}
    world.model(LARGE)
    world.chain()
    assert stage(world) == "review"
    tenant = world.session().tenant(world.tenant_id)
    done = abort(world.db, tenant, by="someone")
    assert (done.dropped_columns, world.columns()) == ([2], ["embedding_v1"])
    indexes = "SELECT indexrelid::regclass::text FROM pg_index WHERE indexrelid::regclass::text ~ 'kb_build_'"
    assert world.query(indexes) == [("kb.kb_build_1",)]
    assert (stage(world), world.plan().actions, world.live()) == ("aborted", (), 1)
    world.chain()
    assert world.columns() == ["embedding_v1"]
    world.model(LOCAL)
    assert stage(world) == "aborted" and world.plan().empty
    with pytest.raises(ConfigError, match="is live"):
        world.change("DELETE FROM kb.migrations")
        abort(world.db, world.session().tenant(world.tenant_id), by="someone")


def golden_set(folder: Path) -> str:
    """A question for each of 30 documents, written in its words."""
    (folder / "qrels").mkdir(parents=True)
    rows = [
        (f"q{n}", f"what is known of {name} in {place}", f"{name}-{place}.md") for n, (name, place) in enumerate(PAIRS)
    ]
    (folder / "queries.jsonl").write_text("\n".join(f'{{"_id": "{q}", "text": "{text}"}}' for q, text, _ in rows))
    lines = [f"{q}\t{doc}\t1" for q, _, doc in rows]
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "\n".join(lines))
    return str(folder)


PAIRS = [
    (name, place)
    for name in ("horses", "bread", "music", "ships", "snow", "gold")
    for place in ("Norway", "Brazil", "Egypt", "Japan", "Canada")
]


def test_a_worse_model_is_refused_with_the_questions_that_show_it(world: Changing, tmp_path: Path) -> None:
    world.write({f"{name}-{place}.md": page(name, [f"In {place} all is known of {name}."]) for name, place in PAIRS})
    world.sections["eval"] = {**EVAL, "golden": golden_set(tmp_path / "golden")}
    world.chain()
    world.model({"provider": WORSE, "model": "noise", "dims": 64})
    sampled = compare_on_sample(world.context(), world.context().tenant.embedder, rows=100)
    assert sampled.labelled and sampled.comparison.difference.high < 0 and "the gate would refuse it" in sampled.words
    assert sampled.worse and world.columns() == ["embedding_v1"], "nothing was added to the tables"
    with pytest.raises(GateRefused, match=r"nDCG@10 changed by -0.*95 % interval"):
        world.chain()
    assert (world.live(), stage(world)) == (1, "refused")
    page_of = world.one("SELECT measurements::text FROM kb.eval_runs ORDER BY eval_id DESC LIMIT 1")
    assert "what is known of" in page_of
    world.model(SMALL)
    sampled = compare_on_sample(world.context(), world.context().tenant.embedder, rows=100)
    assert "gate would refuse" not in sampled.words and sampled.overlap > 0.5
    seen, _ = world.chain()
    assert (world.live(), seen.verdict) == (3, "pass")
    assert contract(world.session()).dropped_columns == [2], "the refused one was superseded"


def test_without_a_golden_set_the_gate_says_so(world: Changing) -> None:
    world.model(SMALL)
    seen, live = world.chain()
    assert seen.verdict == "pass" and live.promoted
    assert "there is no golden set" in seen.markdown or "no golden set" in seen.markdown


def test_two_tenants_in_different_stages_leave_each_other_alone(world: Changing) -> None:
    other = Changing(world.db, world.root, "other", sections=dict(world.sections))
    other.model(SMALL)
    other.write(dict(FRUIT))
    other.chain()
    assert (other.live(), world.live()) == (2, 1)
    world.model(SMALL)
    world.chain()
    rollback(world.db, world.tenant_id, by="test")
    end_soak(world)
    world.write({"kiwi.md": page("Kiwis", ["Kiwis are hairy and brown fruit."])})
    world.chain()
    assert contract(world.session()).dropped_columns == [], "the other serves from it"
    assert other.lacking(2) == 0 and other.search("engine of a car")[0].doc_id == "car.md"
    assert other.plan().empty and world.plan().empty


def test_another_column_type_is_filled_with_no_call(world: Changing) -> None:
    world.model({**LOCAL, "storage": "halfvec"})
    ran = world.run()
    assert (ran.embeddings.texts, ran.embeddings.cast) == (0, world.one("SELECT count(*) FROM kb.contents"))
    world.chain()
    assert (world.live(), world.search("engine of a car")[0].doc_id) == (2, "car.md")
