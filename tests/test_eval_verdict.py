"""Rules: each number against its limit, and which of them stop a build."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from evals.latency import measure_latency
from evals.measured import BuildMeasured, Corpus, Cost, Latency, Measured, PastRun, SweepPoint, Throughput
from evals.report.axes import label, spread, ticks
from evals.report.compose import compose
from evals.report.html import html
from evals.report.markdown import markdown
from evals.report.numbers import milliseconds, share, size
from evals.statistics import Interval, compare
from evals.verdict import judge
from kb_pipeline.config.schema import EvalConfig

POINT = SweepPoint(100, 0.97, 0.96, 0.8, 1.4, default=True)
LATENCY = Latency(0.8, 2.0, 4.0, 200.0, 400, (Throughput(1, 900.0), Throughput(2, 1500.0)))
BUILD = BuildMeasured(
    build_id=2,
    version=1,
    model="local/m",
    dims=256,
    storage="vector",
    method="hnsw",
    params={"m": 16, "ef_construction": 64},
    state="candidate",
    contents=1000,
    vectors=1000,
    seconds=2.0,
    bytes=1_000_000,
    created_at="2026-01-01T00:00:00Z",
    recall_10=Interval(0.97, 0.96, 0.98, 200),
    recall_20=Interval(0.96, 0.95, 0.97, 200),
    sweep=(POINT,),
    default=POINT,
    latency=LATENCY,
    quality=None,
)
CORPUS = Corpus(
    10,
    1200,
    1000,
    50_000,
    0,
    0,
    ((40, 600), (90, 400)),
    (("paragraph", 1200),),
    (("markdown", 10),),
    (("english", 1000),),
)
MEASURED = Measured(
    tenant_id="acme",
    created_at="2026-01-01T00:00:00Z",
    subject=BUILD,
    live=None,
    questions=200,
    question_source="200 sentences",
    golden=None,
    golden_questions={},
    golden_problems=(),
    golden_unknown=0.0,
    comparisons={},
    recall_comparison=None,
    corpus=CORPUS,
    cost=Cost(1000, 50_000, 0.1, 0.1, 1000),
    hashes={"corpus": "a"},
    versions={"PostgreSQL": "18"},
    seconds=3.0,
)
CONFIG = EvalConfig()


def statuses(measured: Measured, config: EvalConfig = CONFIG) -> dict[str, str]:
    return {rule.name: rule.status for rule in judge(measured, config).rules}


def compared(old: list[float], new: list[float]) -> Measured:
    return replace(MEASURED, golden="set", live=replace(BUILD, build_id=1), comparisons={"ndcg@10": compare(old, new)})


def test_without_a_live_build_comparisons_are_skipped_and_say_so() -> None:
    verdict = judge(MEASURED, CONFIG)
    assert verdict.verdict == "pass"
    assert statuses(MEASURED) == {
        "coverage": "pass",
        "recall": "pass",
        "golden set": "skipped",
        "quality": "skipped",
        "latency": "skipped",
    }
    assert "no live build" in verdict.rules[-1].words


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"recall_10": Interval(0.9499, 0.94, 0.96, 200)}, "recall"),
        ({"vectors": 999}, "coverage"),
    ],
)
def test_a_floor_that_is_missed_fails_with_number_and_limit(change: dict[str, Any], rule: str) -> None:
    measured = replace(MEASURED, subject=replace(BUILD, **change))
    verdict = judge(measured, CONFIG)
    assert verdict.verdict == "fail" and statuses(measured)[rule] == "fail"
    failed = next(each for each in verdict.rules if each.name == rule)
    assert failed.number is not None and failed.limit is not None and failed.number < failed.limit
    assert verdict.reasons[0] == failed.words


def test_a_detected_loss_beyond_the_tolerance_fails_and_chance_only_warns() -> None:
    worse = compared([1.0] * 500, [1.0] * 475 + [0.0] * 25)
    assert statuses(worse)["quality"] == "fail" and judge(worse, CONFIG).verdict == "fail"
    unsure = compared([1.0] * 10, [1.0] * 9 + [0.0])
    assert statuses(unsure)["quality"] == "warn" and judge(unsure, CONFIG).verdict == "pass"
    assert "questions would show it" in judge(unsure, CONFIG).reasons[-1]
    assert statuses(compared([0.5] * 10, [0.5] * 10))["quality"] == "pass"
    assert statuses(worse, EvalConfig(quality_tolerance=0.06))["quality"] == "pass"


def test_latency_may_double_and_milliseconds_do_not_matter() -> None:
    def with_p95(new: float, old: float) -> str:
        subject = replace(BUILD, latency=replace(LATENCY, p95_ms=new))
        live = replace(BUILD, build_id=1, latency=replace(LATENCY, p95_ms=old))
        return statuses(replace(MEASURED, subject=subject, live=live))["latency"]

    assert with_p95(19.9, 10.0) == "pass" and with_p95(20.1, 10.0) == "fail"
    assert with_p95(5.5, 0.6) == "pass" and with_p95(5.7, 0.6) == "fail"


def test_a_golden_set_of_another_corpus_fails() -> None:
    assert statuses(replace(MEASURED, golden="set", golden_unknown=0.06))["golden set"] == "fail"
    assert statuses(replace(MEASURED, golden="set", golden_unknown=0.01))["golden set"] == "warn"


def test_the_forms_hold_the_same_numbers() -> None:
    measured = replace(
        MEASURED, live=replace(BUILD, build_id=1, state="live"), recall_comparison=compare([0.9] * 20, [1.0] * 20)
    )
    history = [PastRun(n, 2, "2026-01-01T00:00:00Z", "pass", 0.97, None, 2.0, 1000, None) for n in (1, 2, 3)]
    report = compose(measured, judge(measured, CONFIG), eval_id=3, history=history)
    page, text = html(report), markdown(report)
    for shown in ("0.970", "2.00 ms", "1.0 MB", "+0.100"):
        assert shown in page and shown in text, shown
    assert page.count("<svg") == 2 * text.count("data:image/svg+xml")
    for title in (
        "Recall over runs",
        "Recall and latency",
        "Latency under load",
        "Throughput",
        "Sizes of contents",
        "Kinds of chunks",
    ):
        assert title in page and title in text


def test_open_loop_latency_counts_what_a_stall_held_up() -> None:
    """Every limit is one from below: a busy machine adds to both builds, and a stall it cannot take away."""
    import time
    from collections.abc import Iterator
    from contextlib import contextmanager

    import numpy as np

    from evals.latency import _open_loop  # pyright: ignore
    from evals.searchers import Searcher

    def with_stall(every: int) -> Any:
        calls = 0

        @contextmanager
        def opened() -> Iterator[Searcher]:
            def search(vector: Any, k: int, ef_search: int | None) -> list[bytes]:
                nonlocal calls
                calls += 1
                time.sleep(0.15 if every and calls % every == 0 else 0.001)
                return []

            yield search

        return opened

    questions = np.zeros((5, 4), dtype=np.float32)
    found = measure_latency(
        {"calm": with_stall(0), "stalls": with_stall(20)},
        {"calm": questions, "stalls": questions},
        seconds=0.6,
        rounds=2,
        throughput_s=0.1,
        workers=1 + 3,
    )
    assert found["calm"].rate_per_second == found["stalls"].rate_per_second
    assert found["stalls"].p99_ms > 100 and found["stalls"].p99_ms > found["calm"].p50_ms > 0.9
    assert [level.callers for level in found["calm"].throughput] == [1, 2, 4]
    due = np.arange(0.0, 0.1, 0.01)
    with with_stall(1)() as one:
        held_up = _open_loop([one], questions, 10, due)
    assert (held_up >= 0.15 * np.arange(1, 11) - due - 1e-3).all(), "from when each was due, not from when it was asked"


def test_numbers_read_well() -> None:
    assert (share(0.99996), share(1.0), share(0.5)) == ("99.99\u00a0%", "100\u00a0%", "50.0\u00a0%")
    assert (milliseconds(0.834), milliseconds(12.44), milliseconds(1204)) == ("0.83 ms", "12.4 ms", "1,204 ms")
    assert (size(812), size(79_100_000)) == ("812 bytes", "79.1 MB")
    assert ticks(0, 9.3, about=4) == [0.0, 2.5, 5.0, 7.5, 10.0]
    assert label(0.955, 0.005) == "0.955" and label(12_000, 2000) == "12k"
    assert spread([0.99, 1.0], most=1.0, least=0.04)[1] == 1.0
