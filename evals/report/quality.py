"""The part of a report about retrieval quality: figures, groups of questions, the questions that moved."""

from __future__ import annotations

from evals.measured import Measured, Quality
from evals.metrics import DEPTH, LABELS, MAIN
from evals.report import numbers as say
from evals.report.model import Plot, Section, Table, Words
from evals.statistics import bootstrap

JUDGED = {
    "document": "Chunks found are folded to their documents by the best chunk",
    "chunk": "Chunks themselves are judged: a judged span means the chunks that hold half of it",
}
SHOWN = 10
"""Questions listed as better and as worse."""
MOVED = ("Questions that got worse", "Questions that got better")
TITLE = 40
"""Characters of a document's title that are shown."""


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


def most_moved(measured: Measured) -> tuple[list[str], list[str]]:
    """(questions that got worse, that got better), those that moved most first; all of them."""
    new, live = measured.subject.quality, measured.live.quality if measured.live else None
    if new is None or live is None:
        return [], []
    before = live.per_question[MAIN]
    moves = {qid: value - before.get(qid, 0.0) for qid, value in new.per_question[MAIN].items()}
    worse = sorted((qid for qid in moves if moves[qid] < 0), key=lambda qid: (moves[qid], qid))
    return worse, sorted((qid for qid in moves if moves[qid] > 0), key=lambda qid: (-moves[qid], qid))


def documents_shown(measured: Measured) -> list[str]:
    """The documents that the tables of moved questions name."""
    both = [one.quality for one in (measured.subject, measured.live) if one and one.quality]
    asked = [qid for moved in most_moved(measured) for qid in moved[:SHOWN]]
    return sorted({document(name) for quality in both for qid in asked for name in quality.top.get(qid, ())})


def document(shown: str) -> str:
    """The document of a place as `golden.shown` writes it."""
    return shown.rpartition(" (chunk ")[0] or shown


def moved_questions(measured: Measured) -> list[Words | Table | Plot]:
    """The questions that got better and worse the most, with both lists of documents."""
    new, live = measured.subject.quality, measured.live.quality if measured.live else None
    if new is None or live is None or measured.live is None:
        return []
    before, after = live.per_question[MAIN], new.per_question[MAIN]
    tables: list[Words | Table | Plot] = []
    for title, ordered in zip(MOVED, most_moved(measured), strict=True):
        rows = tuple(
            (
                measured.golden_questions.get(qid, qid),
                f"{before.get(qid, 0.0):.2f} {say.arrow(after[qid] - before.get(qid, 0.0))} {after[qid]:.2f}\n"
                f"right answer: {_rank(live, qid)} → {_rank(new, qid)}",
                found_list(measured, live, qid),
                found_list(measured, new, qid),
            )
            for qid in ordered[:SHOWN]
        )
        if rows:
            columns = (
                "Question",
                "nDCG@10 (0 to 1)",
                f"Live build {measured.live.build_id} found",
                f"Build {measured.subject.build_id} found",
            )
            note = "✓ marks a right answer."
            more = f" The {SHOWN} that moved most of {len(ordered):,}." if len(ordered) > SHOWN else ""
            tables.append(Table(title, columns, rows, note=note + more, widths=(22, 16, 31, 31)))
    return tables or [Words("No question is answered better or worse than by the live build.")]


def found_list(measured: Measured, quality: Quality, qid: str) -> str:
    """The first documents with their titles, a line each; right answers are marked."""
    right = quality.right.get(qid, ())
    lines: list[str] = []
    for place, name in enumerate(quality.top.get(qid, ()), 1):
        title = measured.titles.get(document(name), "")
        told = f": {title if len(title) <= TITLE else title[: TITLE - 1] + '…'}" if title and title != name else ""
        lines.append(f"{place}. {'✓ ' if place in right else ''}{name}{told}")
    return "\n".join(lines) or "nothing"


def _rank(quality: Quality, qid: str) -> str:
    right = quality.right.get(qid, ())
    return f"rank {right[0]}" if right else f"not in {DEPTH}"
