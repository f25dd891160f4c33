"""The parts of a report below its first screen."""

from __future__ import annotations

from evals.corpus_stats import histogram, quantile
from evals.measured import BuildMeasured, Measured, SweepPoint
from evals.report import numbers as say
from evals.report.model import Bars, Line, LineChart, Plot, Ranks, Section, Style, Table, Words
from evals.report.quality import quality_section
from evals.report.storages import storage_section
from evals.sweep import K


def sections(measured: Measured) -> tuple[Section, ...]:
    """All parts that have something to say."""
    parts = (
        index_section(measured),
        storage_section(measured),
        latency_section(measured),
        quality_section(measured),
        corpus_section(measured),
        build_section(measured),
    )
    return tuple(part for part in parts if part.blocks)


def sides(measured: Measured) -> list[tuple[str, Style, BuildMeasured]]:
    """The build under test, then the live one."""
    build, live = measured.subject, measured.live
    shown: list[tuple[str, Style, BuildMeasured]] = [(f"build {build.build_id}", "main", build)]
    return [*shown, (f"live build {live.build_id}", "other", live)] if live else shown


def index_section(measured: Measured) -> Section:
    """Recall and what it costs in time."""
    if not measured.subject.recall_10.n:
        return Section(
            "Recall of the index", (Words("The tenant has no content yet, so there was nothing to search for."),)
        )
    blocks: list[Words | Table | Plot] = [
        Words(
            f"Recall is the share of the {K} (or 10) truly nearest contents that the index returned; exact search over "
            f"all vectors is the reference. Asked: {measured.question_source}. "
            "ef_search is how many candidates a search keeps: more is slower and finds more."
        )
    ]
    lines = tuple(
        Line(
            name,
            tuple((point.p50_ms, point.recall_10) for point in points),
            style,
            tuple(
                "exact" if point.ef_search is None else f"{point.ef_search}{'*' * point.default}" for point in points
            ),
        )
        for name, style, build in sides(measured)
        if (points := sorted((build.default, *build.sweep), key=lambda point: point.ef_search or 0))
    )
    words = "Each point is one ef_search, * is the default profile; up and left is better. Logarithmic."
    if all(len(line.points) == 1 for line in lines):
        words = "An exact scan has one point: it finds everything, and its time grows with the corpus."
    chart = LineChart(
        "search time, median (ms), one at a time", "recall@10 (share)", lines, y_most=1.0, least_span=0.02, log=True
    )
    blocks.append(Plot("Recall and latency", chart, words))
    blocks += width_plot(measured)
    blocks.append(sweep_table(measured))
    blocks += filtered_table(measured)
    return Section("Recall of the index", tuple(blocks))


def width_plot(measured: Measured) -> list[Plot]:
    """Recall over ef_search; nothing for builds without an index."""
    lines = tuple(
        Line(name, tuple((float(point.ef_search), point.recall_10) for point in build.sweep if point.ef_search), style)
        for name, style, build in sides(measured)
        if build.sweep
    )
    if not lines:
        return []
    chart = LineChart("ef_search", "recall@10 (share)", lines, y_most=1.0, least_span=0.02, log=True)
    return [Plot("Recall and width of the search", chart, "How much of the exact answer each ef_search finds.")]


def sweep_table(measured: Measured) -> Table:
    """Every width with its recall and time, the builds beside each other."""
    each = [
        (name, {point.ef_search: point for point in build.sweep}, build.default) for name, _, build in sides(measured)
    ]

    def cells(points: list[SweepPoint | None]) -> tuple[str, ...]:
        shown = [(f"{p.recall_10:.4f}", f"{p.recall_20:.4f}", f"{p.p50_ms:.2f}") if p else ("–",) * 3 for p in points]
        return tuple(text for triple in shown for text in triple)

    width = next(
        (f"default ({default.ef_search})" for _, _, default in each if default.ef_search), "default (exact scan)"
    )
    rows = [(width, *cells([default for _, _, default in each]))]
    for ef_search in sorted({ef for _, points, _ in each for ef in points if ef is not None}):
        rows.append((str(ef_search), *cells([points.get(ef_search) for _, points, _ in each])))
    columns = ["ef_search"]
    for name, _, _ in each:
        columns += [f"{name}: recall@10", "recall@20", "p50 (ms)"]
    return Table("Sweep of ef_search", tuple(columns), tuple(rows), numeric=tuple(range(1, len(columns))))


def latency_section(measured: Measured) -> Section:
    """Latency under load, and how much load it takes."""
    timed = [(name, style, build.latency) for name, style, build in sides(measured) if build.latency]
    if not timed:
        return Section("Latency", ())
    rate = timed[0][2].rate_per_second
    series: list[tuple[str, Style, tuple[float, ...]]] = [
        (name, style, (latency.p50_ms, latency.p95_ms, latency.p99_ms)) for name, style, latency in timed
    ]
    groups = ("p50", "p95", "p99")
    percentiles = Bars("percentile of queries", "from due to answered (ms)", groups, tuple(series), values=True)
    callers = LineChart(
        "callers at once",
        "answers per second",
        tuple(
            Line(name, tuple((float(level.callers), level.per_second) for level in latency.throughput), style)
            for name, style, latency in timed
        ),
        x_texts=tuple((float(level.callers), str(level.callers)) for level in timed[0][2].throughput),
    )
    asked = sum(latency.queries for _, _, latency in timed)
    return Section(
        "Latency",
        (
            Words(
                f"{asked:,} queries arrived at random moments, {rate:,.0f} per second, whether or not earlier ones "
                "were answered; each is timed from the moment it was due. The time is the search in Postgres and the "
                "way there, without embedding the question."
            ),
            Plot("Latency under load", percentiles, "Lower is better."),
            Plot("Throughput", callers, "Callers that ask again as soon as they are answered; higher is better."),
        ),
    )


