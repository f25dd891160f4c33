"""Golden sets in the layout of the BEIR benchmark: `queries.jsonl` and `qrels/*.tsv`; ids are document ids or uris.

A row of qrels has 3 columns (question, document, grade), 4 (question, document, ordinal of a chunk, grade) or 5
(question, document, first character, character after the last, grade). A question may say its `group`.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from kb_pipeline.errors import ConfigError

JOIN = "\x1f"
"""Between a document and a place in it; stands in no id."""
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
    """Question id -> document id or uri -> grade; 0 or less is "not relevant". In a set of level `chunk`, a document is
    followed by `JOIN` and an ordinal, or two offsets with `-` between them; `resolved`, by an ordinal."""
    sha256: str
    """Over questions and judgments in canonical order; what the report and `eval_runs` call the labels."""
    problems: tuple[Problem, ...] = ()
    """Harmless ones; a set with others is not read at all."""
    unknown: float = 0.0
    """Share of the relevant judgments whose document the tenant does not have; set by `resolved`."""
    level: Literal["document", "chunk"] = "document"
    """What is judged: documents, or places in them (chunks, character spans)."""
    groups: Mapping[str, str] = field(default_factory=dict[str, str])
    """Question id -> group, where the set names any."""
    synthetic: frozenset[str] = frozenset()
    """Questions that no person wrote."""

    def body(self) -> dict[str, Any]:
        """All of it that was read from files, as JSON; `from_body` reads it again."""
        return {
            "questions": dict(self.questions),
            "judgments": {qid: dict(grades) for qid, grades in self.judgments.items()},
            "level": self.level,
            "groups": dict(self.groups),
            "synthetic": sorted(self.synthetic),
        }


def from_body(name: str, body: Mapping[str, Any]) -> GoldenSet:
    """The set that `GoldenSet.body` described. Questions are ordered by id wherever a set comes from, since a bootstrap
    depends on their order and JSON in Postgres keeps none."""
    questions, judgments = dict(sorted(body["questions"].items())), dict(sorted(body["judgments"].items()))
    return GoldenSet(
        name,
        questions,
        judgments,
        _hash(questions, judgments, body.get("synthetic", ())),
        level=body.get("level", "document"),
        groups=body.get("groups", {}),
        synthetic=frozenset(body.get("synthetic", ())),
    )


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
    questions, groups, synthetic = _questions(queries_file, faults)
    judgments, doubled, level = _judgments(tables, questions, faults)
    if not faults and not any(grade > 0 for grades in judgments.values() for grade in grades.values()):
        faults.append(Problem("no-judgments", (), "no question has a relevant document"))
    if faults:
        raise ConfigError(f"golden set {root} cannot be used:\n" + "\n".join(f"  - {fault}" for fault in faults))
    judged = {qid: text for qid, text in sorted(questions.items()) if qid in judgments}
    problems = [
        *_problem("duplicate-judgment", doubled, "judgments that stand twice with the same grade"),
        *_problem(
            "unjudged", [qid for qid in questions if qid not in judgments], "questions without a judgment, left out"
        ),
        *_problem("same-text", _repeated(judged), "questions with the same text"),
    ]
    ordered = {qid: judgments[qid] for qid in judged}
    return GoldenSet(
        root.resolve().name,
        judged,
        ordered,
        _hash(judged, ordered, synthetic & judged.keys()),
        tuple(problems),
        level=level,
        groups={qid: group for qid, group in groups.items() if qid in judged},
        synthetic=frozenset(synthetic & judged.keys()),
    )


def documents_judged(golden: GoldenSet) -> list[str]:
    """The document ids and uris that the set names, each once."""
    return sorted({doc.split(JOIN)[0] for grades in golden.judgments.values() for doc in grades})


Chunks = Mapping[str, Sequence[tuple[int, int, int]]]
"""Document id -> (ordinal, first character, character after the last) of its chunks."""


def resolved(golden: GoldenSet, known: Mapping[str, str], chunks: Chunks | None = None) -> GoldenSet:
    """The set with document ids in place of uris. `known`: id or uri -> document id, for what the tenant has. `chunks`
    is needed for a set of level `chunk`: spans become the chunks that hold half of them, or lie half inside.

    A judgment of an unknown document stays: nothing can answer it, so the figures show the loss. `ConfigError` when
    not a single relevant document is known, because then it is another corpus's set.
    """
    places = (
        _placed(golden, known, chunks or {})
        if golden.level == "chunk"
        else {doc: [doc_id] for doc, doc_id in known.items()}
    )
    judgments = {
        qid: {
            place: grade
            for doc, grade in sorted(grades.items(), key=lambda pair: pair[1])
            for place in places.get(doc) or [doc]
        }
        for qid, grades in golden.judgments.items()
    }
    relevant = [doc for grades in golden.judgments.values() for doc, grade in grades.items() if grade > 0]
    lost = [doc for doc in relevant if not places.get(doc)]
    unknown = sorted({shown(doc) for grades in golden.judgments.values() for doc in grades if not places.get(doc)})
    if len(lost) == len(relevant):
        raise ConfigError(
            f"golden set {golden.name} fits no document of this tenant: its {len(unknown)} ids "
            f"(for example {', '.join(unknown[:3])}) are neither document ids nor uris here"
        )
    problems = (
        *golden.problems,
        *_problem("unknown-document", unknown, f"judged {golden.level}s that the tenant does not have"),
    )
    return replace(golden, judgments=judgments, problems=problems, unknown=len(lost) / len(relevant))


def _placed(golden: GoldenSet, known: Mapping[str, str], chunks: Chunks) -> dict[str, list[str]]:
    """Target -> the chunks it means, as document, `JOIN`, ordinal."""
    places: dict[str, list[str]] = {}
    for target in {target for grades in golden.judgments.values() for target in grades}:
        document, _, place = target.partition(JOIN)
        doc_id = known.get(document)
        if doc_id is None:
            continue
        if "-" in place:
            start, end = (int(offset) for offset in place.split("-"))
            ordinals = [ordinal for ordinal, first, last in chunks.get(doc_id, ()) if _shares(start, end, first, last)]
        else:
            ordinals = [ordinal for ordinal, _, _ in chunks.get(doc_id, ()) if ordinal == int(place)]
        places[target] = [f"{doc_id}{JOIN}{ordinal}" for ordinal in ordinals]
    return places


def _shares(start: int, end: int, first: int, last: int) -> bool:
    common = min(end, last) - max(start, first)
    return common > 0 and 2 * common >= min(end - start, last - first)


def shown(target: str) -> str:
    """A judged document or place, for people."""
    document, joined, place = target.partition(JOIN)
    return f"{document} ({'characters' if '-' in place else 'chunk'} {place})" if joined else document


def _tables(root: Path) -> list[Path]:
    """`qrels/test.tsv` where there is one, else every table."""
    test = root / "qrels" / "test.tsv"
    return [test] if test.is_file() else sorted((root / "qrels").glob("*.tsv"))


def _questions(path: Path, faults: list[Problem]) -> tuple[dict[str, str], dict[str, str], set[str]]:
    questions: dict[str, str] = {}
    groups: dict[str, str] = {}
    synthetic: set[str] = set()
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
        about = record.get("metadata") if isinstance(record.get("metadata"), dict) else {}
        group = record.get("group", about.get("group"))
        if group is not None:
            groups[qid] = str(group)
        if record.get("synthetic") or about.get("synthetic"):
            synthetic.add(qid)
    faults += _problem("broken-line", broken, f"lines of {path.name} that are not objects with _id and text")
    faults += _problem("empty-query", empty, "questions without text")
    faults += _problem("duplicate-question", double, "question ids that stand twice")
    return questions, groups, synthetic


def _judgments(
    tables: Sequence[Path], questions: Mapping[str, str], faults: list[Problem]
) -> tuple[dict[str, dict[str, int]], list[str], Literal["document", "chunk"]]:
    widths: set[int] = set()
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
                    qid, doc, grade = row[0], _target(row), int(row[-1])
                except (IndexError, ValueError):
                    broken.append(f"{path.name} line {number}")
                    continue
                widths.add(min(len(row), 4))
                if qid not in questions:
                    unknown.append(qid)
                    continue
                earlier = judgments.setdefault(qid, {}).get(doc)
                if earlier is not None:
                    (doubled if earlier == grade else conflicting).append(f"{qid}/{shown(doc)}")
                judgments[qid][doc] = grade
    expected = "question, document, (ordinal, or first and last character,) whole number, with tabs"
    faults += _problem("broken-line", broken, f"judgments that are not: {expected}")
    if len(widths) > 1:
        faults.append(Problem("mixed-levels", (), "judgments of documents stand beside judgments of places in them"))
    faults += _problem("unknown-question", sorted(set(unknown)), "judgments of questions that are not in queries.jsonl")
    faults += _problem("conflict", conflicting, "judgments that stand twice with different grades")
    return judgments, doubled, "chunk" if 4 in widths else "document"


def _target(row: Sequence[str]) -> str:
    match len(row):
        case 3:
            return row[1]
        case 4:
            return f"{row[1]}{JOIN}{int(row[2])}"
        case 5 if 0 <= int(row[2]) < int(row[3]):
            return f"{row[1]}{JOIN}{int(row[2])}-{int(row[3])}"
        case _:
            raise ValueError(row)


def _repeated(questions: Mapping[str, str]) -> list[str]:
    times = Counter(text.casefold() for text in questions.values())
    return [qid for qid, text in questions.items() if times[text.casefold()] > 1]


def _problem(kind: str, ids: Sequence[str], words: str) -> list[Problem]:
    return [Problem(kind, tuple(ids), f"{len(ids)} {words}")] if ids else []


def _hash(questions: Mapping[str, str], judgments: Mapping[str, Mapping[str, int]], synthetic: Iterable[str]) -> str:
    marks = [sorted(synthetic)] if synthetic else []
    canonical = json.dumps([questions, judgments, *marks], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
