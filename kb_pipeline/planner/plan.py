"""`plan(desired, actual)`: the pure heart. The nightly run, a rebuild and a model migration are this one function."""

from __future__ import annotations

from collections.abc import Iterator

from kb_pipeline.planner.model import (
    Action,
    Actual,
    Backfill,
    Build,
    BuildFacts,
    Desired,
    EnsureVersion,
    Evaluate,
    Method,
    Plan,
    Promote,
    VersionFacts,
)
from kb_pipeline.planner.triggers import Trigger, full, quality, stale, wanted_method

GONE = ("dropped", "pass")
"""State and verdict of a build that a person rolled back from, after its soak."""


def plan(desired: Desired, actual: Actual, *, rebuild: bool = False) -> Plan:
    """What brings the tenant from `actual` to `desired`, in order. The plan of an applied plan is empty.

    `rebuild` asks for a new build even where none is due.
    """
    wanted = wanted_version(desired, actual)
    actions = [*_versions(desired, actual, wanted), *_builds(desired, actual, wanted, rebuild=rebuild)]
    return Plan(desired.tenant_id, tuple(actions))


def need(desired: Desired, actual: Actual) -> Trigger | None:
    """The trigger that has something to build, to measure or to promote now; None when there is nothing, or when what
    was built for it was refused or rolled back from. What sensors ask; the missing vectors do not matter to it."""
    wanted = wanted_version(desired, actual)
    if next(_builds(desired, actual, wanted, rebuild=False), None) is None:
        return None
    return _trigger(desired, actual, None if wanted is None else wanted.version)


def answered(desired: Desired, actual: Actual) -> tuple[Trigger, BuildFacts] | None:
    """The trigger over its threshold that asks for nothing, and the build that answers it already: it was refused,
    waits for a person, or was rolled back from. None when nothing is over, or `need` asks for a run."""
    wanted = wanted_version(desired, actual)
    version = None if wanted is None else wanted.version
    trigger = _trigger(desired, actual, version)
    if trigger is None or next(_builds(desired, actual, wanted, rebuild=False), None) is not None:
        return None
    build = _candidate(desired, actual, version)
    return None if build is None else (trigger, build)


def wanted_version(desired: Desired, actual: Actual) -> VersionFacts | None:
    """The embedding version of the configured embedder, None while it does not exist."""
    wanted_hash = desired.spec.hash()
    return next((facts for facts in actual.versions if facts.spec.hash() == wanted_hash), None)


def served_versions(actual: Actual) -> set[int]:
    """Versions a search may name now: the live one and the one in soak. New documents need vectors of all of them."""
    if actual.live is None:
        return set()
    previous = actual.live.previous_version
    return {actual.live.version} if previous is None else {actual.live.version, previous}


def _versions(desired: Desired, actual: Actual, wanted: VersionFacts | None) -> Iterator[Action]:
    if wanted is None or wanted.state in (None, "retired"):
        yield EnsureVersion(desired.spec, None if wanted is None else wanted.version)
    if wanted is None:
        if actual.contents:
            yield Backfill(None, actual.contents)
        return
    should_exist = served_versions(actual) | {wanted.version}
    for facts in actual.versions:
        if facts.version in should_exist and facts.missing:
            yield Backfill(facts.version, facts.missing)


def _builds(desired: Desired, actual: Actual, wanted: VersionFacts | None, *, rebuild: bool) -> Iterator[Action]:
    version = None if wanted is None else wanted.version
    trigger = Trigger("asked", "asked for by a person") if rebuild else _trigger(desired, actual, version)
    if trigger is None:
        return
    candidate = None if rebuild else _candidate(desired, actual, version)
    if candidate is not None and (candidate.state == "previous" or (candidate.state, candidate.verdict) == GONE):
        return  # A person rolled back from it: going forward again is theirs to ask for.
    if candidate is None:
        method = wanted_method(
            actual.contents, desired.exact_below_rows, _method_of_live(actual, version), full=full(desired, actual)
        )
        params = desired.index if method == "hnsw" else None
        yield Build(version, method, params, trigger.name, trigger.reason, trigger.numbers)
        yield Evaluate(None)
        yield Promote(None)
    elif candidate.verdict is None:
        yield Evaluate(candidate.build_id)
        yield Promote(candidate.build_id)
    elif candidate.verdict == "pass" and not desired.review:
        yield Promote(candidate.build_id)
    elif candidate.verdict == "fail" and actual.live is None and candidate.state == "candidate":
        # Nothing is served, so a person is mending what the gate refused: measure again rather than build again.
        yield Evaluate(candidate.build_id)
        yield Promote(candidate.build_id)


def _trigger(desired: Desired, actual: Actual, version: int | None) -> Trigger | None:
    if actual.live is None:
        return Trigger("first", "the tenant has no live build yet")
    if actual.live.version != version:
        named = f"{desired.spec.provider}/{desired.spec.model} at {desired.spec.dims} dims"
        return Trigger("model", f"the live version is v{actual.live.version}, configured is {named}")
    live = next((build for build in actual.builds if build.build_id == actual.live.build_id), None)
    if live is None:
        return Trigger("first", "the live build is gone")
    return stale(desired, actual, live) or quality(actual.quality, desired.recall_floor)


def _candidate(desired: Desired, actual: Actual, version: int | None) -> BuildFacts | None:
    """The newest build that already answers the need: right version, method and parameters, not outgrown itself.

    A `previous` build counts when it is newer than the live one, which is what a rollback leaves.
    """
    live = 0 if actual.live is None else actual.live.build_id
    fitting = [
        build
        for build in actual.builds
        if (build.state in ("candidate", "dropped") or (build.state == "previous" and build.build_id > live))
        and build.version == version
        and build.method
        == wanted_method(actual.contents, desired.exact_below_rows, build.method, full=full(desired, actual))
        and stale(desired, actual, build) is None
    ]
    return max(fitting, key=lambda build: build.build_id, default=None)


def _method_of_live(actual: Actual, version: int | None) -> Method | None:
    if actual.live is None or actual.live.version != version:
        return None
    return next((build.method for build in actual.builds if build.build_id == actual.live.build_id), None)
