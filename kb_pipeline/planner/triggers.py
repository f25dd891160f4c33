"""When a rebuild is worth it: pure decisions on numbers, each with its reason in one sentence."""

from __future__ import annotations

from dataclasses import dataclass

from kb_pipeline.planner.model import Actual, BuildFacts, Desired, Method

GROWTH_PERCENT = 130
"""Contents in percent of the rows at build from which an HNSW is built anew."""
CHURN_PERCENT = 20
"""Contents deleted since the build, in percent of its rows, above which it is built anew: dead elements cost recall."""


@dataclass(frozen=True, slots=True)
class Trigger:
    """Why something is to be built."""

    name: str
    """first, growth, churn, parameters, model or asked."""
    reason: str
    """One sentence with the numbers."""


def wanted_method(contents: int, exact_below_rows: int, current: Method | None) -> Method:
    """Exact scan or HNSW. An HNSW is given up only below half the threshold, so that a tenant at the border stays put."""
    if current == "hnsw":
        return "exact" if contents * 2 < exact_below_rows else "hnsw"
    return "exact" if contents < exact_below_rows else "hnsw"


def growth(contents: int, rows_at_build: int) -> Trigger | None:
    """Fires from 30 % more contents than the build was made with."""
    if contents * 100 < rows_at_build * GROWTH_PERCENT or contents == rows_at_build:
        return None
    return Trigger("growth", f"{contents} contents, {rows_at_build} when it was built; the limit is 1.30 times")


def churn(deleted: int, rows_at_build: int) -> Trigger | None:
    """Fires when more than 20 % of the build's rows were deleted since."""
    if deleted * 100 <= rows_at_build * CHURN_PERCENT:
        return None
    return Trigger("churn", f"{deleted} of {rows_at_build} contents deleted since it was built; the limit is 20 %")


def stale(desired: Desired, actual: Actual, build: BuildFacts) -> Trigger | None:
    """Why this build no longer is what the tenant should have, or None when it is."""
    method = wanted_method(actual.contents, desired.exact_below_rows, build.method)
    if method != build.method:
        side = "under" if method == "exact" else "from"
        return Trigger("growth", f"{actual.contents} contents: {method} {side} {desired.exact_below_rows}")
    if build.method == "exact":
        return None
    if build.params != desired.index:
        return Trigger("parameters", f"built with {build.params}, configured {desired.index}")
    deleted = actual.deleted_total - build.deleted_at_build
    return growth(actual.contents, build.rows_at_build) or churn(deleted, build.rows_at_build)