def filtered_table(measured: Measured) -> list[Words | Table | Plot]:
    """Recall and time of searches with a condition on metadata."""
    rows = tuple(
        (
            name,
            f"{say.share(one.share)} of the chunks",
            one.words,
            say.interval(one.recall_10),
            say.milliseconds(one.p50_ms),
        )
        for name, _, build in sides(measured)
        for one in build.filtered
    )
    if not rows:
        return []
    columns = ("Build", "Passes", "Condition", "recall@10 (95 % interval)", "p50 (ms)")
    note = "Against an exact search of what passes; values of the documents' metadata nearest to 50, 10 and 1 %."
    return [Table("Searches with a filter", columns, rows, numeric=(3, 4), note=note)]


def corpus_section(measured: Measured) -> Section:
    """What is in the knowledge base."""
    corpus = measured.corpus
    facts = (
        ("documents", say.count(corpus.documents)),
        ("chunks", say.count(corpus.chunks)),
        ("contents (distinct texts)", say.count(corpus.contents)),
        (
            "chunks that repeat a text",
            f"{corpus.duplicates:,} ({say.share(corpus.duplicates / corpus.chunks if corpus.chunks else 0)})",
        ),
        ("tokens of all contents", say.count(corpus.tokens)),
        (
            "tokens of a content",
            " / ".join(f"{quantile(corpus.sizes, part):,}" for part in (0.5, 0.95, 1.0)) + " (median / 95 % / most)",
        ),
        ("languages (text search)", ", ".join(f"{name} {count:,}" for name, count in corpus.languages[:5]) or "–"),
        ("formats", ", ".join(f"{name} {count:,}" for name, count in corpus.formats[:8]) or "–"),
        ("orphaned contents, not yet removed", say.count(corpus.orphans)),
        ("documents and chunks in quarantine", say.count(corpus.dead_letters)),
    )
    blocks: list[Words | Table | Plot] = [Table("", ("What", "How much"), facts, widths=(30, 70))]
    if corpus.sizes:
        bins = histogram(corpus.sizes)
        counts = tuple(float(count) for _, _, count in bins)
        names = tuple(f"{high}" for _, high, _ in bins)
        x_name = "tokens of a content, heading path included, up to"
        bars = Bars(x_name, "contents", names, (("contents", "main", counts),), thin=True)
        blocks.append(
            Plot(
                "Sizes of contents",
                bars,
                f"Median {quantile(corpus.sizes, 0.5)}, largest {corpus.sizes[-1][0]} tokens.",
            )
        )
    if corpus.kinds:
        kinds = tuple((name, float(count)) for name, count in corpus.kinds[:10])
        blocks.append(
            Plot(
                "Kinds of chunks",
                Ranks("chunks", "kind", kinds),
                ", ".join(f"{name} {count:,}" for name, count in corpus.kinds[:3]),
            )
        )
    return Section("Corpus", tuple(blocks))


def build_section(measured: Measured) -> Section:
    """What making and keeping it costs."""
    rows: list[tuple[str, ...]] = []
    builds = sides(measured)

    def row(name: str, texts: list[str]) -> None:
        if any(text != "–" for text in texts):
            rows.append((name, *texts))

    each = [build for _, _, build in builds]
    row(
        "embedding version",
        [f"v{build.version}: {build.model}, {build.dims} dims as {build.storage}" for build in each],
    )
    row("method", [build.method for build in each])
    row("parameters", [", ".join(f"{key} = {value}" for key, value in build.params.items()) or "–" for build in each])
    row("vectors", [say.count(build.vectors) for build in each])
    row(
        "build time",
        [say.seconds(build.seconds) if build.seconds is not None and build.method == "hnsw" else "–" for build in each],
    )
    row(
        "build rate",
        [
            f"{build.vectors / build.seconds:,.0f} vectors/s" if build.seconds and build.method == "hnsw" else "–"
            for build in each
        ],
    )
    row("index size", [say.size(build.bytes) if build.bytes else "–" for build in each])
    row(
        "bytes a vector",
        [f"{build.bytes / build.vectors:,.0f} bytes" if build.bytes and build.vectors else "–" for build in each],
    )
    row("built at", [say.day(build.created_at) for build in each])
    cost = measured.cost
    paid = (
        ("embedded ever", f"{cost.texts:,} texts, {cost.tokens:,} tokens", say.dollars(cost.usd)),
        ("embedded in the last run that had to", f"{cost.last_texts:,} texts", say.dollars(cost.last_usd)),
    )
    return Section(
        "Build and cost",
        (
            Table("Build", ("What", *(name for name, _, _ in builds)), tuple(rows)),
            Table("Cost of embedding", ("When", "How much", "Price (US dollars)"), paid, numeric=(2,)),
        ),
    )
