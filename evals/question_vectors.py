"""Questions as vectors. Each text is embedded once, kept, and asked again as it is kept: eval runs of one corpus then
differ by what was changed and by nothing else, a repetition is exact with any embedder, and a paid one is paid once."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from psycopg import Connection
from psycopg.rows import TupleRow

from evals.asked import Questions
from evals.measure import Asked
from evals.serving import embedder_of
from kb_pipeline.embed.models import IN_PROCESS
from kb_pipeline.embed.protocol import Embedder, EmbedderSpec, Vectors
from kb_pipeline.embed.same_space import MIN_COSINE
from kb_pipeline.stages.context import StageContext
from kb_pipeline.stages.wanted import usd
from kb_pipeline.store.eval_reads import BuildRow
from kb_pipeline.store.question_vectors import put_questions, stored_questions
from kb_pipeline.store.spend import add_spend

log = logging.getLogger(__name__)

PROBES = 4
"""Known questions that every eval run embeds again. They tell an embedder that is down, or is another one by now."""


@dataclass(frozen=True, slots=True)
class Embedded:
    """Texts as vectors."""

    vectors: Vectors
    """`(texts, dims) float32`, in the order of the texts."""
    made: int
    """How many of them were not known."""
    tokens: int = 0
    """Billed for them, and for known ones that were asked again."""

    @property
    def sha256(self) -> str:
        """Over all vectors, in order: equal means that a repetition asks exactly the same."""
        return hashlib.sha256(np.ascontiguousarray(self.vectors, dtype="<f4").tobytes()).hexdigest()


def question_vectors(
    ctx: StageContext, conn: Connection[TupleRow], build: BuildRow, asked: Questions, *, repeated: bool
) -> tuple[Asked, str]:
    """(the questions of an eval run as vectors of the build's version, SHA-256 over them). `repeated`: those of an
    earlier run."""
    texts = list(dict.fromkeys([*asked.texts, *(asked.golden.questions.values() if asked.golden else ())]))
    found = Embedded(np.zeros((0, build.dims), dtype=np.float32), 0)
    if texts:
        tenant_id, make = ctx.tenant.tenant_id, partial(embedder_of, ctx.tenant.embedder, build)
        if repeated:
            found = repeated_vectors(conn, tenant_id, build.version, texts, make)
        else:
            found = asked_vectors(conn, tenant_id, build.version, texts, make())
        _pay(ctx, conn, EmbedderSpec(**build.embedder), found.tokens)
    place = {text: number for number, text in enumerate(texts)}
    golden: Mapping[str, str] = asked.golden.questions if asked.golden else {}
    vectors = {qid: found.vectors[place[text]] for qid, text in golden.items()}
    return Asked(found.vectors[: len(asked.texts)], vectors), found.sha256


def asked_vectors(
    conn: Connection[TupleRow], tenant_id: str, version: int, texts: Sequence[str], embedder: Embedder
) -> Embedded:
    """The vectors of these distinct texts for an eval run. Raises what the embedder raises when it does not answer.

    Known texts are not embedded again, but for a few: when one of those came out otherwise (cosine under 0.999), the
    model behind the endpoint has changed, and all are made anew.
    """
    known = stored_questions(conn, tenant_id, version, texts)
    known = {text: vector for text, vector in known.items() if vector.shape == (embedder.spec.dims,)}
    probes = sorted(known, key=lambda text: hashlib.sha256(text.encode()).digest())[:PROBES]
    new = [text for text in texts if text not in known]
    asked = [*probes, *new]
    answer = embedder.embed_queries(asked)
    tokens, found = answer.tokens, dict(zip(asked, answer.vectors, strict=True))
    if any(_cosine(known[text], found[text]) < MIN_COSINE for text in probes):
        log.warning("questions of tenant %s are embedded anew: the embedder answers otherwise than before", tenant_id)
        new, known = list(texts), {}
        answer = embedder.embed_queries(new)
        tokens, found = tokens + answer.tokens, dict(zip(new, answer.vectors, strict=True))
    put_questions(conn, tenant_id, version, {text: found[text] for text in new}, texts)
    return Embedded(_stacked(texts, known, found), len(new), tokens)


def repeated_vectors(
    conn: Connection[TupleRow], tenant_id: str, version: int, texts: Sequence[str], embedder: Callable[[], Embedder]
) -> Embedded:
    """The vectors of an earlier eval run's texts. Only what is not kept is embedded; nothing is stored, and with all
    of them kept no embedder is needed."""
    known = stored_questions(conn, tenant_id, version, texts)
    new = [text for text in texts if text not in known]
    if not new:
        return Embedded(_stacked(texts, known, {}), 0)
    answer = embedder().embed_queries(new)
    return Embedded(_stacked(texts, known, dict(zip(new, answer.vectors, strict=True))), len(new), answer.tokens)


def _pay(ctx: StageContext, conn: Connection[TupleRow], spec: EmbedderSpec, tokens: int) -> None:
    """Write down what the questions cost, where somebody bills them."""
    if tokens and spec.provider not in IN_PROCESS:
        cost = usd(ctx.tenant.embedder, spec, tokens)
        with conn.transaction():
            add_spend(conn, ctx.tenant_id, ctx.run_id, model=spec.model, lane="questions", tokens=tokens, usd=cost)


def _stacked(texts: Sequence[str], known: Mapping[str, Vectors], found: Mapping[str, Vectors]) -> Vectors:
    return np.stack([known[text] if text in known else found[text] for text in texts]).astype(np.float32)


def _cosine(one: Vectors, other: Vectors) -> float:
    left, right = one.astype(np.float64), other.astype(np.float64)
    lengths = float(np.linalg.norm(left) * np.linalg.norm(right))
    return float(left @ right) / lengths if lengths else float(np.array_equal(left, right))
