"""How far each trigger of a tenant is from firing: what `kb doctor --triggers` shows. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from kb_pipeline.planner.model import Actual, BuildFacts, Desired
from kb_pipeline.planner.plan import answered, need
from kb_pipeline.planner.triggers import (
    BAD_RUNS,
    CHURN_PERCENT,
    GROWTH_PERCENT,
    SLOWER,
    bad_p95,
    bad_recall,
    full,
    gained,
    quality,
)


@dataclass(frozen=True, slots=True)
class Distance:
    """One trigger of one tenant."""

    trigger: str
    fires: bool
    """It is due, and a run would be asked for."""
    words: str
    """What is, what the limit is, and how far that is away."""


def distances(desired: Desired, actual: Actual) -> list[Distance]:
    """Every trigger, those that fire first."""
    if actual.live is None:
        return [Distance("first", True, "nothing is live: the next `kb run` or nightly run makes the first build")]
    live = next((build for build in actual.builds if build.build_id == actual.live.build_id), None)
    if live is None:
        return [Distance("first", True, "the live build is gone: the next `kb run` makes one")]
    due, answer = need(desired, actual), answered(desired, actual)

    def line(name: str, words: str) -> Distance:
        if answer is not None and answer[0].name == name:
            words += f"; {_answered(answer[1])}, so it does not fire"
        return Distance(name, due is not None and due.name == name, words)

    found = [line("model", _model(desired, actual))]
    if live.method == "exact":
        left = desired.exact_below_rows - actual.contents
        words = f"scanned exactly; an index comes with {desired.exact_below_rows:,} contents, {max(left, 0):,} from now"
        if left <= 0 and full(desired, actual):
            words = (
                f"scanned exactly: {actual.neighbours:,} indexes in its partition, {desired.max_neighbours:,} may be"
            )
        found.append(line("growth", words))
        found.append(line("churn", "scanned exactly: nothing to build anew"))
        found.append(line("parameters", "scanned exactly: no index, no parameters"))
    else:
        rows, deleted = live.rows_at_build, actual.deleted_total - live.deleted_at_build
        grown = -(-rows * GROWTH_PERCENT // 100)
        churned = rows * CHURN_PERCENT // 100 + 1
        found.append(
            line(
                "growth",
                f"{actual.contents:,} contents, {rows:,} at build; fires from {grown:,}, "
                f"{max(grown - actual.contents, 0):,} from now; "
                f"the index is given up under {-(-desired.exact_below_rows // 2):,}",
            )
        )
        found.append(
            line(
                "churn",
                f"{deleted:,} deleted since the build of {rows:,}; fires from {churned:,}, "
                f"{max(churned - deleted, 0):,} from now",
            )
        )
        same = live.params == desired.index
        found.append(
            line(
                "parameters",
                f"built as configured ({desired.index})"
                if same
                else f"built with {live.params}, configured {desired.index}",
            )  # fmt: skip
        )
    found.append(line("quality", _quality(desired, actual)))
    return sorted(found, key=lambda each: not each.fires)


def _answered(build: BuildFacts) -> str:
    if build.verdict == "fail":
        return f"build {build.build_id} was made for it and refused"
    if build.state == "candidate":
        return f"build {build.build_id} was made for it and waits for a person"
    return f"build {build.build_id} was made for it and rolled back from"


def _model(desired: Desired, actual: Actual) -> str:
    live = next((one for one in actual.versions if actual.live and one.version == actual.live.version), None)
    wanted = f"{desired.spec.provider}/{desired.spec.model} at {desired.spec.dims} dims"
    if live is not None and live.spec.hash() == desired.spec.hash():
        return f"v{live.version} is the configured {wanted}"
    return f"live is v{live.version if live else '?'}, configured is {wanted}"


def _quality(desired: Desired, actual: Actual) -> str:
    facts = actual.quality
    if facts is None or not facts.since:
        return f"no eval run since the promotion; {BAD_RUNS} bad ones in a row would fire"
    base = facts.at_promotion.p95_ms if facts.at_promotion else None
    bad = 0
    for run in facts.since[:BAD_RUNS]:
        if not (bad_recall([run], desired.recall_floor) or bad_p95([run], facts.at_promotion)):
            break
        bad += 1
    last = facts.since[0]
    recall = "-" if last.recall is None else f"{last.recall:.4f}"
    p95 = "-" if last.p95_ms is None else f"{last.p95_ms:.2f} ms"
    limit = "none" if not base else f"{base * SLOWER:.2f} ms"
    words = (
        f"recall {recall} (floor {desired.recall_floor:g}), p95 {p95} (limit {limit}); {bad} bad eval runs in a row of "
        f"{BAD_RUNS}"
    )
    if bad >= BAD_RUNS and quality(facts, desired.recall_floor) is None and not gained(facts):
        words += "; a rebuild for it brought no gain, so it does not fire again"
    return words
