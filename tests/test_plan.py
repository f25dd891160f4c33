"""The planner decides from numbers alone: these tests need neither Postgres nor Dagster."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from kb_pipeline.embed.protocol import EmbedderSpec
from kb_pipeline.planner.model import (
    Actual,
    Backfill,
    Build,
    BuildFacts,
    Desired,
    EnsureVersion,
    Evaluate,
    IndexParams,
    LiveFacts,
    Promote,
    VersionFacts,
)
from kb_pipeline.planner.plan import plan

SPEC = EmbedderSpec("local", "wordllama", 256, "vector")
OTHER = EmbedderSpec("openai", "text-embedding-3-small", 1536, "vector")
PARAMS = IndexParams(16, 64, "vector")
WANTED = Desired("acme", SPEC, PARAMS, exact_below_rows=1000)
EMPTY = Actual("acme", 0, 0, 0, (), (), None)


def serving(
    *, contents: int = 10_000, rows: int = 10_000, deleted: int = 0, params: IndexParams | None = PARAMS
) -> Actual:
    method = "exact" if params is None else "hnsw"
    slot = None if params is None else "a"
    live = BuildFacts(1, 1, method, slot, params, rows, 0, "live", "pass")
    version = VersionFacts(1, SPEC, "live", 0)
    return Actual("acme", contents, contents, deleted, (version,), (live,), LiveFacts(1, 1, None, None))


def candidate(verdict: str | None, **changes: object) -> BuildFacts:
    return replace(BuildFacts(2, 1, "hnsw", "b", PARAMS, 10_000, 0, "candidate", verdict), **changes)


def built(actual: Actual, desired: Desired = WANTED, *, rebuild: bool = False) -> Build | None:
    return plan(desired, actual, rebuild=rebuild).rebuild


def test_an_empty_tenant_gets_a_version_and_an_exact_build() -> None:
    actions = plan(WANTED, EMPTY).actions
    assert [type(action) for action in actions] == [EnsureVersion, Build, Evaluate, Promote]
    assert built(EMPTY) == Build(None, "exact", None, "first", "the tenant has no live build yet")


def test_a_tenant_as_configured_has_an_empty_plan() -> None:
    assert plan(WANTED, serving()).empty


def test_growth_fires_at_thirty_percent_and_not_below() -> None:
    assert built(serving(contents=12_999)) is None
    build = built(serving(contents=13_000))
    assert build is not None and build.trigger == "growth" and "13000" in build.reason


def test_churn_fires_above_twenty_percent() -> None:
    assert built(serving(deleted=2_000)) is None
    build = built(serving(deleted=2_001))
    assert build is not None and build.trigger == "churn"


def test_other_parameters_are_a_rebuild() -> None:
    build = built(serving(), replace(WANTED, index=IndexParams(24, 128, "vector")))
    assert build is not None and build.trigger == "parameters" and build.params == IndexParams(24, 128, "vector")


def test_other_embedder_adds_a_version_fills_it_and_builds_it() -> None:
    actions = plan(replace(WANTED, spec=OTHER), serving()).actions
    assert actions[:2] == (EnsureVersion(OTHER, None), Backfill(None, 10_000))
    assert isinstance(actions[2], Build) and actions[2].trigger == "model"


def test_going_back_to_an_earlier_model_finds_its_version() -> None:
    actual = replace(serving(), versions=(VersionFacts(1, SPEC, "live", 0), VersionFacts(2, OTHER, "retired", 10_000)))
    assert plan(replace(WANTED, spec=OTHER), actual).actions[:2] == (EnsureVersion(OTHER, 2), Backfill(2, 10_000))


def test_the_version_in_soak_is_kept_complete() -> None:
    actual = serving()
    actual = replace(
        actual,
        live=LiveFacts(1, 1, 2, 5),
        versions=(
            VersionFacts(1, SPEC, "live", 3),
            VersionFacts(2, OTHER, "previous", 4),
            VersionFacts(3, OTHER, None, 9),
        ),
    )
    assert plan(WANTED, actual).actions == (Backfill(1, 3), Backfill(2, 4))


def test_small_tenants_stay_exact_whatever_they_grow_by_until_the_threshold() -> None:
    assert plan(WANTED, serving(contents=900, rows=10, params=None)).empty
    build = built(serving(contents=1_000, rows=10, params=None))
    assert build is not None and build.method == "hnsw"


def test_an_index_is_given_up_only_well_below_the_threshold() -> None:
    assert built(serving(contents=800, rows=800)) is None
    build = built(serving(contents=499, rows=499))
    assert build is not None and build.method == "exact"


def test_an_unmeasured_candidate_is_measured_not_built_again() -> None:
    actual = replace(serving(rows=5_000), builds=(*serving(rows=5_000).builds, candidate(None)))
    assert plan(WANTED, actual).actions == (Evaluate(2), Promote(2))


def test_a_passed_candidate_is_promoted_but_waits_in_review() -> None:
    actual = replace(serving(rows=5_000), builds=(*serving(rows=5_000).builds, candidate("pass")))
    assert plan(WANTED, actual).actions == (Promote(2),)
    assert plan(replace(WANTED, review=True), actual).empty


def test_what_was_refused_is_not_built_again_for_the_same_cause_even_after_it_was_dropped() -> None:
    for state in ("candidate", "dropped"):
        refused = candidate("fail", state=state)
        actual = replace(serving(rows=5_000), builds=(*serving(rows=5_000).builds, refused))
        assert plan(WANTED, actual).empty
        assert built(actual, rebuild=True) is not None
        assert built(replace(actual, contents=13_000)) is not None, "new growth is a new cause"


def test_what_a_person_rolled_back_from_is_not_built_again() -> None:
    wanted = replace(WANTED, index=IndexParams(24, 128, "vector"))
    newer = candidate("pass", state="previous", params=wanted.index)
    actual = replace(serving(), builds=(*serving().builds, newer), live=LiveFacts(1, 1, 1, 2))
    assert plan(wanted, actual).empty
    other = replace(WANTED, index=IndexParams(32, 200, "vector"))
    assert built(actual, other) is not None, "another wish is another cause"


def test_with_nothing_live_a_refused_candidate_is_measured_again() -> None:
    actual = replace(serving(), live=None, builds=(candidate("fail"),))
    assert plan(WANTED, actual).actions == (Evaluate(2), Promote(2))


@given(
    contents=st.integers(0, 50_000),
    rows=st.integers(0, 50_000),
    deleted=st.integers(0, 50_000),
    threshold=st.integers(0, 20_000),
)
def test_the_plan_of_an_applied_plan_is_empty(contents: int, rows: int, deleted: int, threshold: int) -> None:
    desired = replace(WANTED, exact_below_rows=threshold)
    actual = serving(contents=contents, rows=rows, deleted=deleted)
    build = built(actual, desired)
    if build is None:
        return
    live = BuildFacts(2, 1, build.method, "b", build.params, contents, deleted, "live", "pass")
    after = replace(actual, builds=(live,), live=LiveFacts(1, 2, 1, 1))
    assert plan(desired, after).empty
