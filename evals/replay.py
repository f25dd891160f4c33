"""Repeats an eval run: the same builds, questions, judgments and widths, so the same quality numbers."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from evals.asked import Questions, fitted
from evals.golden import from_body
from evals.run import measured_run
from kb_pipeline.errors import ConfigError
from kb_pipeline.stages.context import StageContext
from kb_pipeline.store import eval_reads, eval_runs
from kb_pipeline.store.eval_golden import body_of


@dataclass(frozen=True, slots=True)
class Replay:
    """What a repetition found, beside what is stored. Nothing is stored: the gate does not look at repetitions."""

    eval_id: int
    equal: bool
    """Every quality number is the stored one, to the last digit."""
    compared: int
    """Numbers compared: recall at every width, every metric with its interval, every value of every question."""
    differences: tuple[tuple[str, Any, Any], ...]
    """(name, stored, now)."""
    changed: tuple[str, ...]
    """What is no longer as it was, in words: then numbers may differ."""
    headline: Mapping[str, float]
    """The main numbers, as found now."""


def replay(ctx: StageContext, eval_id: int) -> Replay:
    """Measures recall and quality of a stored eval run again; latency is no property of the data and is left out.

    The questions' vectors are those of that time, as long as they are kept: no embedder is asked. Raises `ConfigError`
    when there is no such run, or what it measured is gone.
    """
    tenant_id = ctx.tenant.tenant_id
    with ctx.db.connect("writer", tenant_id, autocommit=True) as conn:
        run = eval_runs.eval_run(conn, tenant_id, eval_id)
        if run is None:
            raise ConfigError(f"tenant {tenant_id} has no eval run {eval_id}: `kb history` lists them")
        stored = run.measurements
        if "asked" not in stored:
            raise ConfigError(f"eval run {eval_id} was stored without its questions and cannot be repeated")
        sides = [stored["subject"], *([stored["live"]] if stored["live"] else [])]
        builds: list[eval_reads.BuildRow] = []
        for side in sides:
            build = eval_reads.build_row(conn, tenant_id, side["build_id"])
            if build is None or build.state not in ("candidate", "live", "previous"):
                state = "gone" if build is None else build.state
                raise ConfigError(f"eval run {eval_id} cannot be repeated: build {side['build_id']} is {state}")
            builds.append(build)
        golden = None
        if stored["golden_sha256"]:
            kept = body_of(conn, tenant_id, stored["golden_sha256"])
            if kept is None:
                raise ConfigError(f"eval run {eval_id} cannot be repeated: its golden set was erased")
            golden = fitted(conn, tenant_id, from_body(*kept))
        asked = Questions(tuple(stored["asked"]), stored["question_source"], golden)
        widths = {side["build_id"]: side["default"]["ef_search"] for side in sides}
        measured = measured_run(
            ctx, conn, builds[0], builds[1] if len(builds) > 1 else None, asked, time.perf_counter(), pinned=widths
        )
    now: dict[str, Any] = json.loads(json.dumps(asdict(measured)))
    before, after = numbers(stored), numbers(now)
    names = sorted({*before, *after})
    differences = tuple(
        (name, before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)
    )
    changed = tuple(
        words
        for name, words in (("corpus", "the corpus is another one than at that time"),)
        if run.hashes.get(name) != measured.hashes[name]
    )
    changed += tuple(
        f"the {name} are not kept any more and were embedded anew: an embedder may answer with other last digits"
        for name, value in measured.hashes.items()
        if name.startswith("questions") and run.hashes.get(name, value) != value
    )
    software = [name for name, version in measured.versions.items() if stored["versions"].get(name) != version]
    changed += tuple(f"{name} is {measured.versions[name]}, was {stored['versions'].get(name)}" for name in software)
    headline = {name: value for name, value in after.items() if name.count(".") == 2 and name.endswith(".mean")}
    return Replay(eval_id, not differences, len(names), differences, changed, headline)


def numbers(measurements: Mapping[str, Any]) -> dict[str, float]:
    """The quality numbers of both builds by name: recall, every metric, every question."""
    found: dict[str, float] = {}
    for side in ("subject", "live"):
        build = measurements.get(side)
        if not build:
            continue
        for name in ("recall_10", "recall_20"):
            found |= {f"{side}.{name}.{part}": value for part, value in build[name].items()}
        for point in (build["default"], *build["sweep"]):
            width = "default" if point["default"] else point["ef_search"]
            found |= {f"{side}.sweep.{width}.{name}": point[name] for name in ("recall_10", "recall_20")}
        quality = build["quality"]
        if quality:
            for name, figure in quality["figures"].items():
                found |= {f"{side}.{name}.{part}": value for part, value in figure.items()}
            for name, values in quality["per_question"].items():
                found |= {f"{side}.{name}.question {qid}": value for qid, value in values.items()}
    return found
