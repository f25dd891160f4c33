"""`kb tune` measures on a copy, shows the front, proposes what reaches the target, and leaves nothing behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from index_helpers import Corpus, Facts, clustered, load, serve, spec_of

from kb_pipeline.cli.app import main
from kb_pipeline.config.schema import EmbedderConfig
from kb_pipeline.embed.registry import resolve_spec
from kb_pipeline.index.crossover import Step, crossover
from kb_pipeline.index.tune import Point, grid, pareto, proposals, tune
from kb_pipeline.planner.model import IndexParams
from kb_pipeline.store.database import Database
from kb_pipeline.store.versions import read_version

SPEC = resolve_spec(EmbedderConfig())


def point(recall: float, p95: float, size: int = 100, m: int = 16, ef: int = 40) -> Point:
    return Point(IndexParams(m, 64, "vector"), ef, recall, p95 / 2, p95, size * 2**20, float(size))


def test_the_front_keeps_what_nothing_beats() -> None:
    best, quick, small, worse = point(0.99, 3), point(0.9, 1), point(0.9, 2, size=50), point(0.9, 3)
    assert pareto([worse, best, small, quick]) == [small, quick, best]


def test_proposals_reach_the_target_or_say_what_comes_nearest() -> None:
    points = [point(0.99, 3), point(0.96, 2, size=200), point(0.9, 1)]
    chosen = proposals(points, target_recall=0.95, target_p95_ms=None)
    assert [(one.name, one.point.p95_ms) for one in chosen] == [("smallest", 3), ("quickest", 2)]
    limited = proposals(points, target_recall=0.95, target_p95_ms=2.5)
    assert [(one.name, one.point.p95_ms) for one in limited] == [("smallest", 2)]
    missed = proposals(points, target_recall=0.999, target_p95_ms=None)
    assert [(one.name, one.point.recall) for one in missed] == [("nearest", 0.99)]
    assert proposals([], target_recall=0.9, target_p95_ms=None) == []
    assert 'storage = "vector"' in chosen[0].toml() and "m = 16" in chosen[0].toml()


def test_the_grid_offers_only_what_pgvector_takes() -> None:
    assert {one.storage for one in grid(256, "vector")} == {"vector", "halfvec"}
    assert {one.storage for one in grid(256, "halfvec")} == {"halfvec"}
    assert {one.storage for one in grid(3_000, "halfvec")} == {"halfvec"}
    assert {one.storage for one in grid(5_000, "vector")} == {"binary"}


@pytest.mark.parametrize("storage", ["vector", "halfvec"])
def test_tune_measures_every_storage_and_leaves_nothing(db: Database, storage: str) -> None:
    load(db, "acme", clustered(2_200, 32), spec=spec_of(32, storage))
    with db.connect("owner") as conn:
        version = read_version(conn, 1)
    params = [
        IndexParams(8, 32, one)
        for one in ("vector", "halfvec", "binary")
        if one == "binary" or one >= storage or storage == "vector"
    ]
    if storage == "halfvec":
        params = [one for one in params if one.storage != "vector"]
    found = tune(db, "acme", version, params, sample=2_000, progress=Facts())
    assert (found.rows, found.of_rows, found.queries) == (2_000, 2_200, 200)
    by_params: dict[IndexParams, list[Point]] = {}
    for each in found.points:
        by_params.setdefault(each.params, []).append(each)
    assert set(by_params) == set(params) and found.left_out == []
    for params_, points in by_params.items():
        assert points[-1].recall >= 0.9, params_
        assert all(each.bytes > 0 and each.p95_ms >= each.p50_ms > 0 for each in points)
    with db.connect("owner") as conn:
        assert conn.execute("SELECT count(*) FROM pg_class WHERE relname LIKE 'tuned%'").fetchone() == (0,)
    rest = tune(db, "acme", version, params, sample=2_000, seconds=0.0, progress=Facts())
    assert len(rest.left_out) == len(params) - 1
    poor = tune(db, "acme", version, [IndexParams(5, 12, params[0].storage)], sample=2_000, progress=Facts()).points
    below = max(each.ef_search for each in poor if each.recall < 0.95)
    above = min(each.ef_search for each in poor if each.recall >= 0.95)
    assert above <= 1.25 * below, "the width that is proposed is hardly more than what is needed"


def test_the_crossover_is_where_a_scan_gets_slower_than_is_fine() -> None:
    steps = [Step(rows, 0.5 + rows / 1_000, 1.0) for rows in (500, 1_000, 2_000)]
    assert crossover(steps) == 4_500
    slow_index = [Step(rows, 0.5 + rows / 1_000, 9.0) for rows in (500, 1_000, 2_000)]
    assert crossover(slow_index) == 8_500


@pytest.fixture
def corpus(kb_env: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Corpus:
    toml = tmp_path / "kb.toml"
    toml.write_text('[index]\nexact_below = 50\npreset = "dev"\n[tenants.acme]\nsource = "docs"\n')
    monkeypatch.setenv("KB_CONFIG", str(toml))
    corpus = load(kb_env, "acme", clustered(1_500, SPEC.dims), spec=SPEC)
    serve(kb_env, corpus)
    return corpus


def test_the_command_shows_a_table_a_plot_and_lines_for_the_file(
    corpus: Corpus, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tune", "--sample", "1000", "--seconds", "5", "--storage", "vector"]) == 0
    shown = capsys.readouterr().out
    assert "Pareto front" in shown and "[index]\nm = " in shown and "held-out queries" in shown
    assert (home / "reports" / "acme" / "tune.svg").read_text().startswith("<svg")
    assert main(["tune", "--sample", "1000", "--storage", "bits"]) == 2
    assert main(["tune", "--placement", "--json"]) == 0
    out = capsys.readouterr().out
    found: dict[str, Any] = json.loads(out)
    assert [step["rows"] for step in found["steps"]] == [500, 1_000]
    assert found["exact_below"] == crossover([Step(**step) for step in found["steps"]]), "on a busy machine it may be 0"
