"""The part of a report about other ways of storing the index, where they were asked for."""

from __future__ import annotations

from evals.measured import Measured
from evals.report import numbers as say
from evals.report.model import Bars, Line, LineChart, Plot, Section, Style, Table, Words

STYLES: tuple[Style, ...] = ("main", "other", "third")


def storage_section(measured: Measured) -> Section:
    """Recall, time and size of each storage on the same vectors."""
    trial = measured.storages
    title = "Index storage compared"
    if trial is None:
        return Section(title, ())
    of = f"all {trial.rows:,}" if trial.rows == trial.of_rows else f"a sample of {trial.rows:,} of {trial.of_rows:,}"
    words = Words(
        f"A copy of {of} vectors was indexed in each way with m = {trial.m} and ef_construction = "
        f"{trial.ef_construction}, and asked the same {say.count(trial.questions, 'question')} without load; the exact "
        "answer over the same vectors is the reference. binary keeps one bit a dimension and orders what it finds by "
        "the stored vectors. [index] storage chooses; a change is a rebuild and calls no embedder."
    )
    lines = tuple(
        Line(one.storage, tuple((point.p50_ms, point.recall_10) for point in one.points), style)
        for one, style in zip(trial.variants, STYLES, strict=False)
    )
    chart = LineChart("search time, median (ms)", "recall@10 (share)", lines, y_most=1.0, least_span=0.02, log=True)
    sizes = tuple(
        (one.storage, say.size(one.bytes), f"{one.bytes / trial.rows:,.0f} bytes", say.seconds(one.build_s))
        for one in trial.variants
    )
    sized: tuple[tuple[str, Style, tuple[float, ...]], ...] = (
        ("index size", "main", tuple(one.bytes / 1e6 for one in trial.variants)),
    )
    bars = Bars("storage", "index size (MB)", tuple(one.storage for one in trial.variants), sized, values=True)
    columns = ["ef_search"]
    for one in trial.variants:
        columns += [f"{one.storage}: recall@10", "recall@20", "p50 (ms)"]
    rows = tuple(
        (
            str(points[0].ef_search),
            *(
                text
                for point in points
                for text in (f"{point.recall_10:.4f}", f"{point.recall_20:.4f}", f"{point.p50_ms:.2f}")
            ),
        )
        for points in zip(*(one.points for one in trial.variants), strict=True)
    )
    return Section(
        title,
        (
            words,
            Plot(
                "Recall and time by storage", chart, "Each point is one ef_search; up and left is better. Logarithmic."
            ),
            Plot("Size by storage", bars, f"Of {trial.rows:,} vectors; lower is better."),
            Table("Size", ("Storage", "Index size", "Bytes a vector", "Build time"), sizes, numeric=(1, 2, 3)),
            Table("Sweep by storage", tuple(columns), rows, numeric=tuple(range(1, len(columns)))),
        ),
    )
