"""`ef_search = "auto"` is fitted to the target recall, kept with the build, and used by searches."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
from index_helpers import Facts, clustered, load, serve, spec_of

from kb_pipeline.config.schema import Settings
from kb_pipeline.index.exact import nearest_distances, recall_of
from kb_pipeline.index.fit import WIDTHS, fit, smallest_width, targets
from kb_pipeline.stages.context import StageContext
from kb_pipeline.stages.hnsw_index import fit_newest
from kb_pipeline.staging import Staging
from kb_pipeline.store.builds import read_build
from kb_pipeline.store.database import Database
from kb_pipeline.store.search_sql import search_build
from kb_pipeline.store.versions import read_version


def context(db: Database, **sections: Any) -> StageContext:
    settings = Settings.model_validate(sections)
    return StageContext(settings, settings.tenant("acme"), db, cast(Staging, None), "run-1", Facts())


def test_exact_distances_and_recall_from_them() -> None:
    vectors = clustered(500, 24)
    queries = clustered(7, 24, seed=3) * 2.0
    found = nearest_distances([vectors[:123], vectors[123:400], vectors[400:]], queries, 5)
    unit = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    assert np.allclose(found, np.sort(1 - unit @ vectors.T, axis=1)[:, :5], atol=1e-5)
    assert recall_of(found[0], found[0]) == 1.0
    assert recall_of([*found[0][:3], 1.9], found[0]) == pytest.approx(0.6)
    assert np.isinf(nearest_distances([vectors[:3]], queries, 5)[:, 3:]).all()
    assert recall_of([], np.array([np.inf])) == 1.0


def test_the_smallest_width_that_surely_reaches_the_target() -> None:
    asked: list[int] = []

    def curve(width: int) -> tuple[float, float]:
        asked.append(width)
        return (min(1.0, width / 100), 0.01)

    found = smallest_width(curve, 0.8)
    assert found == min(width for width in WIDTHS if width / 100 - 0.01 >= 0.88) and len(asked) <= 6
    assert smallest_width(lambda _: (0.5, 0.0), 0.8) == 1000
    assert targets(0.95) == pytest.approx({"interactive": 0.90, "default": 0.95, "offline": 0.9875})


def test_auto_reaches_the_target_on_held_out_queries_without_waste(db: Database) -> None:
    every = clustered(6_300, 48, clusters=2_000)
    corpus = load(db, "acme", every[:6_000], spec=spec_of(48))
    build_id = serve(db, corpus, m=6, ef_construction=24)
    ctx = context(db, index={"ef_search": "auto", "target_recall": 0.95})
    fitted = fit_newest(ctx)
    assert fitted["interactive"] <= fitted["default"] <= fitted["offline"]
    assert fit_newest(ctx) == {}, "it is kept with the build"
    with db.connect("owner") as conn:
        row = read_build(conn, "acme", build_id)
        assert row is not None and row.params["ef_search"] == fitted
        queries = every[6_000:]
        exact = nearest_distances([corpus.vectors], queries, 10)
        conn.execute("SELECT set_config('kb.tenant', 'acme', false)")

        def recall(width: int | None) -> float:
            return float(
                np.mean(
                    [
                        recall_of([d for _, d in search_build(conn, "acme", build_id, query, 10, width)], row)
                        for query, row in zip(queries, exact, strict=True)
                    ]
                )
            )

        reached = recall(fitted["default"])
        assert reached >= 0.945, reached
        assert recall(None) == pytest.approx(reached), "searches without a wish take it"
        assert recall(round(fitted["default"] / 2)) < 0.955, "a much smaller one would not do"


def test_nothing_is_fitted_unless_asked_and_an_empty_build_has_nothing_to_fit(db: Database) -> None:
    corpus = load(db, "acme", clustered(60, 16), spec=spec_of(16))
    build_id = serve(db, corpus)
    assert fit_newest(context(db)) == {}
    with db.connect("owner") as conn:
        row, version = read_build(conn, "acme", build_id), read_version(conn, 1)
        conn.execute("UPDATE kb.contents SET orphaned_at = now()")
    assert row is not None
    assert fit(context(db, index={"ef_search": "auto"}), replace(row), version) == {}
