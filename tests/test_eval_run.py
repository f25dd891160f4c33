"""Eval runs on real Postgres: what is measured, stored and written; and what an eval run refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from eval_tenant import add_tenant, build, context, golden_folder, spend, stored

from evals import question_vectors
from evals import run as run_module
from evals.run import EvalSummary, evaluate
from kb_pipeline.embed.protocol import Embedder
from kb_pipeline.errors import ConfigError, NotLive, ProviderUnavailable
from kb_pipeline.planner.model import IndexParams
from kb_pipeline.store.database import Database
from kb_pipeline.store.eval_runs import eval_run, newest_eval_run

SUBJECTS = "kettle bridge lantern meadow harbour violin orchard glacier compass thimble".split()
PARAMS = IndexParams(16, 64, "vector")


@pytest.fixture(autouse=True)
def short_load(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same load test, for a moment only."""
    short = partial(run_module.measure_latency, seconds=0.3, throughput_s=0.05)
    monkeypatch.setattr(run_module, "measure_latency", short)


@pytest.fixture
def corpus(home: Path) -> dict[str, list[str]]:
    rng = np.random.default_rng(2)
    words = SUBJECTS + "old new large small near far red blue works breaks opens closes under over beside".split()
    return {
        f"doc{n}.md": [
            f"The {SUBJECTS[n % 10]} number {n} {' '.join(rng.choice(words, 9))}.",
            f"Licence text {n % 4} of all files.",
        ]
        for n in range(60)
    }


@pytest.fixture
def golden(tmp_path: Path, corpus: dict[str, list[str]]) -> Path:
    questions = {f"q{n}": corpus[f"doc{n}.md"][0] for n in range(30)}
    return golden_folder(tmp_path / "golden", questions, [(f"q{n}", f"file:///doc{n}.md", 1) for n in range(30)])


def assert_self_contained(html: str) -> None:
    assert html.startswith("<!doctype html>") and len(html) < 1_000_000
    for word in ("<script", "<link", "http://", "https://", "@import", "url("):
        assert word not in html.replace('xmlns="http://www.w3.org/2000/svg"', ""), word


def test_a_first_exact_build_is_measured_alone(db: Database, corpus: dict[str, list[str]]) -> None:
    made = build(db, "acme", add_tenant(db, "acme", corpus))
    spend(db, "acme", texts=64, usd=0.02)
    summary = evaluate(context(db, "acme", eval={"queries": 20}))
    assert (summary.build_id, summary.verdict) == (made, "pass")
    assert summary.headline["recall_at_10"] == 1.0 and summary.headline["coverage"] == 1.0
    assert summary.headline["ndcg_at_10"] is None and summary.headline["p95_ms"] > 0
    html = Path(summary.html_path).read_text()
    assert_self_contained(html)
    assert "prefers-color-scheme:dark" in html and "acme" in html and "$0.0200" in html
    assert summary.markdown.count("data:image/svg+xml;base64,") >= 4
    with db.connect("writer", "acme") as conn:
        run = newest_eval_run(conn, "acme", made)
    assert run is not None and run.eval_id == summary.eval_id and run.verdict == "pass"
    assert run.report_url == summary.html_path
    assert set(run.hashes) == {"corpus", "labels", "parameters", "questions as v1"}
    assert [rule["status"] for rule in run.measurements["rules"]] == ["pass", "pass", "skipped", "skipped", "skipped"]


def test_a_candidate_is_compared_with_the_live_build(db: Database, corpus: dict[str, list[str]], golden: Path) -> None:
    version = add_tenant(db, "acme", corpus)
    live = build(db, "acme", version, live=True)
    candidate = build(db, "acme", version, params=PARAMS)
    ctx = context(db, "acme", eval={"queries": 20, "golden": str(golden), "latency_tolerance": 1e9})
    summary = evaluate(ctx)
    assert summary.build_id == candidate and summary.verdict == "pass"
    assert summary.headline["ndcg_at_10"] == 1.0 and summary.headline["bytes"] > 0
    ((_, _, measured),) = stored(db, "acme")
    assert measured["live"]["build_id"] == live
    assert measured["comparisons"]["ndcg@10"]["equal"] == 30
    assert set(measured["subject"]["quality"]["per_question"]["hit@1"].values()) == {1.0}
    assert [point["ef_search"] for point in measured["subject"]["sweep"]] == [10, 20, 40, 80, 160, 320, 640]
    assert "What changed against the live build" in summary.markdown
    evaluate(ctx)
    assert "Trend" in Path(evaluate(ctx).html_path).read_text()
    assert evaluate(ctx, build_id=live).build_id == live


def test_the_same_corpus_gives_the_same_quality_numbers(
    db: Database, corpus: dict[str, list[str]], golden: Path
) -> None:
    build(db, "acme", add_tenant(db, "acme", corpus), live=True)
    ctx = context(db, "acme", eval={"queries": 40, "golden": str(golden)})
    first, second = (evaluate(ctx) for _ in range(2))
    with db.connect("writer", "acme") as conn:
        runs = [eval_run(conn, "acme", summary.eval_id) for summary in (first, second)]
    assert runs[0] is not None and runs[1] is not None and runs[0].hashes == runs[1].hashes
    for name in ("recall_10", "quality", "default"):
        one, other = (run.measurements["subject"][name] for run in runs if run)
        for part in ("p50_ms", "p95_ms"):
            one.pop(part, None), other.pop(part, None)
        assert one == other


