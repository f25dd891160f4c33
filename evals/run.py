"""One eval run: chooses the builds, asks the questions, measures, judges, stores, and writes the report."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from psycopg import Connection
from psycopg.rows import TupleRow

from evals import corpus_stats
from evals.asked import Questions, groups_of, questions_of
from evals.fit import fitted
from evals.ground_truth import Truth
from evals.latency import measure_latency
from evals.measure import Asked, MeasuredWithValues, measure_build, truth_of
from evals.measured import Latency, Measured, Override, PastRun
from evals.metrics import MAIN
from evals.question_vectors import question_vectors
from evals.report.compose import compose
from evals.report.html import html
from evals.report.markdown import markdown
from evals.report.quality import documents_shown
from evals.serving import opened
from evals.statistics import Comparison, compare
from evals.storages import storages_beside
from evals.sweep import EF_SEARCH, K
from evals.verdict import Verdict, judge
from kb_pipeline.config.schema import EvalConfig, IndexConfig
from kb_pipeline.errors import ConfigError, NotLive
from kb_pipeline.home import kb_home
from kb_pipeline.stages.context import StageContext
from kb_pipeline.store import eval_reads, eval_runs
from kb_pipeline.store.eval_reads import BuildRow
from kb_pipeline.store.reviews import decisions

log = logging.getLogger(__name__)

COMPARED = (MAIN, "mrr@10", "recall@10", "hit@1", "hit@3", "map@100")
TREND_RUNS = 20


@dataclass(frozen=True, slots=True)
class EvalSummary:
    """What an eval run found, for the asset's metadata and `kb eval`."""

    eval_id: int
    build_id: int
    verdict: str
    reasons: list[str]
    headline: dict[str, Any]
    """What `headline_of` gives; None where something was not measured."""
    markdown: str
    html_path: str
    data: dict[str, Any]
    """The report as plain values: what Markdown and HTML are drawn from."""


def evaluate(
    ctx: StageContext, *, build_id: int | None = None, golden: str | None = None, storages: Sequence[str] = ()
) -> EvalSummary:
    """Measures the newest candidate beside the live build (or `build_id`, or the live build alone); stores the verdict.

    `storages`: ways of storing the index to try beside, on a copy (`all`, vector, halfvec, binary).

    Nothing is stored when something could not be measured (embedder down, unusable golden set): a build without a
    verdict is not promoted. Raises `NotLive` when there is no build, `ConfigError` for an unknown build or golden set,
    and what the embedder raises.
    """
    began = time.perf_counter()
    tenant_id, config = ctx.tenant.tenant_id, ctx.tenant.eval
    with ctx.db.connect("writer", tenant_id, autocommit=True) as conn:
        subject, live = chosen_builds(conn, tenant_id, build_id)
        asked = questions_of(conn, tenant_id, config, golden if golden is not None else config.golden)
        measured = measured_run(ctx, conn, subject, live, asked, began, storages=storages)
        measured = replace(measured, titles=eval_reads.titles_of(conn, tenant_id, documents_shown(measured)))
        verdict = judge(measured, config)
        return _stored(ctx, conn, measured, verdict)


def chosen_builds(conn: Connection[TupleRow], tenant_id: str, build_id: int | None) -> tuple[BuildRow, BuildRow | None]:
    """(the build under test, the live one to compare it with or None)."""
    live = eval_reads.live_build(conn, tenant_id)
    if build_id is None:
        subject = eval_reads.newest_candidate(conn, tenant_id) or live
        if subject is None:
            raise NotLive(f"tenant {tenant_id} has no build to measure: run the asset hnsw_index first")
    else:
        subject = eval_reads.build_row(conn, tenant_id, build_id)
        if subject is None or subject.state not in ("candidate", "live", "previous"):
            state = "does not exist" if subject is None else f"is {subject.state}"
            raise ConfigError(
                f"build {build_id} of tenant {tenant_id} {state}: only a candidate, live or previous one is measured"
            )
    return subject, None if live is None or live.build_id == subject.build_id else live


