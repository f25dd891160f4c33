"""Known-item questions: a question with the one document it was made from. Nobody wrote them; a person accepts them."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evals.questions import sentence_of
from kb_pipeline.errors import ConfigError, ProviderUnavailable

_QUESTION = re.compile(r"^(how|what|when|where|which|who|why|can|do|does|is|are|should)\b", re.IGNORECASE)
_PROMPT = (
    "You write test questions for a search engine. For the text given, write one short question that this text answers "
    "and that a person would ask who has not seen it. Do not copy its phrases. Answer with the question alone."
)


@dataclass(frozen=True, slots=True)
class Passage:
    """A chunk that a question is made from."""

    doc_id: str
    ordinal: int
    heading: str
    """The innermost heading, or empty."""
    body: str


@dataclass(frozen=True, slots=True)
class KnownItem:
    """A proposed question."""

    qid: str
    text: str
    doc_id: str
    ordinal: int
    how: str
    """heading, sentence or model."""

    def record(self) -> dict[str, Any]:
        """Its line in queries.jsonl."""
        return {"_id": self.qid, "text": self.text, "group": self.how, "synthetic": True}


def proposed(passages: Sequence[Passage], *, count: int) -> list[KnownItem]:
    """Questions without a model: headings in the form of a question first, then sentences that read well."""
    asked: dict[str, KnownItem] = {}
    for how in ("heading", "sentence"):
        for passage in passages:
            text = passage.heading.strip() if how == "heading" else sentence_of(passage.body, seed=_seed(passage))
            is_question = text.endswith("?") or _QUESTION.match(text)
            if len(text.split()) < 4 or (how == "heading" and not is_question):
                continue
            asked.setdefault(text.casefold(), _item(passage, text, how))
    once: dict[tuple[str, int], KnownItem] = {}
    for item in asked.values():
        once.setdefault((item.doc_id, item.ordinal), item)
    return list(once.values())[:count]


def asked_of_model(passages: Sequence[Passage], *, count: int, model: str) -> list[KnownItem]:
    """One question of each passage by an OpenAI-compatible chat model: OPENAI_BASE_URL and OPENAI_API_KEY name it.
    Raises `ConfigError` without a key, `ProviderUnavailable` when it does not answer."""
    import openai

    if not os.environ.get("OPENAI_API_KEY"):
        raise ConfigError("--model needs the key of an OpenAI-compatible endpoint in OPENAI_API_KEY")
    client = openai.OpenAI(timeout=60, max_retries=2)
    items: list[KnownItem] = []
    try:
        for passage in passages[:count]:
            answer = client.chat.completions.create(
                model=model,
                messages=[
                    {"role": "system", "content": _PROMPT},
                    {"role": "user", "content": f"{passage.heading}\n\n{passage.body[:6000]}"},
                ],
            )
            text = " ".join((answer.choices[0].message.content or "").split()).strip("\"' ")
            if text:
                items.append(_item(passage, text, "model"))
    except openai.OpenAIError as error:
        raise ProviderUnavailable(f"the chat model {model} gave no question: {error}") from error
    finally:
        client.close()
    return items


def write_golden(folder: Path, items: Sequence[KnownItem]) -> None:
    """A set in BEIR layout with one relevant document a question. Raises `ConfigError` where one is already."""
    if (folder / "queries.jsonl").exists():
        raise ConfigError(f"{folder} holds a golden set already: choose another folder")
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(item.record(), ensure_ascii=False) for item in items]
    (folder / "queries.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    rows = "".join(f"{item.qid}\t{item.doc_id}\t1\n" for item in items)
    (folder / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{rows}", encoding="utf-8")


def settled(body: Mapping[str, Any], *, accept: Sequence[str], strike: Sequence[str]) -> dict[str, Any]:
    """A set's body after a person's word: accepted questions are no longer synthetic, struck ones are gone. `all`
    accepts every question that is not struck. Raises `ConfigError` for an id it does not have."""
    unknown = sorted({qid for qid in (*accept, *strike) if qid != "all" and qid not in body["questions"]})
    if unknown:
        raise ConfigError(f"the golden set has no question {', '.join(unknown[:5])}")
    kept = {qid: text for qid, text in body["questions"].items() if qid not in strike}
    if not kept:
        raise ConfigError("striking all of these would leave no question")
    synthetic = [qid for qid in body["synthetic"] if qid in kept and qid not in accept and "all" not in accept]
    return {
        **body,
        "questions": kept,
        "judgments": {qid: grades for qid, grades in body["judgments"].items() if qid in kept},
        "groups": {qid: group for qid, group in body["groups"].items() if qid in kept},
        "synthetic": synthetic,
    }


def _item(passage: Passage, text: str, how: str) -> KnownItem:
    name = hashlib.sha256(f"{passage.doc_id}\x1f{passage.ordinal}\x1f{text}".encode()).hexdigest()[:10]
    return KnownItem(f"k{name}", text, passage.doc_id, passage.ordinal, how)


def _seed(passage: Passage) -> bytes:
    return hashlib.sha256(f"{passage.doc_id}\x1f{passage.ordinal}".encode()).digest()
