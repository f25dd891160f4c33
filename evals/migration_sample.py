"""The old model against a new one on a sample of contents, before a column is added: is the change worth it?"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evals.asked import questions_of
from evals.measure import folded
from evals.metrics import DEPTH, LABELS, MAIN, score
from evals.questions import sampled_questions
from evals.statistics import Comparison, compare
from kb_pipeline.config.schema import EmbedderConfig
from kb_pipeline.embed.protocol import Vectors
from kb_pipeline.embed.registry import make_embedder, resolve_spec
from kb_pipeline.errors import NotLive
from kb_pipeline.stages.context import StageContext
from kb_pipeline.stages.wanted import embedder_config
from kb_pipeline.store import eval_reads
from kb_pipeline.store.eval_vectors import vectors_of
from kb_pipeline.store.live import read_live
from kb_pipeline.store.sample import Sampled, sample_texts
from kb_pipeline.store.versions import read_version

BATCH = 256
QUESTIONS = 300
SHOWN = 5


@dataclass(frozen=True, slots=True)
class Moved:
    """A question whose answer changed."""

    question: str
    old: float
    new: float


@dataclass(frozen=True, slots=True)
class SampleReport:
    """What the sample shows; nothing but what it cost was written anywhere."""

    tenant: str
    old: str
    new: str
    contents: int
    questions: int
    labelled: bool
    """Golden questions; else sentences, each looked for in the content it was taken from."""
    metric: str
    comparison: Comparison
    overlap: float
    """Mean share of the ten nearest contents that both models find."""
    better: tuple[Moved, ...]
    worse: tuple[Moved, ...]
    tokens: int
    usd: float | None
    """Of the sample; None: nobody knows the price."""
    words: str
    """Whether the change is worth it, in one sentence."""

    def lines(self) -> list[str]:
        """For a person."""
        change = self.comparison.difference
        kind = "golden questions" if self.labelled else "sentences of the corpus (no golden set: a weak sign)"
        found = [
            f"{self.old} against {self.new} on {self.contents:,} contents and {self.questions} {kind}",
            f"{self.metric}: {self.comparison.old:.4f} -> {self.comparison.new:.4f}, difference {change.mean:+.4f} "
            f"(95 % interval {change.low:+.4f} to {change.high:+.4f}, p = {self.comparison.p:.3g}); "
            f"{self.comparison.better} better, {self.comparison.worse} worse, {self.comparison.equal} equal",
            f"overlap of the ten nearest: {self.overlap * 100:.1f} %; the sample cost {self.tokens:,} tokens, "
            + ("price not known" if self.usd is None else f"${self.usd:.4f}"),
        ]
        found += [f"  better: {one.old:.2f} -> {one.new:.2f}  {one.question}" for one in self.better]
        found += [f"  worse:  {one.old:.2f} -> {one.new:.2f}  {one.question}" for one in self.worse]
        return [*found, self.words]


def compare_on_sample(ctx: StageContext, target: EmbedderConfig, *, rows: int) -> SampleReport:
    """Embeds `rows` contents and the questions with the target and ranks the sample exactly with both models.

    Contents of documents that answer golden questions are in the sample first, the rest is drawn evenly; questions
    without an answer in the sample are left out. Raises `NotLive` when the tenant serves nothing.
    """
    tenant_id = ctx.tenant_id
    with ctx.db.connect("writer", tenant_id, autocommit=True) as conn:
        live = read_live(conn, tenant_id)
        if live is None:
            raise NotLive(f"tenant {tenant_id!r} serves nothing yet, so there is no model to compare with")
        old_spec = read_version(conn, live.version).spec
        golden = questions_of(conn, tenant_id, ctx.tenant.eval, ctx.tenant.eval.golden).golden
        answers = sorted({doc for grades in golden.judgments.values() for doc in grades}) if golden else []
        sampled = sample_texts(conn, tenant_id, live.version, rows=rows, documents=answers)
        if not sampled:
            raise NotLive(f"tenant {tenant_id!r} has no content to compare on")
        names = [one.fingerprint for one in sampled]
        stored = vectors_of(conn, tenant_id, live.version, names)
        documents = eval_reads.documents_of(conn, tenant_id, names)
    if golden is not None:
        there = {doc for docs in documents.values() for doc in docs}
        asked = {
            qid: text
            for qid, text in golden.questions.items()
            if any(grade > 0 and doc in there for doc, grade in golden.judgments[qid].items())
        }
        judged = {qid: golden.judgments[qid] for qid in asked}
    else:
        asked, judged = _sentences(sampled)
        documents = {name: (name.hex(),) for name in names}
    old = make_embedder(embedder_config(ctx.tenant.embedder, old_spec))
    new = make_embedder(target)
    task = ctx.progress.task(f"sample ({new.spec.model})", len(sampled), "texts")
    vectors: list[Vectors] = []
    tokens = 0
    for start in range(0, len(sampled), BATCH):
        answer = new.embed_documents([one.text for one in sampled[start : start + BATCH]])
        vectors.append(answer.vectors)
        tokens += answer.tokens
        task.advance(len(answer.vectors))
    task.done()
    before, found_old = _scored(
        old.embed_queries(list(asked.values())).vectors, np.stack([stored[name] for name in names]),
        names, asked, judged, documents,
    )  # fmt: skip
    answer = new.embed_queries(list(asked.values()))
    tokens += answer.tokens
    after, found_new = _scored(answer.vectors, np.concatenate(vectors), names, asked, judged, documents)
    return _report(ctx, target, live.model, len(sampled), golden is not None, asked, before, after,
                   _overlap(found_old, found_new), tokens)  # fmt: skip


def _sentences(sampled: Sequence[Sampled]) -> tuple[dict[str, str], dict[str, dict[str, int]]]:
    chosen = sorted(sampled, key=lambda one: hashlib.sha256(one.fingerprint).digest())[:QUESTIONS]
    questions = sampled_questions([(one.fingerprint, one.body) for one in chosen])
    asked = {question.fingerprint.hex(): question.text for question in questions}
    return asked, {name: {name: 1} for name in asked}


def _scored(
    questions: Vectors,
    vectors: npt.NDArray[np.floating],
    names: Sequence[bytes],
    asked: Mapping[str, str],
    judged: Mapping[str, Mapping[str, int]],
    documents: Mapping[bytes, tuple[str, ...]],
) -> tuple[dict[str, float], list[set[int]]]:
    """The main metric of each question, and the ten nearest."""
    unit = np.asarray(vectors, dtype=np.float32)
    unit = unit / np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
    order = np.argsort(-(questions @ unit.T), axis=1, kind="stable")[:, :DEPTH]
    ranked: list[list[int]] = order.tolist()
    run = {
        qid: folded([names[place] for place in row], documents, depth=DEPTH)
        for qid, row in zip(asked, ranked, strict=True)
    }
    return score(judged, run, metrics=(MAIN,))[MAIN], [set(row[:10]) for row in ranked]


def _overlap(old: Sequence[set[int]], new: Sequence[set[int]]) -> float:
    return float(np.mean([len(a & b) / max(len(a), 1) for a, b in zip(old, new, strict=True)])) if old else 0.0


def _report(
    ctx: StageContext,
    target: EmbedderConfig,
    old_model: str,
    contents: int,
    labelled: bool,
    asked: Mapping[str, str],
    before: Mapping[str, float],
    after: Mapping[str, float],
    overlap: float,
    tokens: int,
) -> SampleReport:
    from kb_pipeline.embed.prices import price

    spec = resolve_spec(target)
    known = price(spec.model, override=target.usd_per_million_tokens)
    compared = compare(list(before.values()), list(after.values()))
    every = (Moved(text, before[qid], after[qid]) for qid, text in asked.items())
    moved = sorted(every, key=lambda one: one.new - one.old)
    return SampleReport(
        tenant=ctx.tenant_id,
        old=old_model,
        new=f"{spec.provider}/{spec.model} ({spec.dims} dims)",
        contents=contents,
        questions=len(asked),
        labelled=labelled,
        metric=LABELS[MAIN],
        comparison=compared,
        overlap=overlap,
        better=tuple(one for one in reversed(moved[-SHOWN:]) if one.new > one.old),
        worse=tuple(one for one in moved[:SHOWN] if one.new < one.old),
        tokens=tokens,
        usd=None if known is None else known.usd(tokens),
        words=verdict(compared, tolerance=ctx.tenant.eval.quality_tolerance, labelled=labelled),
    )


def verdict(compared: Comparison, *, tolerance: float, labelled: bool) -> str:
    """One sentence: worth it, not worth it, or not to be told from these questions."""
    change = compared.difference
    weak = "" if labelled else "; without a golden set this says little about answers"
    if compared.detected and change.mean > 0:
        return f"the new model is better on this sample{weak}"
    if compared.detected and change.mean < -tolerance:
        return f"the new model is worse by more than the tolerance of {tolerance:g}: the gate would refuse it{weak}"
    if compared.detected:
        return f"the new model is a little worse, within the tolerance of {tolerance:g}: worth it only if cheaper{weak}"
    needed = f"; {compared.questions_needed} questions would show it" if compared.questions_needed else ""
    return f"no difference can be told from {change.n} questions{needed}: quality is no reason to change{weak}"
