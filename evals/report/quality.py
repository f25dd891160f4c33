"""The part of a report about retrieval quality: figures, groups of questions, the questions that moved."""

from __future__ import annotations

from evals.measured import Measured
from evals.metrics import LABELS, MAIN
from evals.report import numbers as say
from evals.report.model import Plot, Section, Table, Words
from evals.statistics import bootstrap

JUDGED = {
    "document": "Chunks found are folded to their documents by the best chunk",
    "chunk": "Chunks themselves are judged: a judged span means the chunks that hold half of it",
}
SHOWN = 10
"""Questions listed as better and as worse."""


def quality_section(measured: Measured) -> Section:
    """Retrieval quality on the golden set, and the questions that changed most."""
    quality = measured.subject.quality
    if quality is None:
        return Section(
            "Retrieval quality",
            (Words("No golden set is configured ([eval] golden), so answers were not judged."),)
            if measured.subject.vectors
            else (),
        )
    live = measured.live.quality if measured.live else None
    rows = tuple(
        (LABELS[name], say.interval(found), say.interval(live.figures[name]) if live else "–")
        for name, found in quality.figures.items()
    )
    blocks: list[Words | Table | Plot] = [
        Words(
            f"Golden set {measured.golden}: {say.count(len(measured.golden_questions), 'judged question')}. "
            f"{JUDGED[measured.golden_level]}; a question without answer counts as zero. "
            "In brackets: 95 % interval."
        ),
        *(
            [
                Words(
                    f"{say.count(measured.golden_synthetic, 'question')} of them are synthetic: no person wrote or "
                    "accepted them."
                )
            ]
            if measured.golden_synthetic
            else []
        ),
        *(Words(f"Golden set: {problem}.") for problem in measured.golden_problems),
        Table("Quality", ("Metric (0 to 1)", f"Build {measured.subject.build_id}", "Live build"), rows, numeric=(1, 2)),
    ]
    blocks += group_table(measured)
    if live:
        blocks += moved_questions(measured)
    return Section("Retrieval quality", tuple(blocks))


def group_table(measured: Measured) -> list[Words | Table | Plot]:
    """Quality by group of questions, weakest first; nothing where all are of one group."""
    quality = measured.subject.quality
    members: dict[str, list[str]] = {}
    for qid, group in measured.golden_groups.items():
        members.setdefault(group, []).append(qid)
    if quality is None or len(members) < 2:
        return []
    live = measured.live.quality if measured.live else None
    found = {
        group: {
            name: bootstrap([quality.per_question[name][qid] for qid in qids]) for name in (MAIN, "hit@1", "recall@10")
        }
        for group, qids in members.items()
    }
    ordered = sorted(members, key=lambda group: (found[group][MAIN].mean, group))
    columns = ("Group of questions", "Questions", *(LABELS[name] for name in (MAIN, "hit@1", "recall@10")))
    rows = tuple(
        (
            group,
            say.count(len(members[group])),
            *(say.interval(figure) for figure in found[group].values()),
            *((f"{bootstrap([live.per_question[MAIN][qid] for qid in members[group]]).mean:.3f}",) if live else ()),
        )
        for group in ordered
    )
    if live:
        columns += (f"{LABELS[MAIN]}, live build",)
    return [Table("Quality by group of questions", columns, rows, numeric=tuple(range(1, len(columns))))]


def moved_questions(measured: Measured) -> list[Words | Table | Plot]:
    """The questions that got better and worse the most, with both lists of documents."""
    new, live = measured.subject.quality, measured.live.quality if measured.live else None
    if new is None or live is None:
        return []
    before, after = live.per_question[MAIN], new.per_question[MAIN]
    moves = {qid: value - before.get(qid, 0.0) for qid, value in after.items()}
    tables: list[Words | Table | Plot] = []
    for title, ordered in (
        (
            "Questions that got worse",
            sorted((qid for qid in moves if moves[qid] < 0), key=lambda qid: (moves[qid], qid)),
        ),
        (
            "Questions that got better",
            sorted((qid for qid in moves if moves[qid] > 0), key=lambda qid: (-moves[qid], qid)),
        ),
    ):
        rows = tuple(
            (
                measured.golden_questions.get(qid, qid),
                f"{before.get(qid, 0.0):.2f} {say.arrow(moves[qid])} {after[qid]:.2f}",
                "\n".join(live.top.get(qid, ())[:3]) or "nothing",
                "\n".join(new.top.get(qid, ())[:3]) or "nothing",
            )
            for qid in ordered[:SHOWN]
        )
        if rows:
            columns = ("Question", "nDCG@10", "Live build found", "This build found")
            tables.append(Table(title, columns, rows, note=f"{len(ordered)} in all" if len(ordered) > SHOWN else ""))
    return tables or [Words("No question is answered better or worse than by the live build.")]