def test_an_empty_tenant_passes_and_says_so(db: Database, home: Path, golden: Path) -> None:
    build(db, "void", add_tenant(db, "void", {}))
    for options in ({}, {"golden": str(golden)}):
        summary = evaluate(context(db, "void", eval=options))
        assert summary.verdict == "pass" and "no content yet" in summary.reasons[0]
        assert summary.headline["recall_at_10"] is None and summary.headline["p95_ms"] is None
        assert "nothing to search" in Path(summary.html_path).read_text()


def test_missing_vectors_fail_the_build(db: Database, corpus: dict[str, list[str]]) -> None:
    version = add_tenant(db, "acme", corpus)
    build(db, "acme", version)
    with db.connect("owner") as conn:
        conn.execute(f"UPDATE kb.contents SET embedding_v{version} = NULL WHERE body LIKE 'Licence text 1%'".encode())
    summary = evaluate(context(db, "acme", eval={"queries": 10}))
    assert summary.verdict == "fail" and "1 are missing" in summary.reasons[0]


def test_a_bad_index_fails_with_its_number(
    db: Database, corpus: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    version = add_tenant(db, "acme", corpus)
    build(db, "acme", version, params=PARAMS)
    real = run_module.opened

    def half_blind(*args: Any) -> Any:
        from contextlib import contextmanager

        @contextmanager
        def searcher() -> Any:
            with real(*args)() as search:
                yield lambda vector, k, ef: search(vector, k, ef)[::2]

        return searcher

    monkeypatch.setattr(run_module, "opened", half_blind)
    summary = evaluate(context(db, "acme", eval={"queries": 10}))
    assert summary.verdict == "fail" and summary.headline["recall_at_10"] == 0.5
    assert "recall@10" in summary.reasons[0] and "✗" in Path(summary.html_path).read_text()


def test_nothing_to_measure_is_an_error(db: Database, corpus: dict[str, list[str]]) -> None:
    version = add_tenant(db, "acme", corpus)
    with pytest.raises(NotLive, match="hnsw_index"):
        evaluate(context(db, "acme"))
    made = build(db, "acme", version)
    with db.connect("owner") as conn:
        conn.execute("UPDATE kb.builds SET state = 'failed' WHERE build_id = %s", (made,))
    with pytest.raises(ConfigError, match="is failed"):
        evaluate(context(db, "acme"), build_id=made)
    with pytest.raises(ConfigError, match="does not exist"):
        evaluate(context(db, "acme"), build_id=made + 1)


def test_another_tenants_build_is_not_there(db: Database, corpus: dict[str, list[str]]) -> None:
    made = build(db, "acme", add_tenant(db, "acme", corpus))
    add_tenant(db, "other", {"x": ["nothing of theirs"]})
    with pytest.raises(ConfigError, match="does not exist"):
        evaluate(context(db, "other"), build_id=made)


def test_an_embedder_that_is_down_leaves_no_verdict(
    db: Database, corpus: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    build(db, "acme", add_tenant(db, "acme", corpus))

    def down(*_: Any) -> Embedder:
        raise ProviderUnavailable("the provider does not answer")

    monkeypatch.setattr(question_vectors, "embedder_of", down)
    with pytest.raises(ProviderUnavailable):
        evaluate(context(db, "acme"))
    assert stored(db, "acme") == []


def test_a_golden_set_of_another_corpus_leaves_no_verdict(
    db: Database, corpus: dict[str, list[str]], tmp_path: Path
) -> None:
    build(db, "acme", add_tenant(db, "acme", corpus))
    strange = golden_folder(tmp_path / "strange", {"q": "text"}, [("q", "elsewhere.md", 1)])
    with pytest.raises(ConfigError, match="elsewhere.md"):
        evaluate(context(db, "acme"), golden=str(strange))
    assert stored(db, "acme") == []


def test_hostile_names_cannot_break_out_of_the_report(db: Database, home: Path, tmp_path: Path) -> None:
    nasty = "<script>alert(1)</script>|[x](javascript:1)`\n**"
    build(
        db,
        "acme",
        add_tenant(db, "acme", {nasty: ["a body of some words in a row"], "b": ["other words"]}, kind="<b>kind</b>"),
    )
    golden = golden_folder(tmp_path / "g", {"q": nasty}, [("q", "b", 1)])
    (golden / "qrels" / "test.tsv").write_text("q\tb\t1\n")
    summary: EvalSummary = evaluate(context(db, "acme"), golden=str(golden))
    html = Path(summary.html_path).read_text()
    assert "<script" not in html and "<b>kind" not in html
    assert "<script" not in summary.markdown


def test_a_summary_is_json(db: Database, corpus: dict[str, list[str]]) -> None:
    build(db, "acme", add_tenant(db, "acme", corpus))
    summary = evaluate(context(db, "acme", eval={"queries": 5}))
    assert json.loads(json.dumps(replace(summary, markdown="").headline)) == summary.headline
