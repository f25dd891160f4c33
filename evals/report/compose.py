"""From measurements to a report: which numbers a person needs, in which order, said how."""

from __future__ import annotations

import math
from collections.abc import Sequence

from evals.measured import BuildMeasured, Latency, Measured, Override, PastRun
from evals.metrics import LABELS, MAIN
from evals.report import numbers as say
from evals.report.model import Figure, Line, LineChart, Plot, Report, Table, Tone
from evals.report.sections import sections
from evals.statistics import Comparison
from evals.verdict import Rule, Verdict

MARKS = {"pass": "✓\u00a0pass", "fail": "✗\u00a0fail", "warn": "!\u00a0look", "skipped": "–\u00a0skipped"}
"""With spaces that do not break."""
TONES: dict[str, Tone] = {"pass": "good", "fail": "bad", "warn": "warn", "skipped": "plain"}


def compose(
    measured: Measured, verdict: Verdict, *, eval_id: int, history: Sequence[PastRun], mode: str = "auto"
) -> Report:
    """The report of one eval run; `history` ends with this run, `mode` is the tenant's `[promotion] mode`."""
    live = measured.live
    against = f"compared with the live build {live.build_id} ({kind(live)})" if live else "no other build is live"
    if live is None and measured.subject.state == "live":
        against = "this is the live build"
    return Report(
        tenant_id=measured.tenant_id,
        eval_id=eval_id,
        created_at=measured.created_at,
        verdict=verdict.verdict,
        subject=f"build {measured.subject.build_id}: {kind(measured.subject)}",
        against=against,
        why=tuple(verdict.reasons),
        figures=figures(measured, verdict),
        rules=rules(verdict.rules),
        changes=changes(measured),
        trend=trend(history),
        sections=sections(measured),
        footer=footer(measured),
        marks=tuple(mark(one) for one in measured.overrides),
        next_step=next_step(measured, passed=verdict.verdict == "pass", mode=mode),
    )


def next_step(measured: Measured, *, passed: bool, mode: str) -> str:
    """What becomes of the build now, and what a person can do; commands stand between backquotes."""
    build, tenant = measured.subject.build_id, measured.tenant_id
    match measured.subject.state:
        case "candidate" if not passed:
            stays = f"build {measured.live.build_id} stays live" if measured.live else "nothing is live yet"
            return f"build {build} does not go live, {stays}. The rules below say which limit was missed."
        case "candidate" if mode == "review":
            return (
                f"build {build} waits for a person. Approve: `kb promote {build} --tenant {tenant} --why '...'`; "
                f"refuse: `kb reject {build} --tenant {tenant} --why '...'`; or materialize live_index alone."
            )
        case "candidate":
            return f"build {build} goes live with live_index. The way back: `kb rollback --tenant {tenant}`"
        case "live" if not passed:
            return f"build {build} stays live. Another one beside it: `kb rebuild --tenant {tenant}`"
        case _:
            return ""


def mark(override: Override) -> str:
    """A decision by force, in a sentence."""
    against = f"the failed eval run {override.eval_id}" if override.eval_id else "having no eval run"
    return (
        f"Build {override.build_id} was made live by force against {against}: by {override.by}, "
        f"{say.day(override.at)}, because: {override.why}"
    )


def kind(build: BuildMeasured) -> str:
    """A build in a few words."""
    m, ef_construction = build.params.get("m"), build.params.get("ef_construction")
    how = "exact scan" if build.method == "exact" else f"HNSW m = {m}, ef_construction = {ef_construction}"
    return f"{build.model}, {build.dims} dims as {build.storage}, {how}"


