"""Golden sets by name, version and hash; judgments of chunks and spans; an eval run repeated to the last digit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from eval_tenant import add_tenant, build, context, golden_folder

from evals import question_vectors
from evals.golden import JOIN, from_body, read_golden, resolved
from evals.known_item import Passage, proposed, settled, write_golden
from evals.replay import replay
from evals.run import evaluate
from kb_pipeline.config.schema import Settings
from kb_pipeline.embed.protocol import Embedded
from kb_pipeline.embed.registry import make_embedder
from kb_pipeline.errors import ConfigError
from kb_pipeline.index.promote import promote
from kb_pipeline.planner.model import IndexParams
from kb_pipeline.store.database import Database
from kb_pipeline.store.eval_golden import golden_rows, put_golden

DISHES = ("onion", "leek", "lentil", "tomato", "pumpkin", "potato", "carrot", "barley", "beetroot", "spinach")
DOCUMENTS = {
    dish: [f"{dish.title()} soup simmers for an hour.", f"Keep the {dish} soup cold for three days."] for dish in DISHES
}
SECTIONS = {"eval": {"queries": 15, "latency_tolerance": 1e9, "recall_floor": 0.5}}


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    """A question on each dish."""
    questions = {dish: f"how long to cook {dish} soup" for dish in DISHES}
    return golden_folder(tmp_path / "dishes", questions, [(dish, dish, 1) for dish in DISHES])


def test_a_repetition_gives_the_same_numbers(db: Database, home: Path, golden: Path) -> None:
    version = add_tenant(db, "t", DOCUMENTS)
    build(db, "t", version, live=True)
    candidate = build(db, "t", version, params=IndexParams(4, 8, "vector"))
    first = evaluate(context(db, "t", **SECTIONS), golden=str(golden))
    (golden / "queries.jsonl").unlink()  # the set is kept by its hash
    promote(db, "t", candidate, by="test")
    found = replay(context(db, "t", **SECTIONS, index={"ef_search": 10}), first.eval_id)
    assert found.differences == ()
    assert found.equal
    assert found.changed == ()
    assert found.compared > 2 * 8 * len(DISHES)
    with db.connect("owner") as conn:
        assert conn.execute("SELECT count(*) FROM kb.eval_runs").fetchone() == (1,)
        conn.execute("DELETE FROM kb.chunks WHERE doc_id = 'leek'")
        conn.execute("UPDATE kb.contents SET orphaned_at = now() WHERE body ILIKE '%leek%'")
    changed = replay(context(db, "t", **SECTIONS), first.eval_id)
    assert not changed.equal
    assert "corpus is another one" in changed.changed[0]


def test_what_cannot_be_repeated_says_why(db: Database, home: Path) -> None:
    version = add_tenant(db, "t", DOCUMENTS)
    build(db, "t", version, live=True)
    gone = build(db, "t", version)
    run = evaluate(context(db, "t", **SECTIONS))
    with pytest.raises(ConfigError, match="no eval run 99"):
        replay(context(db, "t"), 99)
    with db.connect("owner") as conn:
        conn.execute("UPDATE kb.builds SET state = 'dropped' WHERE build_id = %s", (gone,))
    with pytest.raises(ConfigError, match=f"build {gone} is dropped"):
        replay(context(db, "t"), run.eval_id)


def test_registered_sets_have_versions_and_the_newest_is_used(db: Database, home: Path, golden: Path) -> None:
    version = add_tenant(db, "t", DOCUMENTS)
    build(db, "t", version, live=True)
    read = read_golden(golden)
    with db.connect("writer", "t", autocommit=True) as conn:
        for _ in range(2):
            assert put_golden(conn, "t", read.name, read.sha256, read.body(), registered=True, by="Ada") == 1
        fewer = from_body(read.name, settled(read.body(), accept=[], strike=["leek"]))
        assert put_golden(conn, "t", read.name, fewer.sha256, fewer.body(), registered=True, by="Ada") == 2
        assert [row.version for row in golden_rows(conn, "t")] == [2, 1]
    with db.connect("writer", "other", autocommit=True) as conn:
        assert golden_rows(conn, "other") == []
    newest = evaluate(context(db, "t", **SECTIONS))
    older = evaluate(context(db, "t", **SECTIONS), golden="dishes@1")
    assert "9 judged questions" in newest.markdown
    assert "10 judged questions" in older.markdown
    assert "up to 4 words" not in newest.markdown


def test_chunks_and_spans_are_judged(db: Database, home: Path, tmp_path: Path) -> None:
    version = add_tenant(db, "t", DOCUMENTS)
    build(db, "t", version, live=True)
    folder = golden_folder(tmp_path / "places", {"q1": "keep the onion soup cold", "q2": "leek soup hour"}, [])
    rows = ["query-id\tcorpus-id\tordinal\tscore", "q1\tonion\t1\t1", "q2\tfile:///leek\t0\t1"]
    (folder / "qrels" / "test.tsv").write_text("\n".join(rows) + "\n")
    summary = evaluate(context(db, "t", **SECTIONS), golden=str(folder))
    quality = summary.headline["ndcg_at_10"]
    assert quality > 0.9
    assert "Chunks themselves are judged" in summary.markdown
    (folder / "qrels" / "test.tsv").write_text("q1\tonion\t0\t30\t1\nq2\tleek\t900\t950\t1\n")
    spans = read_golden(folder)
    fit = resolved(spans, {"onion": "onion", "leek": "leek"}, {"onion": [(0, 0, 31), (1, 31, 70)], "leek": [(0, 0, 9)]})
    assert fit.judgments["q1"] == {f"onion{JOIN}0": 1}
    assert fit.unknown == 0.5
    assert "leek (characters 900-950)" in str(fit.problems[0])
    (folder / "qrels" / "test.tsv").write_text("q1\tonion\t0\t30\t1\nq2\tleek\t1\n")
    with pytest.raises(ConfigError, match="beside judgments of places"):
        read_golden(folder)


def test_recall_with_metadata_filters_is_exact_for_an_exact_build(db: Database, home: Path) -> None:
    documents = {f"d{n}": [f"The kettle number {n} boils water in {n} minutes."] for n in range(200)}
    version = add_tenant(db, "t", documents)
    build(db, "t", version, live=True)
    with db.connect("owner") as conn:
        conn.execute(
            "UPDATE kb.documents SET metadata = jsonb_build_object('half', substr(doc_id, 2)::int % 2, 'tenth', "
            "substr(doc_id, 2)::int % 10, 'one', CASE WHEN substr(doc_id, 2)::int < 2 THEN 'x' ELSE doc_id END)"
        )
    summary = evaluate(context(db, "t", **SECTIONS))
    with db.connect("owner") as conn:
        (stored,) = conn.execute("SELECT measurements FROM kb.eval_runs").fetchone() or ({},)
    found = stored["subject"]["filtered"]
    assert [one["share"] for one in found] == [0.5, 0.1, 0.01]
    assert [one["recall_10"]["mean"] for one in found] == [1.0, 1.0, 1.0]
    assert "Searches with a filter" in summary.markdown


def test_known_item_questions_are_synthetic_until_accepted(tmp_path: Path) -> None:
    passages = [
        Passage("a.md", 0, "How do I keep soup cold?", "Put it in the cellar."),
        Passage("b.md", 3, "Onions", "Boil the onions slowly in the large copper pot. Then stir."),
        Passage("c.md", 0, "", "x"),
    ]
    items = proposed(passages, count=10)
    assert [(item.doc_id, item.how) for item in items] == [("a.md", "heading"), ("b.md", "sentence")]
    write_golden(tmp_path / "set", items)
    read = read_golden(tmp_path / "set")
    assert read.synthetic == set(read.questions)
    assert set(read.groups.values()) == {"heading", "sentence"}
    first, second = read.questions
    left = from_body("set", settled(read.body(), accept=["all"], strike=[second]))
    assert (set(left.questions), left.synthetic) == ({first}, frozenset())
    with pytest.raises(ConfigError, match="no question nobody"):
        settled(read.body(), accept=["nobody"], strike=[])
    with pytest.raises(ConfigError, match="holds a golden set already"):
        write_golden(tmp_path / "set", items)
    assert json.loads((tmp_path / "set" / "queries.jsonl").read_text().splitlines()[0])["synthetic"] is True


def test_a_repetition_is_exact_although_the_embedder_never_answers_the_same_twice(
    db: Database, home: Path, golden: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    class Noisy:
        """Answers as a provider does: nearly the same each time. `shift` makes it another model."""

        shift = 0.0

        def __init__(self) -> None:
            self.inner = make_embedder(Settings().embedder)
            self.spec, self.counter, self.embed_documents = (
                self.inner.spec, self.inner.counter, self.inner.embed_documents,
            )  # fmt: skip

        def embed_queries(self, texts: Sequence[str]) -> Embedded:
            calls.append(len(texts))
            found = self.inner.embed_queries(texts)
            noise = np.random.default_rng(len(calls)).standard_normal(found.vectors.shape).astype(np.float32)
            return Embedded(found.vectors + noise * np.float32(1e-4 + self.shift), found.tokens)

    noisy = Noisy()
    monkeypatch.setattr(question_vectors, "embedder_of", lambda *_: noisy)
    version = add_tenant(db, "t", DOCUMENTS)
    build(db, "t", version, live=True)
    first, second = (evaluate(context(db, "t", **SECTIONS), golden=str(golden)) for _ in range(2))
    texts = calls[0]
    assert calls[1:] == [question_vectors.PROBES], "what is known is asked for again only to see who answers"
    for run in (first, second):
        found = replay(context(db, "t", **SECTIONS), run.eval_id)
        assert (found.equal, found.changed, len(calls)) == (True, (), 2)
    noisy.shift = 0.05
    evaluate(context(db, "t", **SECTIONS), golden=str(golden))
    assert calls[2:] == [question_vectors.PROBES, texts], "another model by now: all are embedded anew"
    assert "questions as v" in replay(context(db, "t", **SECTIONS), first.eval_id).changed[0]
