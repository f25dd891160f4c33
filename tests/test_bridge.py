"""The drift bridge: the old column, searched with the new model's questions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from migrate_models import WORSE
from migrate_world import LOCAL, SMALL, Changing, Mould, mould
from stage_world import page

from kb_pipeline.embed.registry import make_embedder
from kb_pipeline.errors import NotLive, ProviderUnavailable
from kb_pipeline.index.promote import rollback
from kb_pipeline.migrate import linear
from kb_pipeline.migrate.contract import contract
from kb_pipeline.migrate.status import migration_status
from kb_pipeline.search.retriever import Retriever

FRUIT = ("apples", "pears", "plums", "cherries", "kiwis", "grapes", "quinces", "melons", "figs", "dates")
PLACES = ("Norway", "Brazil", "Egypt", "Japan", "Canada", "Chile", "Spain", "Kenya", "India", "Iceland", "Peru", "Mali")
BRIDGE = {"bridge": True, "bridge_floor": 0.7}


def orchards(world: Changing) -> None:
    # Searched so wide that the index misses nothing by chance.
    world.sections = {
        "index": {"exact_below": 0, "ef_search": 1000},
        "eval": {"queries": 5, "latency_tolerance": 1e9, "recall_floor": 0.0},
    }
    world.model(LOCAL)
    world.write(
        {
            f"{fruit}-{place}-{n}.md": page(fruit, [f"In {place} {fruit} of kind {n} are {word} and {fruit[:3]}y."])
            for n, word in enumerate(("red", "sweet", "dear"))
            for fruit in FRUIT
            for place in PLACES
        }
    )
    world.chain()


@pytest.fixture(scope="module")
def made(server_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mould]:
    with mould(server_home, tmp_path_factory.mktemp("mould"), orchards) as made:
        yield made


@pytest.fixture
def world(made: Mould) -> Iterator[Changing]:
    """360 contents under the local model."""
    with made.cast() as world:
        yield world


def bridge_of(world: Changing) -> str:
    with world.db.connect("owner") as conn:
        return migration_status(conn, world.session().tenant(world.tenant_id)).bridge


def switch_off(monkeypatch: pytest.MonkeyPatch) -> None:
    from kb_pipeline.embed.local import LocalEmbedder

    def gone(self: object, texts: object) -> None:
        raise ProviderUnavailable("this model was switched off")

    monkeypatch.setattr(LocalEmbedder, "embed_queries", gone)


def no_more_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    from migrate_models import _local  # pyright: ignore[reportPrivateUsage]

    from kb_pipeline.embed.local import LocalEmbedder

    whole = LocalEmbedder.embed_documents

    def gone(self: LocalEmbedder, texts: list[str]) -> object:
        if self is _local():  # what the projected models are made from
            return whole(self, texts)
        raise ProviderUnavailable("this model was switched off")

    monkeypatch.setattr(LocalEmbedder, "embed_documents", gone)
    monkeypatch.setattr(LocalEmbedder, "embed_queries", gone)


def test_the_old_column_answers_questions_of_the_new_model(world: Changing, monkeypatch: pytest.MonkeyPatch) -> None:
    world.model(SMALL)
    world.sections["migration"] = BRIDGE
    world.run()
    assert "questions of the new model are answered" in bridge_of(world)
    recall = world.one("SELECT recall FROM kb.bridges")
    assert recall >= 0.7, "the new vectors are a linear image of the old ones"
    vector = make_embedder(world.context().tenant.embedder).embed_queries(["pears of Egypt"]).vectors[0]
    switch_off(monkeypatch)
    with Retriever(world.db, world.session().settings) as retriever:
        assert "In Egypt pears" in retriever.search("pears of Egypt", tenant="world", k=1)[0].text
        assert "In Egypt pears" in retriever.search_vector(vector, tenant="world", version=2, k=1)[0].text
    _, live = world.chain()
    assert live.promoted and world.live() == 2, "the old model is not needed to go on to the new one"
    with Retriever(world.db, world.session().settings) as retriever:
        assert "In Egypt pears" in retriever.search("pears of Egypt", tenant="world", k=1)[0].text
    rollback(world.db, "world", by="test")
    world.sections["migration"] = {}
    with Retriever(world.db, world.session().settings) as retriever:
        with pytest.raises(ProviderUnavailable, match="switched off"):
            retriever.search("pears of Egypt", tenant="world")
    monkeypatch.undo()
    world.change("UPDATE kb.builds SET changed_at = now() - interval '8 days' WHERE state = 'previous'")
    world.chain()
    with Retriever(world.db, world.session().settings) as retriever, pytest.raises(NotLive, match="v1"):
        retriever.search_vector(vector, tenant="world", version=2)
    contract(world.session())
    assert world.one("SELECT count(*) FROM kb.bridges") == 0


def test_changes_made_while_the_old_model_is_off_come_with_the_first_run_after_the_switch(
    world: Changing, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.model(SMALL)
    world.sections["migration"] = BRIDGE
    no_more_vectors(monkeypatch)
    name = "pears-Egypt-0.md"
    world.write(
        {name: page("pears", ["Pears of Egypt are dug up."]), "figs-Peru-0.md": None, "new.md": page("N", ["?"])}
    )
    ran = world.run().embeddings
    assert (ran.documents_for_the_switch, ran.documents_committed, ran.documents_deleted) == (2, 0, 0)
    assert "questions of the new model are answered" in bridge_of(world) and world.lacking(1) == world.lacking(2) == 0
    with Retriever(world.db, world.session().settings) as retriever:
        found = {hit.doc_id: hit.text for hit in retriever.search("pears of Egypt", tenant="world", k=100)}
    assert "In Egypt pears" in found[name], "the old form is searchable"
    _, live = world.chain()
    assert live.promoted and world.live() == 2
    ran = world.run().embeddings
    assert (ran.documents_for_the_switch, ran.documents_committed, ran.documents_deleted) == (0, 2, 1)
    assert ran.texts == 0, "they had their new vectors"
    assert (world.lacking(2), world.lacking(1), ran.left_behind) == (0, 2, 2)
    assert world.search("Pears of Egypt are dug up.", k=1)[0].doc_id == name
    assert world.one("SELECT count(*) FROM kb.documents WHERE doc_id = 'figs-Peru-0.md'") == 0
    monkeypatch.undo()
    assert world.run().embeddings.left_behind == 0 == world.lacking(1), "a model that comes back is caught up with"


def test_one_that_finds_too_little_is_not_used(world: Changing, monkeypatch: pytest.MonkeyPatch) -> None:
    world.model({"provider": WORSE, "model": "noise", "dims": 64})
    world.sections["migration"] = {"bridge": True}
    world.run()
    assert "it is not used" in bridge_of(world)
    switch_off(monkeypatch)
    with Retriever(world.db, world.session().settings) as retriever, pytest.raises(ProviderUnavailable):
        retriever.search("pears of Egypt", tenant="world")


@pytest.mark.parametrize(("dims", "kind"), [(256, "orthogonal"), (384, "affine"), (96, "affine")])
def test_maps(dims: int, kind: str) -> None:
    rng = np.random.default_rng(dims)
    old = rng.standard_normal((3000, 256)).astype(np.float32)
    matrix = rng.standard_normal((256, dims))
    new = (old @ (np.linalg.qr(matrix)[0] if kind == "orthogonal" else matrix)).astype(np.float32)
    new /= np.linalg.norm(new, axis=1, keepdims=True)
    fitted = linear.fit(new[300:], old[300:])
    again = linear.load(fitted.kind, fitted.dump())
    unit = old[:300] / np.linalg.norm(old[:300], axis=1, keepdims=True)
    cosine = float(np.mean(np.sum(again(new[:300]) * unit, axis=1)))
    assert again(new[:1]).shape == (1, 256)
    assert cosine > (0.999 if dims >= 256 else 0.55)
    assert dims != 256 or fitted.kind == kind or cosine > 0.9999