def figures(measured: Measured, verdict: Verdict) -> tuple[Figure, ...]:
    """The headline numbers with what changed against the live build."""
    build, live = measured.subject, measured.live
    status = {rule.name: TONES[rule.status] for rule in verdict.rules}
    shown: list[Figure] = []
    recall = build.recall_10
    if recall.n:
        note = between(recall.low, recall.high, recall.n)
        shown.append(
            Figure(
                "Recall@10 against exact",
                say.ratio(recall.mean),
                note,
                change_of(measured.recall_comparison),
                status["recall"],
            )
        )
    if build.quality:
        main = build.quality.figures[MAIN]
        note = between(main.low, main.high, main.n)
        shown.append(
            Figure(
                "nDCG@10, golden set",
                say.ratio(main.mean),
                note,
                change_of(measured.comparisons.get(MAIN)),
                status["quality"],
            )
        )
    if build.latency:
        change = ""
        if live and live.latency:
            change = slower(build.latency, live.latency)
        note = f"at {build.latency.rate_per_second:,.0f} queries/s; p50 {say.milliseconds(build.latency.p50_ms)}"
        shown.append(
            Figure("Search latency p95", say.milliseconds(build.latency.p95_ms), note, change, status["latency"])
        )
    covered = f"{say.count(build.vectors)} of {say.count(build.contents, 'content')}"
    shown.append(Figure("Coverage", say.share(build.coverage), covered, "", status["coverage"]))
    if build.bytes:
        change = ""
        if live and live.bytes:
            change = f"{say.arrow(build.bytes - live.bytes)} {say.size(abs(build.bytes - live.bytes))}"
        note = f"{build.bytes / build.vectors:,.0f} bytes a vector" if build.vectors else ""
        shown.append(Figure("Index size", say.size(build.bytes), note, change))
    else:
        shown.append(
            Figure("Documents", say.count(measured.corpus.documents), say.count(measured.corpus.chunks, "chunk"))
        )
    return tuple(shown)


def between(low: float, high: float, questions: int) -> str:
    """The 95 % interval of a mean over so many questions."""
    asked = say.count(questions, "question")
    return f"95 % interval {say.ratio(low)} to {say.ratio(high)}, {asked}" if low < high else f"all of {asked} alike"


def slower(new: Latency, old: Latency) -> str:
    """Arrow, difference of p95 and its interval, from the intervals of both (they are measured apart)."""
    difference = new.p95_ms - old.p95_ms
    shown = f"{say.arrow(difference, nothing=0.05)} {difference:+.2f} ms"
    if new.p95_low_ms is None or new.p95_high_ms is None or old.p95_low_ms is None or old.p95_high_ms is None:
        return shown
    low = difference - math.hypot(new.p95_ms - new.p95_low_ms, old.p95_high_ms - old.p95_ms)
    high = difference + math.hypot(new.p95_high_ms - new.p95_ms, old.p95_ms - old.p95_low_ms)
    return f"{shown} ({low:+.2f} to {high:+.2f}{'' if low > 0 or high < 0 else ', may be chance'})"


def change_of(comparison: Comparison | None) -> str:
    """Arrow, difference, interval, and whether it is more than chance; empty without a comparison."""
    if comparison is None:
        return ""
    change = comparison.difference
    if change.mean == 0 and comparison.better == comparison.worse == 0:
        return "= no question changed"
    sure = "" if comparison.detected else ", may be chance"
    shown = f"{say.signed_3(change.mean)} ({say.signed_3(change.low)} to {say.signed_3(change.high)}{sure})"
    return f"{say.arrow(change.mean, nothing=5e-4)} {shown}"


def rules(judged: Sequence[Rule]) -> Table:
    """Each rule with its number, its limit and what became of it."""

    def text(value: float | None, unit: str) -> str:
        if value is None:
            return "–"
        return (
            say.milliseconds(value)
            if unit == "ms"
            else say.share(value)
            if unit == "share"
            else f"{value:+.3f}\u00a0{unit}"
        )

    return Table(
        "Rules",
        ("Rule", "Result", "Found", "Limit", "In words"),
        tuple(
            (
                rule.name.replace(" ", "\u00a0"),
                MARKS[rule.status],
                text(rule.number, rule.unit),
                text(rule.limit, rule.unit),
                rule.words,
            )
            for rule in judged
        ),
        numeric=(2, 3),
        tones=tuple(TONES[rule.status] for rule in judged),
    )


