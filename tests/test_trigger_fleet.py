"""The one statement over all tenants agrees with the planner, and sensors ask for each cause once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from index_helpers import Corpus, build, clustered, load, measured, serve, spec_of
from psycopg.types.json import Jsonb

from kb_pipeline.config.schema import Settings
from kb_pipeline.fleet import due_tenants
from kb_pipeline.index.desired import desired_state
from kb_pipeline.planner.model import Desired, IndexParams
from kb_pipeline.planner.plan import need
from kb_pipeline.store.actual import actual_state
from kb_pipeline.store.database import Database

SPEC = spec_of(16)
WANTED = Desired("acme", SPEC, IndexParams(8, 32, "vector"), exact_below_rows=50, recall_floor=0.95)


@pytest.fixture
def corpus(db: Database) -> Corpus:
    corpus = load(db, "acme", clustered(100, 16), spec=SPEC)
    serve(db, corpus)
    return corpus


def update(db: Database, statement: str, *values: Any) -> None:
    with db.connect("owner") as conn:
        conn.execute(statement.encode(), values)


def due(db: Database, **changes: Any) -> list[tuple[str, str]]:
    """(tenant, trigger) of what is due; the same tenant asked about alone must say the same."""
    wanted = replace(WANTED, **changes)
    found = [(one.tenant_id, one.trigger.name) for one in due_tenants(db, {"acme": wanted})]
    with db.connect("owner") as conn:
        alone = need(wanted, actual_state(conn, "acme"))
    assert found == ([] if alone is None else [("acme", alone.name)])
    return found


def test_growth_and_churn_fire_at_their_limits(db: Database, corpus: Corpus) -> None:
    assert due(db) == []
    update(db, "UPDATE kb.tenants SET contents = 129, inserted_total = 129")
    assert due(db) == []
    update(db, "UPDATE kb.tenants SET contents = 130, inserted_total = 130")
    assert due(db) == [("acme", "growth")]
    update(db, "UPDATE kb.tenants SET contents = 100, deleted_total = 20")
    assert due(db) == []
    update(db, "UPDATE kb.tenants SET deleted_total = 21")
    assert due(db) == [("acme", "churn")]
    update(db, "UPDATE kb.tenants SET contents = 24")
    assert due(db) == [("acme", "growth")], "so few contents need no index"


def test_parameters_and_model(db: Database, corpus: Corpus) -> None:
    assert due(db, index=IndexParams(8, 40, "vector")) == [("acme", "parameters")]
    assert due(db, index=IndexParams(8, 32, "halfvec")) == [("acme", "parameters")]
    assert due(db, spec=spec_of(16, model="other")) == [("acme", "model")]


def test_quality_counts_eval_runs_since_the_promotion(db: Database, corpus: Corpus) -> None:
    def run(recall: float) -> None:
        with db.connect("owner") as conn:
            conn.execute(
                "INSERT INTO kb.eval_runs (tenant_id, build_id, measurements, verdict) SELECT tenant_id, build_id, %s, "
                "'fail' FROM kb.live",
                (Jsonb({"headline": {"recall_at_10": recall, "p95_ms": 1.0}}),),
            )

    for recall in (0.9, 0.99, 0.9, 0.9):
        run(recall)
        assert due(db) == []
    run(0.91)
    assert due(db) == [("acme", "quality")]


def test_what_was_refused_does_not_fire_again(db: Database, corpus: Corpus) -> None:
    update(db, "UPDATE kb.tenants SET contents = 130")
    candidate = build(db, corpus).build_id
    assert due(db) == [("acme", "growth")], "it is to be measured"
    update(db, "UPDATE kb.builds SET rows_at_build = 130 WHERE build_id = %s", candidate)
    measured(db, "acme", candidate, "fail")
    assert due(db) == []
    from kb_pipeline.index.recover import drop_build

    drop_build(db, "acme", candidate)
    assert due(db) == []
    update(db, "UPDATE kb.tenants SET contents = 169")
    assert due(db) == [("acme", "growth")]


def test_a_paused_tenant_and_one_without_a_live_build_are_left_alone(db: Database, corpus: Corpus) -> None:
    update(db, "UPDATE kb.tenants SET contents = 500, state = 'paused'")
    assert [one.tenant_id for one in due_tenants(db, {"acme": WANTED})] == []


def test_desired_states_are_resolved_once_for_equal_overrides() -> None:
    from kb_pipeline.fleet import desired_states

    settings = Settings.model_validate(
        {"tenants": {"a": {"source": "x"}, "b": {"source": "y", "index": {"preset": "high"}}, "c": {}}}
    )
    found = desired_states(settings, ["a", "b", "c"])
    assert found == {name: desired_state(settings.tenant(name)) for name in ("a", "b", "c")}


def test_the_partition_counts_the_indexes_of_others(db: Database, corpus: Corpus) -> None:
    from kb_pipeline.store.index_ddl import leaf_partition

    with db.connect("owner") as conn:
        leaf = leaf_partition(conn, "acme")
        other = next(name for n in range(100) if leaf_partition(conn, name := f"t{n}") == leaf)
    for role in ("owner", "writer"):
        with db.connect(role, other) as conn:
            assert actual_state(conn, other).neighbours == 1
        with db.connect(role, "acme") as conn:
            assert actual_state(conn, "acme").neighbours == 0
    load(db, other, clustered(60, 16, seed=4), spec=SPEC)
    serve(db, Corpus(other, corpus.version, corpus.vectors[:0], [], []), method="exact")
    for ceiling, found in ((2, [(other, "growth")]), (1, [])):
        wanted = {other: replace(WANTED, tenant_id=other, max_neighbours=ceiling)}
        assert [(one.tenant_id, one.trigger.name) for one in due_tenants(db, wanted)] == found


def test_all_tenants_at_once_are_what_each_one_is_alone(db: Database, corpus: Corpus) -> None:
    from kb_pipeline.store.actual import actual_states

    load(db, "other", clustered(70, 16, seed=2), spec=SPEC)
    load(db, "two", clustered(30, 16, seed=3), spec=spec_of(16, model="second"))
    measured(db, "acme", build(db, corpus).build_id, "fail")
    update(db, "UPDATE kb.contents SET embedding_v1 = NULL WHERE tenant_id = 'other' AND body LIKE '%%1%%'")
    names = ["acme", "other", "two", "never-ran"]
    with db.connect("owner") as conn:
        together = actual_states(conn, names)
        assert list(together) == names
        for name in names:
            assert actual_state(conn, name) == together[name]
    missing = {facts.version: facts.missing for facts in together["other"].versions}
    assert 0 < missing[1] < 70 and missing[2] == 70, "all of a version that the tenant has no part in"
    assert [build.verdict for build in together["acme"].builds] == [None, "fail"]
    assert together["acme"].neighbours == 0 and together["never-ran"].contents == 0
    for name in names[:3]:
        with db.connect("writer", name) as conn:
            assert actual_state(conn, name) == together[name]
