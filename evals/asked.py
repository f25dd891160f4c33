"""What an eval run asks: a golden set where there is one, filled up with sentences from the corpus."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from psycopg import Connection
from psycopg.rows import TupleRow

from evals.golden import GoldenSet, documents_judged, from_body, read_golden, resolved
from evals.questions import probes, sampled_questions
from kb_pipeline.config.schema import EvalConfig
from kb_pipeline.store import eval_reads
from kb_pipeline.store.eval_golden import put_golden, registered_body


@dataclass(frozen=True, slots=True)
class Questions:
    """What is asked, as text."""

    texts: tuple[str, ...]
    source: str
    golden: GoldenSet | None


def questions_of(conn: Connection[TupleRow], tenant_id: str, config: EvalConfig, golden: str | None) -> Questions:
    """Golden questions where a set is configured, filled up to the wanted number with sentences from the corpus."""
    read = chosen_golden(conn, tenant_id, golden)
    labels = None if read is None else fitted(conn, tenant_id, read)
    chosen = (
        sorted(labels.questions.values(), key=lambda text: hashlib.sha256(text.encode()).digest()) if labels else []
    )
    texts = dict.fromkeys(chosen[: config.queries])
    judged = len(texts)
    if judged < config.queries:
        bodies = eval_reads.sampled_bodies(conn, tenant_id, probes(tenant_id, config.queries - judged))
        texts.update(dict.fromkeys(question.text for question in sampled_questions(bodies)))
    parts = [f"{judged} questions of golden set {labels.name}"] if labels and judged else []
    parts += [f"{len(texts) - judged} sentences sampled from the corpus"] if len(texts) > judged else []
    return Questions(tuple(texts), " and ".join(parts) or "nothing, the corpus is empty", labels)


def chosen_golden(conn: Connection[TupleRow], tenant_id: str, golden: str | None) -> GoldenSet | None:
    """The set in this folder; else the registered one of this name (`name`, `name@version`); without a name the one
    that was registered last. Raises `ConfigError` for one that is neither."""
    if golden is None or golden == "":
        found = registered_body(conn, tenant_id, None)
        return from_body(*found) if found else None
    folder = Path(golden).expanduser()
    if not folder.exists() and "/" not in golden:
        name, _, version = golden.partition("@")
        found = registered_body(conn, tenant_id, name, int(version) if version.isdigit() else None)
        if found is not None:
            return from_body(*found)
    read = read_golden(folder)
    put_golden(conn, tenant_id, read.name, read.sha256, read.body(), registered=False, by="eval")
    return read


def fitted(conn: Connection[TupleRow], tenant_id: str, golden: GoldenSet) -> GoldenSet:
    """The set with the tenant's ids. An empty tenant has none, and takes it as it is."""
    known = eval_reads.known_documents(conn, tenant_id, documents_judged(golden))
    if not known and eval_reads.corpus_rows(conn, tenant_id).documents == 0:
        return golden
    chunks = eval_reads.chunk_places(conn, tenant_id, sorted(set(known.values()))) if golden.level == "chunk" else None
    return resolved(golden, known, chunks)


def groups_of(golden: GoldenSet) -> dict[str, str]:
    """Question id -> group: as the set names them, else by length."""
    if golden.groups:
        return {qid: golden.groups.get(qid, "no group") for qid in golden.questions}

    def length(words: int) -> str:
        return "up to 4 words" if words <= 4 else "5 to 10 words" if words <= 10 else "more than 10 words"

    return {qid: length(len(text.split())) for qid, text in golden.questions.items()}
