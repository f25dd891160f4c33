"""Measures one build: coverage, recall against exact search, retrieval quality on a golden set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from psycopg import Connection
from psycopg.rows import TupleRow

from evals.filtered import chosen_filters, filtered_recall
from evals.golden import JOIN, GoldenSet, shown
from evals.ground_truth import BLOCK_ROWS, Truth, exact_top_k
from evals.measured import BuildMeasured, Latency, Quality
from evals.metrics import DEPTH, METRICS, score
from evals.searchers import OpenSearcher, Searcher
from evals.serving import default_ef_search
from evals.statistics import bootstrap
from evals.sweep import EF_SEARCH, K, Swept, sweep
from kb_pipeline.config.schema import IndexConfig
from kb_pipeline.embed.protocol import Vectors
from kb_pipeline.store import eval_reads
from kb_pipeline.store.database import Database
from kb_pipeline.store.eval_reads import BuildRow
from kb_pipeline.store.eval_vectors import vector_blocks, vectors_of

TOP = 5
"""Documents kept per question, to show beside the other build's."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The questions of one eval run as one embedder's vectors."""

    recall: Vectors
    """`(n, dims) float32` of the questions that recall and latency are measured with."""
    golden: Mapping[str, Vectors]
    """Golden question id -> `(dims,) float32`."""


@dataclass(frozen=True, slots=True)
class MeasuredWithValues:
    """A measured build and recall@10 per question, which only the comparison needs."""

    build: BuildMeasured
    recall_10: tuple[float, ...]
    corpus_hash: str


def truth_of(db: Database, tenant_id: str, build: BuildRow, questions: Vectors) -> Truth:
    """Exact results for a build's version, over a connection of its own."""
    with db.connect("writer", tenant_id) as conn:
        blocks = vector_blocks(
            conn, tenant_id, build.version, dims=build.dims, storage=build.storage, block_rows=BLOCK_ROWS
        )
        return exact_top_k(blocks, questions, k=K)


def measure_build(
    db: Database,
    tenant_id: str,
    build: BuildRow,
    *,
    asked: Asked,
    golden: GoldenSet | None,
    truth: Truth,
    opened: OpenSearcher,
    latency: Latency | None,
    index: IndexConfig,
) -> MeasuredWithValues:
    """Everything about one build but its latency under load, which is measured for all builds in turn."""
    with ExitStack() as stack:
        conn = stack.enter_context(db.connect("writer", tenant_id, autocommit=True))
        searcher = stack.enter_context(opened())
        contents, vectors = eval_reads.covered(conn, tenant_id, build.version)
        indexed = build.method == "hnsw"

        def of_version(fingerprints: Sequence[bytes]) -> Mapping[bytes, Vectors]:
            return vectors_of(conn, tenant_id, build.version, fingerprints)

        default, *points = sweep(
            searcher,
            truth,
            asked.recall,
            default=default_ef_search(build.params, index, 10) if indexed else None,
            widths=EF_SEARCH if indexed else (),
            vectors_of=of_version,
        )
        width = default_ef_search(build.params, index, 10) if indexed else None
        shares = eval_reads.filter_shares(conn, tenant_id, limit=2_000) if len(asked.recall) else []
        filters = chosen_filters(shares, eval_reads.count_chunks(conn, tenant_id))
        filtered = filtered_recall(db, tenant_id, build, asked.recall, filters, ef_search=width)
        quality = measure_quality(conn, tenant_id, searcher, asked, golden) if golden and vectors else None
    measured = BuildMeasured(
        build_id=build.build_id,
        version=build.version,
        model=f"{build.embedder.get('provider')}/{build.embedder.get('model')}",
        dims=build.dims,
        storage=build.storage,
        method=build.method,
        params=build.params,
        state=build.state,
        contents=contents,
        vectors=vectors,
        seconds=build.seconds,
        bytes=build.bytes if build.method == "hnsw" else None,
        created_at=build.created_at,
        recall_10=bootstrap(default.recall_10),
        recall_20=bootstrap(default.recall_20),
        sweep=tuple(point.point for point in points),
        default=default.point,
        latency=latency,
        quality=quality,
        filtered=filtered,
    )
    return MeasuredWithValues(measured, _values(default), truth.corpus_hash)


def measure_quality(
    conn: Connection[TupleRow], tenant_id: str, searcher: Searcher, asked: Asked, golden: GoldenSet
) -> Quality:
    """Metrics on the golden set through the build, with the default profile."""
    found = {qid: searcher(vector, DEPTH, None) for qid, vector in asked.golden.items()}
    names = sorted({name for names in found.values() for name in names})
    if golden.level == "chunk":
        judged = {place for grades in golden.judgments.values() for place in grades}
        documents = {  # one place for each content: a judged one where there is one
            name: tuple(place for place in places if place in judged)[:1] or places[:1]
            for name, places in eval_reads.places_of(conn, tenant_id, names, join=JOIN).items()
        }
    else:
        documents = eval_reads.documents_of(conn, tenant_id, names)
    run = {qid: folded(names, documents, depth=DEPTH) for qid, names in found.items()}
    per_question = score(golden.judgments, run)
    figures = {name: bootstrap(list(values.values())) for name, values in per_question.items()}
    return Quality(
        figures=figures,
        per_question={name: per_question[name] for name in METRICS},
        top={qid: [shown(name) for name in ranking[:TOP]] for qid, ranking in run.items()},
        right={qid: right_places(golden.judgments.get(qid, {}), ranking) for qid, ranking in run.items()},
    )


def right_places(grades: Mapping[str, int], ranking: Sequence[str], *, most: int = 3) -> list[int]:
    """Where the first right answers stand, from 1."""
    return [place for place, doc in enumerate(ranking, 1) if grades.get(doc, 0) > 0][:most]


def _values(swept: Swept) -> tuple[float, ...]:
    return tuple(float(value) for value in swept.recall_10)


def folded(hits: Iterable[bytes], documents: Mapping[bytes, Sequence[str]], *, depth: int) -> list[str]:
    """Document ids in the order of each document's best chunk. `hits`: fingerprints, best first."""
    order: dict[str, None] = {}
    for hit in hits:
        for doc_id in documents.get(hit, ()):
            order.setdefault(doc_id)
        if len(order) >= depth:
            break
    return list(order)[:depth]
