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
    world.sections = {"index": {"exact_below": 0}, "eval": {"queries": 5, "latency_tolerance": 1000.0}}
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
