"""`ef_search` is fitted to the target (`auto`) or raised to hold the floor (nothing said), and used by searches."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
from index_helpers import Corpus, Facts, Vectors, clustered, load, serve, spec_of

from evals.fit import fitted
from evals.fit_questions import piece, varied
from evals.measure import Asked
from kb_pipeline.config.schema import Settings
from kb_pipeline.index.exact import nearest_distances, recall_of
from kb_pipeline.index.fit import WIDTHS, mean_and_error, smallest_width, targets
from kb_pipeline.stages.context import StageContext
from kb_pipeline.staging import Staging
from kb_pipeline.store.builds import read_build
from kb_pipeline.store.database import Database
from kb_pipeline.store.eval_reads import build_row
from kb_pipeline.store.search_sql import search_build

AUTO = {"index": {"ef_search": "auto", "target_recall": 0.95}, "eval": {"queries": 600}}


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


def test_the_smallest_width_that_reaches_the_target_with_something_to_spare() -> None:
    asked: list[int] = []

    def curve(width: int) -> tuple[float, float]:
        asked.append(width)
        return min(1.0, width / 100), 0.0

    found = smallest_width(curve, 0.8)
    assert found == min(width for width in WIDTHS if width / 100 >= 0.84) and len(asked) <= 7
    assert smallest_width(lambda _: (0.5, 0.0), 0.8) == 1000 and smallest_width(lambda _: (0.5, 0.0), 0.8, [1, 2]) == 2
    assert smallest_width(lambda width: (min(1.0, width / 100), 0.1), 0.8) == 90, "few questions: a standard error"
    assert targets(0.95) == pytest.approx({"interactive": 0.90, "default": 0.95, "offline": 0.9875})


def test_variants_of_one_question_are_no_evidence_of_their_own() -> None:
    of_two = mean_and_error(np.array([1.0, 1.0, 0.8, 0.8]), np.array([0, 0, 1, 1]))
    assert of_two == pytest.approx(mean_and_error(np.array([1.0, 0.8]), np.array([0, 1])))
    texts = ["where is the brake", "brake"]
    assert sorted(varied(texts, 9)) == sorted(
        (0, text) for text in ("is the brake", "where the brake", "where is brake", "where is the")
    )
    assert len(varied(texts * 3, 5)) == 5 and {number for number, _ in varied(texts * 3, 3)} == {0, 2, 4}
    long = "a sentence of the corpus that has a good many words in it"
    assert piece(long) in long and 3 <= len(piece(long).split()) <= 6 and piece("one two") == "one two"


def fit(ctx: StageContext, build_id: int, asked: Asked) -> dict[str, int]:
    """What is kept with the build."""
    with ctx.db.connect("writer", "acme", autocommit=True) as conn:
        build = build_row(conn, "acme", build_id)
        assert build is not None
        given = fitted(ctx, conn, build, asked, {}).params.get("ef_search", {})
        stored = read_build(conn, "acme", build_id)
    assert stored is not None and stored.params.get("ef_search", {}) == given
    return given


def served(db: Database, corpus: Corpus, build_id: int, queries: Vectors, width: int | None) -> float:
    """Recall@10 with this width; None: the one that searches are served with."""
    return float(np.mean(each_served(db, corpus, build_id, queries, width)))


def at_most(recalls: Vectors) -> float:
    """What recall may be, as far as so many questions can tell: three standard errors above their mean. Layers of an
    index are drawn by chance, so another one is served here every time."""
    return float(recalls.mean() + 3 * recalls.std() / len(recalls) ** 0.5)


def each_served(db: Database, corpus: Corpus, build_id: int, queries: Vectors, width: int | None) -> Vectors:
    """The same of each question."""
    exact = nearest_distances([corpus.vectors], queries, 10)
    with db.connect("reader", "acme", autocommit=True) as conn:
        found = [search_build(conn, "acme", build_id, query, 10, width) for query in queries]
    return np.array([recall_of([d for _, d in one], row) for one, row in zip(found, exact, strict=True)])


def test_auto_reaches_the_target_on_held_out_queries_without_waste(db: Database) -> None:
    every = clustered(3_800, 32, clusters=2_000)
    corpus = load(db, "acme", every[:3_000], spec=spec_of(32))
    asked, held_out = Asked(every[3_000:3_400], {}), every[3_400:]
    build_id = serve(db, corpus, m=6, ef_construction=16)
    widths = fit(context(db, **AUTO), build_id, asked)
    assert widths["interactive"] <= widths["default"] <= widths["offline"]
    assert served(db, corpus, build_id, asked.recall, None) >= 0.95
    assert at_most(each_served(db, corpus, build_id, held_out, None)) >= 0.95
    assert served(db, corpus, build_id, held_out, round(widths["default"] / 1.5) - 1) < 0.95, "half more than needed"
    assert fit(context(db, **AUTO), build_id, Asked(every[:50], {})) == widths, "it is fitted once"
    tighter = {**AUTO, "index": {"ef_search": "auto", "target_recall": 0.98}}
    assert fit(context(db, **tighter), build_id, asked)["default"] > widths["default"]


def test_questions_of_people_decide_where_there_are_enough(db: Database) -> None:
    corpus = load(db, "acme", clustered(2_000, 48, clusters=20), spec=spec_of(48))
    strange = clustered(60, 48, seed=9, clusters=60)  # near no stored vector: harder to search
    easy = Asked(corpus.vectors[:200], {})
    first, second = (serve(db, corpus, m=4, ef_construction=16) for _ in range(2))
    of_corpus = fit(context(db, **AUTO), first, easy)
    of_people = fit(context(db, **AUTO), second, Asked(easy.recall, {f"q{n}": one for n, one in enumerate(strange)}))
    assert of_people["default"] > of_corpus["default"]


def test_the_usual_width_is_raised_where_recall_could_be_under_the_floor(db: Database) -> None:
    corpus = load(db, "acme", clustered(2_000, 48, clusters=2_000), spec=spec_of(48))
    hard = clustered(200, 48, seed=9, clusters=200)  # recall 0.91 at 100, 0.97 at 200
    build_id = serve(db, corpus, m=6, ef_construction=12)
    asked = Asked(hard[:100], {})
    assert fit(context(db, index={"ef_search": 20}), build_id, asked) == {}, "a number is a person's word"
    assert fit(context(db, eval={"recall_floor": 0.2}), build_id, asked) == {}
    raised = fit(context(db), build_id, asked)
    assert 100 < raised["default"] <= 400 and raised["interactive"] < raised["default"] < raised["offline"]
    assert served(db, corpus, build_id, asked.recall, 100) < 0.95 <= served(db, corpus, build_id, asked.recall, None)
    assert (
        served(db, corpus, build_id, hard[100:], 100)
        < 0.95
        <= at_most(each_served(db, corpus, build_id, hard[100:], None))
    )
    assert fit(context(db, eval={"recall_floor": 0.2}), build_id, asked) == {}, "the floor was lowered"


def test_an_empty_build_has_nothing_to_fit(db: Database) -> None:
    corpus = load(db, "acme", clustered(60, 16), spec=spec_of(16))
    build_id = serve(db, corpus)
    assert fit(context(db), build_id, Asked(corpus.vectors, {})) == {}
    with db.connect("owner") as conn:
        conn.execute("UPDATE kb.contents SET orphaned_at = now()")
    assert fit(context(db, **AUTO), build_id, Asked(corpus.vectors[:0], {})) == {}