def measured_run(
    ctx: StageContext,
    conn: Connection[TupleRow],
    subject: BuildRow,
    live: BuildRow | None,
    asked: Questions,
    began: float,
    *,
    pinned: Mapping[int, int | None] | None = None,
    storages: Sequence[str] = (),
) -> Measured:
    """`pinned`: a repetition, with these widths (build -> ef_search of the default profile) and without latency."""
    tenant_id = ctx.tenant.tenant_id
    builds = [subject] if live is None else [subject, live]
    filled = [build for build in builds if eval_reads.covered(conn, tenant_id, build.version)[1] > 0]
    vectors: dict[int, Asked] = {}
    digests: dict[str, str] = {}
    for build in builds:
        if build.version not in vectors:
            here = asked if build in filled else Questions((), "", None)
            try:
                vectors[build.version], digest = question_vectors(ctx, conn, build, here, repeated=pinned is not None)
            except Exception as error:
                if build is subject or not ctx.tenant.migration.bridge:
                    raise
                log.warning("the live model cannot be asked, so nothing is compared with it: %s", error)
                live, builds, filled = None, [subject], [one for one in filled if one is subject]
                break
            digests[f"questions as v{build.version}"] = digest
    if pinned is None and subject in filled:
        texts: Mapping[str, str] = asked.golden.questions if asked.golden else {}
        subject = builds[0] = filled[0] = fitted(ctx, conn, subject, vectors[subject.version], texts)
    task = ctx.progress.task("measure", len(builds) + 1, "builds")
    indexes = {build.build_id: _pinned(ctx.tenant.index, (pinned or {}).get(build.build_id)) for build in builds}
    searchers = {build.build_id: opened(ctx.db, tenant_id, build, indexes[build.build_id]) for build in builds}
    load = (
        {}
        if pinned is not None
        else {str(build.build_id): searchers[build.build_id] for build in filled if len(vectors[build.version].recall)}
    )
    timed: Mapping[str, Latency] = {}
    if load:
        questions = {str(build.build_id): vectors[build.version].recall for build in filled}
        span = ctx.tenant.eval.latency_seconds
        timed = measure_latency(load, {name: questions[name] for name in load}, seconds=span, throughput_s=span / 5)
    task.advance(1)
    truths: dict[int, Truth] = {}
    results: dict[int, MeasuredWithValues] = {}
    for build in builds:
        truth = truths.get(build.version) or truth_of(ctx.db, tenant_id, build, vectors[build.version].recall)
        truths[build.version] = truth
        results[build.build_id] = measure_build(
            ctx.db,
            tenant_id,
            build,
            asked=vectors[build.version],
            golden=asked.golden,
            truth=truth,
            opened=searchers[build.build_id],
            latency=timed.get(str(build.build_id)),
            index=indexes[build.build_id],
        )
        task.advance(1)
    task.done()
    trial = storages_beside(ctx, subject, vectors[subject.version].recall, storages) if subject in filled else None
    new, old = results[subject.build_id], results.get(live.build_id) if live else None
    return Measured(
        tenant_id=tenant_id,
        created_at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        subject=new.build,
        live=old.build if old else None,
        questions=len(asked.texts),
        question_source=asked.source,
        golden=asked.golden.name if asked.golden else None,
        golden_questions=dict(asked.golden.questions) if asked.golden else {},
        golden_problems=tuple(str(problem) for problem in asked.golden.problems) if asked.golden else (),
        golden_unknown=asked.golden.unknown if asked.golden else 0.0,
        comparisons=_comparisons(new, old),
        recall_comparison=_recall_comparison(new, old),
        corpus=corpus_stats.corpus(conn, tenant_id),
        cost=corpus_stats.cost(conn, tenant_id),
        hashes={**_hashes(ctx.tenant.eval, asked, new.corpus_hash), **digests},
        versions=_versions(conn),
        seconds=time.perf_counter() - began,
        overrides=_overrides(conn, tenant_id),
        asked=asked.texts,
        golden_sha256=asked.golden.sha256 if asked.golden else None,
        golden_level=asked.golden.level if asked.golden else "document",
        golden_groups=groups_of(asked.golden) if asked.golden else {},
        golden_synthetic=len(asked.golden.synthetic) if asked.golden else 0,
        storages=trial,
    )


def _overrides(conn: Connection[TupleRow], tenant_id: str) -> tuple[Override, ...]:
    forced = [made for made in decisions(conn, tenant_id) if made.decision == "forced"]
    unsaid = "no reason was stored"
    return tuple(Override(one.build_id, one.eval_id, one.by, one.why or unsaid, one.at) for one in forced)


def _pinned(index: IndexConfig, ef_search: int | None) -> IndexConfig:
    return index if ef_search is None else index.model_copy(update={"ef_search": ef_search})


