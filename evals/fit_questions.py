"""What `ef_search` is fitted with: questions of people, sentences of the corpus, pieces of them, stored vectors."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from psycopg import Connection
from psycopg.rows import TupleRow

from evals.measure import Asked
from evals.questions import probes, sampled_questions
from evals.serving import embedder_of
from kb_pipeline.embed.protocol import Vectors
from kb_pipeline.stages.context import StageContext
from kb_pipeline.store import eval_reads
from kb_pipeline.store.eval_reads import BuildRow
from kb_pipeline.store.vector_samples import sample_vectors

log = logging.getLogger(__name__)

ENOUGH_JUDGED = 30
"""Questions of people from which on only those decide: how hard a corpus is to search depends on what is asked (with
m = 8, 35 to 600 in place of 25 to 70 for recall 0.95 in four BEIR collections)."""
ENOUGH = 600
"""Questions that a fit wants: the mean recall of 200 is off by a third of what 0.95 may miss."""
VARIANTS = 4
"""Of each question of people at most: more of the same one say little."""
STORED = 200
"""Stored vectors, asked for their neighbours beside themselves."""
PIECES = 200
"""Pieces of sentences, which are as hard as questions get."""


@dataclass(frozen=True, slots=True)
class Group:
    """Questions of one kind; a fit has to do for each kind."""

    vectors: Vectors
    """`(n, dims) float32`."""
    question: npt.NDArray[np.int64]
    """`(n,)`: variants of one question have one number."""
    stored: bool = False
    """Each one is a stored vector, which finds itself."""


def for_target(
    ctx: StageContext, conn: Connection[TupleRow], build: BuildRow, asked: Asked, golden: Mapping[str, str]
) -> list[Group]:
    """The golden set's questions (`golden`: id -> text) where it has enough, else sentences of the corpus and stored
    vectors. Groups have questions."""
    if len(asked.golden) >= ENOUGH_JUDGED:
        return [_people(ctx, build, asked, golden)]
    groups = [_alone(_sentences(ctx, conn, build, asked)), _alone(_stored(ctx, conn, build), stored=True)]
    return [group for group in groups if len(group.vectors)]


def for_floor(
    ctx: StageContext, conn: Connection[TupleRow], build: BuildRow, asked: Asked, golden: Mapping[str, str]
) -> list[Group]:
    """The golden set's questions where it has enough, else sentences of the corpus and pieces of sentences: what nobody
    has asked yet may be harder than what stands there."""
    if len(asked.golden) >= ENOUGH_JUDGED:
        return [_people(ctx, build, asked, golden)]
    bodies = eval_reads.sampled_bodies(conn, ctx.tenant_id, probes(ctx.tenant_id, PIECES))
    pieces = list(dict.fromkeys(piece(one.text) for one in sampled_questions(bodies)))
    groups = [_alone(asked.recall), _alone(_embedded(ctx, build, pieces))]
    return [group for group in groups if len(group.vectors)]


def varied(texts: Sequence[str], count: int) -> list[tuple[int, str]]:
    """(number of the text, the text without one of its words), at most `count`, the texts in turn. Such questions are
    as hard as the whole ones (around recall 0.95 within 0.006 in four BEIR collections), and no two are the same."""
    left = [(number, text, text.split()) for number, text in enumerate(texts)]
    found: list[tuple[int, str]] = []
    turn = 0
    while left := [one for one in left if len(one[2]) > max(turn, 1)]:
        for number, text, words in left:
            at = (_hash(text) + turn) % len(words)
            found.append((number, " ".join(words[:at] + words[at + 1 :])))
        turn += 1
        if len(found) >= count:
            break
    return found[:count]


def piece(sentence: str) -> str:
    """Three to six words of the sentence that stand beside one another, as people type them into a search box."""
    words = sentence.split()
    seed = _hash(sentence)
    length = 3 + seed % 4
    at = seed // 4 % max(1, len(words) - length + 1)
    return " ".join(words[at : at + length])


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")


def _people(ctx: StageContext, build: BuildRow, asked: Asked, golden: Mapping[str, str]) -> Group:
    ids = list(asked.golden)
    vectors = np.stack([asked.golden[one] for one in ids]).astype(np.float32)
    variants = varied([golden.get(one, "") for one in ids], min(ENOUGH - len(ids), VARIANTS * len(ids)))
    more = _embedded(ctx, build, [text for _, text in variants])
    of_variants = np.array([number for number, _ in variants][: len(more)], dtype=np.int64)
    if not len(more):
        return _alone(vectors)
    return Group(np.concatenate([vectors, more]), np.concatenate([np.arange(len(ids)), of_variants]))


def _sentences(ctx: StageContext, conn: Connection[TupleRow], build: BuildRow, asked: Asked) -> Vectors:
    """Those that the evaluation asks, and more of them."""
    if not len(asked.recall):
        return asked.recall
    places = probes(ctx.tenant_id, ENOUGH)[ctx.tenant.eval.queries :]
    texts = [one.text for one in sampled_questions(eval_reads.sampled_bodies(conn, ctx.tenant_id, places))]
    more = _embedded(ctx, build, texts[: max(0, ENOUGH - len(asked.recall))])
    return np.concatenate([asked.recall, more]) if len(more) else asked.recall


def _stored(ctx: StageContext, conn: Connection[TupleRow], build: BuildRow) -> Vectors:
    return sample_vectors(conn, ctx.tenant_id, build.version, STORED)


def _alone(vectors: Vectors, *, stored: bool = False) -> Group:
    return Group(vectors, np.arange(len(vectors)), stored)


def _embedded(ctx: StageContext, build: BuildRow, texts: list[str]) -> Vectors:
    """Nothing when the embedder does not take them: what was asked before has to do then."""
    if texts:
        try:
            return embedder_of(ctx.tenant.embedder, build).embed_queries(texts).vectors
        except Exception as error:
            log.warning("ef_search is fitted without %d further questions: %s", len(texts), error)
    return np.zeros((0, build.dims), dtype=np.float32)