def changes(measured: Measured) -> Table | None:
    """What changed against the live build, metric by metric."""
    build, live = measured.subject, measured.live
    if live is None:
        return None
    rows: list[tuple[str, ...]] = []
    tones: list[Tone] = []

    def compared(name: str, comparison: Comparison) -> None:
        moved = f"{comparison.better} better, {comparison.worse} worse, {comparison.equal} equal"
        rows.append((name, say.ratio(comparison.old), say.ratio(comparison.new), change_of(comparison), moved))
        good = comparison.difference.mean > 0
        tones.append(("good" if good else "bad") if comparison.detected else "plain")

    if measured.recall_comparison:
        compared("recall@10 against exact", measured.recall_comparison)
    for name, comparison in measured.comparisons.items():
        compared(LABELS[name], comparison)

    def plain(name: str, old: float | None, new: float | None, text: str, change: str) -> None:
        if old is not None and new is not None:
            rows.append((name, text.split("|")[0], text.split("|")[1], change, ""))
            tones.append("plain")

    if build.latency and live.latency:
        for name in ("p50", "p95", "p99"):
            old, new = getattr(live.latency, f"{name}_ms"), getattr(build.latency, f"{name}_ms")
            change = f"{say.arrow(new - old, nothing=0.05)} {new - old:+.2f} ms"
            change = slower(build.latency, live.latency) if name == "p95" else change
            plain(f"latency {name}", old, new, f"{say.milliseconds(old)}|{say.milliseconds(new)}", change)
    if build.bytes and live.bytes:
        old, new = live.bytes, build.bytes
        change = f"{say.arrow(new - old)} {new / old - 1:+.1%}".replace("%", " %")
        plain("index size", old, new, f"{say.size(old)}|{say.size(new)}", change)
    old, new = live.vectors, build.vectors
    plain("vectors", old, new, f"{old:,}|{new:,}", f"{say.arrow(new - old)} {new - old:+,}" if new != old else "=")
    columns = (
        "Measure",
        f"Live build {live.build_id}",
        f"Build {build.build_id}",
        "Change (95 % interval)",
        "Questions",
    )
    return Table(
        "What changed against the live build", columns, tuple(rows), numeric=(1, 2), tones=tuple(tones), toned=3
    )


def trend(history: Sequence[PastRun]) -> tuple[Plot, ...]:
    """Recall, quality and latency over the last runs; nothing for a first run."""
    if len(history) < 2:
        return ()
    texts = tuple((float(place), f"#{run.eval_id}") for place, run in enumerate(history))
    plots: list[Plot] = []
    for title, y_name, values, most, least, zero in (
        ("Recall over runs", "recall@10 (share)", [run.recall_10 for run in history], 1.0, 0.04, False),
        ("Quality over runs", "nDCG@10 (0 to 1)", [run.ndcg_10 for run in history], 1.0, 0.1, False),
        ("Latency over runs", "p95 (ms)", [run.p95_ms for run in history], None, 1.0, True),
        ("Size over runs", "contents", [run.contents for run in history], None, 10.0, True),
        ("Cost over runs", "embedding so far (USD)", [run.usd or None for run in history], None, 0.01, True),
    ):
        points = tuple((float(place), float(value)) for place, value in enumerate(values) if value is not None)
        failed = tuple(number for number, (place, _) in enumerate(points) if history[int(place)].verdict == "fail")
        if len(points) < 2:
            continue
        first, last = (
            f"{value:,.3f}" if value <= 1 else f"{value:,.1f}" if value < 1000 else f"{value:,.0f}"
            for _, value in (points[0], points[-1])
        )
        chart = LineChart(
            "eval run",
            y_name,
            (Line("runs", points, crossed=failed),),
            x_texts=texts,
            y_most=most,
            least_span=least,
            zero=zero,
            small=True,
        )
        crosses = f" A cross marks a run that failed ({len(failed)})." if failed else ""
        plots.append(Plot(title, chart, f"From {first} to {last} in {len(points)} runs.{crosses}"))
    return tuple(plots)


def footer(measured: Measured) -> str:
    """What a stranger needs to repeat the run."""
    hashes = ", ".join(f"{name} {value[:12]}" for name, value in measured.hashes.items())
    software = ", ".join(f"{name} {version}" for name, version in measured.versions.items())
    return f"Measured in {say.seconds(measured.seconds)} with {software}. Hashes: {hashes}."
