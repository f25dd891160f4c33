"""The rules a build must keep before it may go live. Pure: numbers in, a decision with its reasons out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from evals.measured import BuildMeasured, Measured
from evals.metrics import LABELS, MAIN
from kb_pipeline.config.schema import EvalConfig

Status = Literal["pass", "fail", "warn", "skipped"]

SMALL_MS = 5.0
"""Differences in p95 below this never fail a build: nobody notices them, and a busy machine makes them."""
MAX_UNKNOWN = 0.05
"""Share of relevant judgments without a document from which on a golden set measures another corpus."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule with what was found and what was asked."""

    name: str
    status: Status
    """`warn` and `skipped` do not fail the build; both say why."""
    words: str
    """One sentence for a person, with the numbers."""
    number: float | None = None
    limit: float | None = None
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """pass when no rule failed."""

    rules: tuple[Rule, ...]

    @property
    def verdict(self) -> Literal["pass", "fail"]:
        """What `live_index` obeys."""
        return "fail" if any(rule.status == "fail" for rule in self.rules) else "pass"

    @property
    def reasons(self) -> list[str]:
        """The failed rules' sentences, else those that passed; then the warnings."""
        order = ("fail", "warn") if self.verdict == "fail" else ("pass", "warn")
        return [rule.words for status in order for rule in self.rules if rule.status == status]


def judge(measured: Measured, config: EvalConfig) -> Verdict:
    """Holds what was measured against the configuration."""
    build, live = measured.subject, measured.live
    return Verdict(
        (
            coverage_rule(build, config.min_coverage),
            recall_rule(build, config.recall_floor),
            golden_rule(measured),
            quality_rule(measured, config.quality_tolerance),
            latency_rule(build, live, config.latency_tolerance),
        )
    )


def coverage_rule(build: BuildMeasured, floor: float) -> Rule:
    """Every content of a committed document has a vector."""
    if build.contents == 0:
        return Rule("coverage", "pass", "the tenant has no content yet, so nothing is missing", 1.0, floor, "share")
    missing = build.contents - build.vectors
    words = f"{build.vectors:,} of {build.contents:,} contents have a vector"
    if build.coverage >= floor:
        return Rule("coverage", "pass", words, build.coverage, floor, "share")
    return Rule("coverage", "fail", f"{words}: {missing:,} are missing, at least {floor * 100:.4g} % must have one",
                build.coverage, floor, "share")  # fmt: skip


def recall_rule(build: BuildMeasured, floor: float) -> Rule:
    """The index finds what an exact search finds, with the settings that requests get by default."""
    found = build.recall_10
    if found.n == 0:
        return Rule("recall", "skipped", "no question could be asked, so recall was not measured", None, floor, "share")
    words = f"recall@10 against exact search is {found.mean:.4f} with the default profile, at least {floor:g} is asked"
    return Rule("recall", "pass" if found.mean >= floor else "fail", words, found.mean, floor, "share")


def golden_rule(measured: Measured) -> Rule:
    """The golden set is about this corpus."""
    if measured.golden is None:
        return Rule("golden set", "skipped", "no golden set is configured, so retrieval quality was not measured")
    words = (
        f"{measured.golden_unknown * 100:.2g} % of the golden set's answers are documents that the tenant does not have"
    )
    status: Status = "fail" if measured.golden_unknown > MAX_UNKNOWN else "warn" if measured.golden_unknown else "pass"
    if status == "pass":
        words = "every answer of the golden set is a document of the tenant"
    return Rule("golden set", status, words, measured.golden_unknown, MAX_UNKNOWN, "share")


def quality_rule(measured: Measured, tolerance: float) -> Rule:
    """Answers are not worse than the live build's by more than the tolerance, as far as the questions can tell."""
    comparison = measured.comparisons.get(MAIN)
    if comparison is None:
        why = "there is no golden set" if measured.golden is None else "no live build to compare with"
        return Rule("quality", "skipped", f"quality was not compared: {why}", None, -tolerance, LABELS[MAIN])
    change = comparison.difference
    told = (
        f"{LABELS[MAIN]} changed by {change.mean:+.4f} against the live build "
        f"(95 % interval {change.low:+.4f} to {change.high:+.4f}, p = {comparison.p:.3g}, {change.n} questions)"
    )
    if change.mean >= -tolerance:
        return Rule(
            "quality", "pass", f"{told}; a loss of {tolerance:g} is tolerated", change.mean, -tolerance, LABELS[MAIN]
        )
    if comparison.detected:
        return Rule(
            "quality",
            "fail",
            f"{told}: worse than the tolerance of {tolerance:g}",
            change.mean,
            -tolerance,
            LABELS[MAIN],
        )
    needed = f", {comparison.questions_needed} questions would show it" if comparison.questions_needed else ""
    return Rule("quality", "warn", f"{told}: more than the tolerance of {tolerance:g}, but it may be chance{needed}",
                change.mean, -tolerance, LABELS[MAIN])  # fmt: skip


def latency_rule(build: BuildMeasured, live: BuildMeasured | None, tolerance: float) -> Rule:
    """Searching is not much slower than with the live build under the same load."""
    if build.latency is None:
        return Rule("latency", "skipped", "there is nothing to search, so latency was not measured")
    p95 = build.latency.p95_ms
    if live is None or live.latency is None:
        words = f"p95 is {p95:.2f} ms; no live build to compare with"
        return Rule("latency", "skipped", words, p95, None, "ms")
    limit = max(live.latency.p95_ms * (1 + tolerance), live.latency.p95_ms + SMALL_MS)
    words = f"p95 is {p95:.2f} ms, the live build's {live.latency.p95_ms:.2f} ms, at most {limit:.2f} ms is allowed"
    return Rule("latency", "pass" if p95 <= limit else "fail", words, p95, limit, "ms")
