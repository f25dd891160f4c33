"""Golden sets in the layout of the BEIR benchmark: `queries.jsonl` and `qrels/*.tsv`; ids are document ids or uris."""

from __future__ import annotations

import csv
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kb_pipeline.errors import ConfigError

SHOWN = 5
"""Ids named in one message."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something a person should mend in a golden set."""

    kind: str
    """unknown-document, empty-query, duplicate-question, ..."""
    ids: tuple[str, ...]
    words: str
    """What is wrong, in how many places; the ids are named beside it."""

    def __str__(self) -> str:
        more = len(self.ids) - SHOWN
        return f"{self.words}: {', '.join(self.ids[:SHOWN])}" + (f" and {more} more" if more > 0 else "")


@dataclass(frozen=True, slots=True)
class GoldenSet:
    """Questions and which documents answer them."""

    name: str
    questions: Mapping[str, str]
    """Judged questions only: id -> text."""
    judgments: Mapping[str, Mapping[str, int]]
    """Question id -> document id or uri -> grade; 0 or less is "not relevant"."""
    sha256: str
    """Over questions and judgments in canonical order; what the report and `eval_runs` call the labels."""
    problems: tuple[Problem, ...] = ()
    """Harmless ones; a set with others is not read at all."""
    unknown: float = 0.0
    """Share of the relevant judgments whose document the tenant does not have; set by `resolved`."""
    notes: Mapping[str, str] = field(default_factory=dict[str, str])


def read_golden(folder: str | Path) -> GoldenSet:
    """The golden set in a folder. Raises `ConfigError` that names every fault: missing files, broken lines, empty or
    doubled questions, judgments of unknown questions, grades that contradict each other."""
    root = Path(folder)
    queries_file = root / "queries.jsonl"
    tables = _tables(root)
    missing = [str(path) for path in (root, queries_file) if not path.exists()] + (
        [] if tables else [f"{root / 'qrels'}/*.tsv"]
    )
    if missing:
        raise ConfigError(f"golden set {root} is not in BEIR layout, missing: {', '.join(missing)}")
    faults: list[Problem] = []
    questions = _questions(queries_file, faults)
    judgments, doubled = _judgments(tables, questions, faults)
    if not faults and not any(grade > 0 for grades in judgments.values() for grade in grades.values()):
        faults.append(Problem("no-judgments", (), "no question has a relevant document"))
    if faults:
        raise ConfigError(f"golden set {root} cannot be used:\n" + "\n".join(f"  - {fault}" for fault in faults))
    judged = {qid: text for qid, text in questions.items() if qid in judgments}
    problems = [
        *_problem("duplicate-judgment", doubled, "judgments that stand twice with the same grade"),
        *_problem(
            "unjudged", [qid for qid in questions if qid not in judgments], "questions without a judgment, left out"
        ),
        *_problem("same-text", _repeated(judged), "questions with the same text"),
    ]
    ordered = {qid: judgments[qid] for qid in judged}
    return GoldenSet(root.name, judged, ordered, _hash(judged, ordered), tuple(problems))


def resolved(golden: GoldenSet, known: Mapping[str, str]) -> GoldenSet:
    """The set with document ids in place of uris. `known`: id or uri -> document id, for what the tenant has.

    A judgment of an unknown document stays: nothing can answer it, so the figures show the loss. `ConfigError` when
    not a single relevant document is known, because then it is another corpus's set.
    """
    judgments = {
        qid: {known.get(doc, doc): grade for doc, grade in sorted(grades.items(), key=lambda pair: pair[1])}
        for qid, grades in golden.judgments.items()
    }
    relevant = [doc for grades in golden.judgments.values() for doc, grade in grades.items() if grade > 0]
    lost = [doc for doc in relevant if doc not in known]
    unknown = sorted({doc for grades in golden.judgments.values() for doc in grades if doc not in known})
    if len(lost) == len(relevant):
        raise ConfigError(
            f"golden set {golden.name} fits no document of this tenant: its {len(unknown)} ids "
            f"(for example {', '.join(unknown[:3])}) are neither document ids nor uris here"
        )
    problems = (
        *golden.problems,
        *_problem("unknown-document", unknown, "judged documents that the tenant does not have"),
    )
    return GoldenSet(
        golden.name, golden.questions, judgments, golden.sha256, problems, len(lost) / len(relevant), golden.notes
    )


def folded(hits: Iterable[bytes], documents: Mapping[bytes, Sequence[str]], *, depth: int) -> list[str]:
    """Document ids in the order of each document's best chunk. `hits`: fingerprints, best first."""
    order: dict[str, None] = {}
    for hit in hits:
        for doc_id in documents.get(hit, ()):
            order.setdefault(doc_id)
        if len(order) >= depth:
            break
    return list(order)[:depth]


def _tables(root: Path) -> list[Path]:
    """`qrels/test.tsv` where there is one, else every table."""
    test = root / "qrels" / "test.tsv"
    return [test] if test.is_file() else sorted((root / "qrels").glob("*.tsv"))


def _questions(path: Path, faults: list[Problem]) -> dict[str, str]:
    questions: dict[str, str] = {}
    broken: list[str] = []
    empty: list[str] = []
    double: list[str] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            qid, text = str(record["_id"]), str(record["text"])
        except (ValueError, KeyError, TypeError):
            broken.append(f"line {number}")
            continue
        if not text.strip():
            empty.append(qid)
        if qid in questions:
            double.append(qid)
        questions[qid] = text.strip()
    faults += _problem("broken-line", broken, f"lines of {path.name} that are not objects with _id and text")
    faults += _problem("empty-query", empty, "questions without text")
    faults += _problem("duplicate-question", double, "question ids that stand twice")
    return questions


def _judgments(
    tables: Sequence[Path], questions: Mapping[str, str], faults: list[Problem]
) -> tuple[dict[str, dict[str, int]], list[str]]:
    judgments: dict[str, dict[str, int]] = {}
    broken: list[str] = []
    unknown: list[str] = []
    doubled: list[str] = []
    conflicting: list[str] = []
    for path in tables:
        with path.open(encoding="utf-8", newline="") as file:
            for number, row in enumerate(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE), 1):
                if not row or (number == 1 and row[0] == "query-id"):
                    continue
                try:
                    qid, doc, grade = row[0], row[1], int(row[2])
                except (IndexError, ValueError):
                    broken.append(f"{path.name} line {number}")
                    continue
                if qid not in questions:
                    unknown.append(qid)
                    continue
                earlier = judgments.setdefault(qid, {}).get(doc)
                if earlier is not None:
                    (doubled if earlier == grade else conflicting).append(f"{qid}/{doc}")
                judgments[qid][doc] = grade
    faults += _problem("broken-line", broken, "judgments that are not: question, document, whole number, with tabs")
    faults += _problem("unknown-question", sorted(set(unknown)), "judgments of questions that are not in queries.jsonl")
    faults += _problem("conflict", conflicting, "judgments that stand twice with different grades")
    return judgments, doubled


def _repeated(questions: Mapping[str, str]) -> list[str]:
    times = Counter(text.casefold() for text in questions.values())
    return [qid for qid, text in questions.items() if times[text.casefold()] > 1]


def _problem(kind: str, ids: Sequence[str], words: str) -> list[Problem]:
    return [Problem(kind, tuple(ids), f"{len(ids)} {words}")] if ids else []


def _hash(questions: Mapping[str, str], judgments: Mapping[str, Mapping[str, int]]) -> str:
    canonical = json.dumps([questions, judgments], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
