"""When a rebuild is worth it: pure decisions on numbers, each with its reason in one sentence.

`store/fleet.py` asks the same of all tenants in one statement, with the limits of this file; change both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kb_pipeline.planner.model import Actual, BuildFacts, Desired, IndexParams, Measure, Method, QualityFacts

GROWTH_PERCENT = 130
"""Contents in percent of the rows at build from which an HNSW is built anew."""
CHURN_PERCENT = 20
"""Contents deleted since the build, in percent of its rows, above which it is built anew: dead elements cost recall."""
SLOWER = 1.30
"""Times the p95 at promotion above which an eval run counts as bad."""
BAD_RUNS = 3
"""Bad eval runs in a row that are a cause: one may be a busy machine."""


@dataclass(frozen=True, slots=True)
class Trigger:
    """Why something is to be built."""

    name: str
    """first, growth, churn, parameters, model, quality or asked."""
    reason: str
    """One sentence with the numbers."""
    numbers: tuple[tuple[str, float], ...] = ()
    """The numbers of the sentence by name."""


def full(desired: Desired, actual: Actual) -> bool:
    """The tenant's partition has as many indexes as it may have: each one costs every search there planning time."""
    return actual.neighbours >= desired.max_neighbours


def wanted_method(contents: int, exact_below_rows: int, current: Method | None, *, full: bool = False) -> Method:
    """Exact scan or HNSW. An HNSW is given up only below half the threshold, so that a tenant at the border stays put;
    a new one is not made in a `full` partition."""
    if current == "hnsw":
        return "exact" if contents * 2 < exact_below_rows else "hnsw"
    return "exact" if full or contents < exact_below_rows else "hnsw"


def growth(contents: int, rows_at_build: int) -> Trigger | None:
    """Fires from 30 % more contents than the build was made with."""
    if contents * 100 < rows_at_build * GROWTH_PERCENT or contents == rows_at_build:
        return None
    return Trigger(
        "growth",
        f"{contents} contents, {rows_at_build} when it was built; the limit is 1.30 times",
        (("contents", contents), ("rows_at_build", rows_at_build)),
    )


def churn(deleted: int, rows_at_build: int) -> Trigger | None:
    """Fires when more than 20 % of the build's rows were deleted since."""
    if deleted * 100 <= rows_at_build * CHURN_PERCENT:
        return None
    return Trigger(
        "churn",
        f"{deleted} of {rows_at_build} contents deleted since it was built; the limit is 20 %",
        (("deleted", deleted), ("rows_at_build", rows_at_build)),
    )


def parameters(built: IndexParams | None, wanted: IndexParams) -> Trigger:
    """Of a build with other parameters than the configured ones."""
    numbers = [("m", wanted.m), ("ef_construction", wanted.ef_construction)]
    if built is not None:
        numbers += [("m_at_build", built.m), ("ef_construction_at_build", built.ef_construction)]
    return Trigger("parameters", f"built with {built}, configured {wanted}", tuple(numbers))


def quality(facts: QualityFacts | None, recall_floor: float) -> Trigger | None:
    """Fires when the last three eval runs of the live build were all bad in the same way: recall under the floor, or
    p95 30 % over the value at promotion. Stops after one rebuild for it that brought no gain."""
    if facts is None or len(facts.since) < BAD_RUNS:
        return None
    last = facts.since[:BAD_RUNS]
    recalls, p95s = bad_recall(last, recall_floor), bad_p95(last, facts.at_promotion)
    if not (recalls or p95s) or (facts.made_for == "quality" and not gained(facts)):
        return None
    said: list[str] = []
    numbers: list[tuple[str, float]] = []
    if recalls:
        said.append(f"recall@10 was {', '.join(f'{value:.4f}' for value in recalls)}, the floor is {recall_floor:g}")
        numbers += [("recall", recalls[0]), ("recall_floor", recall_floor)]
    if p95s:
        base = facts.at_promotion.p95_ms if facts.at_promotion and facts.at_promotion.p95_ms else 0.0
        said.append(f"p95 was {', '.join(f'{value:.2f}' for value in p95s)} ms, {base:.2f} ms at promotion, the limit "
                    f"is {base * SLOWER:.2f} ms")  # fmt: skip
        numbers += [("p95_ms", p95s[0]), ("p95_ms_at_promotion", base)]
    return Trigger("quality", f"{' and '.join(said)}, in {BAD_RUNS} eval runs in a row", tuple(numbers))


def bad_recall(last: Sequence[Measure], floor: float) -> list[float]:
    """The recalls of these runs when all of them are under the floor, else nothing."""
    found = [run.recall for run in last if run.recall is not None and run.recall < floor]
    return found if len(found) == len(last) else []


def bad_p95(last: Sequence[Measure], at_promotion: Measure | None) -> list[float]:
    """The p95 of these runs when all of them are 30 % over the value at promotion, else nothing."""
    base = at_promotion.p95_ms if at_promotion is not None else None
    if not base:
        return []
    found = [run.p95_ms for run in last if run.p95_ms is not None and run.p95_ms > base * SLOWER]
    return found if len(found) == len(last) else []


def gained(facts: QualityFacts) -> bool:
    """Whether a build made for `quality` was better, when it was promoted, than what it replaced."""
    before, after = facts.before, facts.at_promotion
    if before is None or after is None:
        return False
    if before.recall is not None and after.recall is not None and after.recall > before.recall + 0.005:
        return True
    return before.p95_ms is not None and after.p95_ms is not None and after.p95_ms * 1.1 < before.p95_ms


def stale(desired: Desired, actual: Actual, build: BuildFacts) -> Trigger | None:
    """Why this build no longer is what the tenant should have, or None when it is."""
    method = wanted_method(actual.contents, desired.exact_below_rows, build.method, full=full(desired, actual))
    if method != build.method:
        side = "under" if method == "exact" else "from"
        return Trigger(
            "growth",
            f"{actual.contents} contents: {method} {side} {desired.exact_below_rows}",
            (("contents", actual.contents), ("exact_below", desired.exact_below_rows)),
        )
    if build.method == "exact":
        return None
    if build.params != desired.index:
        return parameters(build.params, desired.index)
    deleted = actual.deleted_total - build.deleted_at_build
    return growth(actual.contents, build.rows_at_build) or churn(deleted, build.rows_at_build)