def _comparisons(new: MeasuredWithValues, old: MeasuredWithValues | None) -> dict[str, Comparison]:
    if old is None or new.build.quality is None or old.build.quality is None:
        return {}
    before, after = old.build.quality.per_question, new.build.quality.per_question
    return {name: compare(list(before[name].values()), list(after[name].values())) for name in COMPARED}


def _recall_comparison(new: MeasuredWithValues, old: MeasuredWithValues | None) -> Comparison | None:
    if old is None or len(old.recall_10) != len(new.recall_10) or not new.recall_10:
        return None
    return compare(old.recall_10, new.recall_10)


def _stored(ctx: StageContext, conn: Connection[TupleRow], measured: Measured, verdict: Verdict) -> EvalSummary:
    """Row first, then the file: a row without a file is harmless, a file without a row would be a lie."""
    tenant_id, build, headline = measured.tenant_id, measured.subject, headline_of(measured)
    measurements = {"headline": headline, "rules": [asdict(rule) for rule in verdict.rules], **asdict(measured)}
    eval_id = eval_runs.add_eval_run(
        conn,
        tenant_id,
        build.build_id,
        measurements=measurements,
        verdict=verdict.verdict,
        reasons=verdict.reasons,
        hashes=measured.hashes,
        run_id=ctx.run_id,
    )
    history = [_past(row) for row in eval_runs.headlines(conn, tenant_id, limit=TREND_RUNS)]
    report = compose(measured, verdict, eval_id=eval_id, history=history, mode=ctx.tenant.promotion.mode)
    path = kb_home() / "reports" / tenant_id / f"{eval_id}.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(html(report), encoding="utf-8")
    eval_runs.set_report(conn, tenant_id, eval_id, str(path))
    log.info("eval run %d of build %d: %s", eval_id, build.build_id, verdict.verdict)
    words = markdown(report, html_path=str(path))
    return EvalSummary(
        eval_id, build.build_id, verdict.verdict, verdict.reasons, headline, words, str(path), asdict(report)
    )


def headline_of(measured: Measured) -> dict[str, Any]:
    """The few numbers that a list of runs shows."""
    build, latency, quality = measured.subject, measured.subject.latency, measured.subject.quality
    return {
        "recall_at_10": build.recall_10.mean if build.recall_10.n else None,
        "recall_at_20": build.recall_20.mean if build.recall_20.n else None,
        "ndcg_at_10": quality.figures[MAIN].mean if quality else None,
        "mrr_at_10": quality.figures["mrr@10"].mean if quality else None,
        "p50_ms": latency.p50_ms if latency else None,
        "p95_ms": latency.p95_ms if latency else None,
        "p99_ms": latency.p99_ms if latency else None,
        "queries_per_second": max(level.per_second for level in latency.throughput) if latency else None,
        "coverage": build.coverage,
        "contents": build.contents,
        "bytes": build.bytes,
        "spent_usd": measured.cost.usd,
        "questions": measured.questions,
        "seconds": measured.seconds,
    }


def _past(row: Mapping[str, Any]) -> PastRun:
    return PastRun(
        eval_id=row["eval_id"],
        build_id=row["build_id"],
        created_at=row["created_at"],
        verdict=row["verdict"],
        recall_10=row.get("recall_at_10"),
        ndcg_10=row.get("ndcg_at_10"),
        p95_ms=row.get("p95_ms"),
        contents=row.get("contents"),
        bytes=row.get("bytes"),
        usd=row.get("spent_usd"),
    )


def _hashes(config: EvalConfig, asked: Questions, corpus: str) -> dict[str, str]:
    """What a repetition must find equal: the corpus, the questions with their judgments, the settings."""

    def of(value: object) -> str:
        return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()

    labels: Sequence[object] = [list(asked.texts), asked.golden.sha256 if asked.golden else None]
    settings = {**config.model_dump(mode="json", exclude={"golden"}), "ef_search": EF_SEARCH, "k": K}
    return {"corpus": corpus, "labels": of(labels), "parameters": of(settings)}


def _versions(conn: Connection[TupleRow]) -> dict[str, str]:
    from importlib.metadata import version

    server, pgvector = eval_reads.server_versions(conn)
    return {"kb-pipeline": version("kb-pipeline"), "PostgreSQL": server.split(" ")[0], "pgvector": pgvector}
