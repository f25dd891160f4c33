"""Triggers decide from numbers alone: when they fire, by which name, and how a failed run is tried again."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from kb_pipeline.embed.protocol import EmbedderSpec
from kb_pipeline.planner.distance import distances
from kb_pipeline.planner.firing import Attempts, cause_of, firing, run_key, wait_after
from kb_pipeline.planner.model import (
    Actual,
    BuildFacts,
    Desired,
    IndexParams,
    LiveFacts,
    Measure,
    QualityFacts,
    VersionFacts,
)
from kb_pipeline.planner.plan import need, plan
from kb_pipeline.planner.triggers import quality, wanted_method

SPEC = EmbedderSpec("local", "wordllama", 256, "vector")
PARAMS = IndexParams(16, 64, "vector")
WANTED = Desired("acme", SPEC, PARAMS, exact_below_rows=1000, recall_floor=0.95)
LIVE = BuildFacts(7, 1, "hnsw", "a", PARAMS, 10_000, 0, "live", "pass")
ACTUAL = Actual("acme", 10_000, 10_000, 0, (VersionFacts(1, SPEC, "live", 0),), (LIVE,), LiveFacts(1, 7, None, None))
GOOD = Measure(0.98, 2.0)
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def facts(
    *since: Measure, promoted: Measure | None = GOOD, made_for: str = "growth", before: Measure | None = None
) -> QualityFacts:
    return QualityFacts(promoted, since, made_for, before)


def test_quality_needs_three_bad_runs_in_a_row() -> None:
    low, slow = Measure(0.94, 2.0), Measure(0.98, 2.7)
    assert quality(facts(low, low), 0.95) is None
    assert quality(facts(low, GOOD, low), 0.95) is None
    found = quality(facts(low, low, low), 0.95)
    assert found is not None and found.name == "quality" and "0.9400" in found.reason and "0.95" in found.reason
    slower = quality(facts(slow, slow, slow), 0.95)
    assert slower is not None and dict(slower.numbers)["p95_ms_at_promotion"] == 2.0
    assert quality(facts(Measure(0.98, 2.6), slow, slow), 0.95) is None, "30 % over is the limit itself"
    assert quality(facts(low, slow, low), 0.95) is None, "three runs that are bad in different ways"
    assert quality(facts(slow, slow, slow, promoted=None), 0.95) is None, "nothing to compare with"


def test_quality_stops_after_a_rebuild_without_gain() -> None:
    low = Measure(0.94, 2.0)
    for made_for, before, promoted, fires in (
        ("quality", Measure(0.94, None), Measure(0.941, 2.0), False),
        ("quality", Measure(0.90, None), Measure(0.96, 2.0), True),
        ("growth", None, Measure(0.95, 2.0), True),
    ):
        found = quality(facts(low, low, low, promoted=promoted, made_for=made_for, before=before), 0.95)
        assert (found is not None) is fires


def test_quality_is_part_of_the_plan() -> None:
    low = Measure(0.94, 2.0)
    build = plan(WANTED, replace(ACTUAL, quality=facts(low, low, low))).rebuild
    assert build is not None and build.trigger == "quality" and dict(build.numbers)["recall"] == 0.94


def test_a_cause_names_what_is_live_and_what_is_wanted() -> None:
    grown = replace(ACTUAL, contents=13_000)
    trigger = need(WANTED, grown)
    assert trigger is not None and cause_of(trigger, WANTED, grown) == "b7"
    other = replace(WANTED, index=IndexParams(24, 128, "halfvec"))
    trigger = need(other, ACTUAL)
    assert trigger is not None and cause_of(trigger, other, ACTUAL) == "b7.m24-e128-halfvec"
    refused = BuildFacts(8, 1, "hnsw", "b", PARAMS, 13_000, 0, "dropped", "fail")
    answered = replace(grown, builds=(LIVE, refused))
    assert need(WANTED, answered) is None
    more = replace(answered, contents=16_900)
    trigger = need(WANTED, more)
    assert trigger is not None and cause_of(trigger, WANTED, more) == "b7.r8", "more growth is another cause"


def test_what_was_rolled_back_from_is_not_built_again_after_its_soak() -> None:
    newer = BuildFacts(9, 1, "hnsw", "b", PARAMS, 13_000, 0, "dropped", "pass")
    assert plan(WANTED, replace(ACTUAL, contents=13_000, builds=(LIVE, newer))).empty


def test_run_keys_are_used_once() -> None:
    first = firing("growth", "acme", "b7", Attempts(), "none", now=NOW)
    assert first.run_key == "growth:acme:b7:0" == run_key("growth", "acme", "b7", 0)
    assert firing("growth", "acme", "b7", Attempts(), "going", now=NOW).run_key is None
    assert firing("growth", "acme", "b7", Attempts(), "succeeded", now=NOW).run_key is None
    again = firing("growth", "acme", "b7", Attempts(), "failed", now=NOW)
    assert (again.run_key, again.attempts) == ("growth:acme:b7:1", Attempts(1, NOW)), "at once, with another key"


def test_later_failures_wait_longer_and_longer() -> None:
    rests = firing("growth", "acme", "b7", Attempts(1, NOW), "failed", now=NOW)
    assert rests.run_key is None and rests.attempts.failed == 2 and "2026-01-01T00:10:00" in rests.words
    assert firing("growth", "acme", "b7", rests.attempts, "none", now=NOW + timedelta(minutes=9)).run_key is None
    later = firing("growth", "acme", "b7", rests.attempts, "none", now=NOW + timedelta(minutes=10))
    assert later.run_key == "growth:acme:b7:2"
    waits = [wait_after(n) for n in range(1, 40)]
    assert waits == sorted(waits) and waits[-1] == timedelta(days=1)


def test_a_full_partition_keeps_a_new_tenant_exact_and_takes_none_away() -> None:
    assert wanted_method(5_000, 1_000, "exact", full=True) == "exact"
    assert wanted_method(5_000, 1_000, "hnsw", full=True) == "hnsw"
    exact = replace(LIVE, method="exact", slot=None, params=None, rows_at_build=500)
    crowded = replace(ACTUAL, builds=(exact,), neighbours=128)
    limited = replace(WANTED, max_neighbours=128)
    assert plan(limited, crowded).empty
    assert plan(limited, replace(crowded, neighbours=127)).rebuild is not None


def test_distances_say_how_far_each_trigger_is() -> None:
    words = {each.trigger: each for each in distances(WANTED, replace(ACTUAL, contents=12_000, quality=facts(GOOD)))}
    assert set(words) == {"growth", "churn", "parameters", "model", "quality"}
    assert "fires from 13,000, 1,000 from now" in words["growth"].words and not words["growth"].fires
    assert "fires from 2,001" in words["churn"].words
    assert "0 bad eval runs" in words["quality"].words
    due = distances(WANTED, replace(ACTUAL, contents=13_000))
    assert (due[0].trigger, due[0].fires) == ("growth", True)
    candidate = replace(LIVE, build_id=LIVE.build_id + 1, slot="b", rows_at_build=13_000, state="candidate")
    for verdict, word in (("pass", "waits for a person"), ("fail", "refused")):
        builds = (LIVE, replace(candidate, verdict=verdict))
        told = distances(replace(WANTED, review=True), replace(ACTUAL, contents=13_000, builds=builds))
        growth = next(each for each in told if each.trigger == "growth")
        assert not growth.fires and word in growth.words
