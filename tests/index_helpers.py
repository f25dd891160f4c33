"""Tenants with prepared vectors, loaded the short way (binary COPY), for tests of builds and search."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from kb_pipeline.embed.protocol import EmbedderSpec
from kb_pipeline.fingerprint import fingerprint
from kb_pipeline.store.database import Database

Vectors = npt.NDArray[np.float32]


def clustered(rows: int, dims: int, *, seed: int = 0, clusters: int = 100) -> Vectors:
    """Normalised vectors around random centres, nearer to real embeddings than noise is: `(rows, dims) float32`."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(clusters, dims))
    vectors = centres[random.integers(0, clusters, rows)] + 0.8 * random.normal(size=(rows, dims))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def near(vectors: Vectors, count: int, *, seed: int = 1) -> Vectors:
    """Query vectors beside stored ones."""
    random = np.random.default_rng(seed)
    picked = vectors[random.integers(0, len(vectors), count)]
    return (picked + 0.03 * random.normal(size=picked.shape)).astype(np.float32)


@dataclass
class Corpus:
    """What was loaded, for brute force beside it."""

    tenant: str
    version: int
    vectors: Vectors
    bodies: list[str]
    metadata: list[dict[str, Any]]
    fingerprints: list[bytes] = field(default_factory=list)

    def exact(self, query: Vectors, k: int, keep: Callable[[dict[str, Any]], bool] = lambda _: True) -> list[int]:
        """Row numbers of the k nearest by cosine, among rows whose document's metadata is kept."""
        scores = self.vectors @ (query / np.linalg.norm(query))
        kept = np.array([keep(metadata) for metadata in self.metadata])
        scores[~kept] = -np.inf
        order = np.argsort(-scores, kind="stable")
        return [int(i) for i in order[: min(k, int(kept.sum()))]]


def spec_of(dims: int, storage: str = "vector", model: str = "test") -> EmbedderSpec:
    return EmbedderSpec("python:tests", model, dims, storage)


def add_version(db: Database, tenant: str, spec: EmbedderSpec) -> int:
    """The embedding version of `spec`, with its column, complete for the tenant."""
    with db.connect("owner") as conn:
        row = conn.execute(
            "SELECT version FROM kb.embedding_versions WHERE embedder_hash = %s", (spec.hash(),)
        ).fetchone()
        if row is None:
            row = conn.execute(
                "INSERT INTO kb.embedding_versions (version, embedder_hash, embedder, dims, storage) "
                "VALUES (nextval('kb.embedding_version_number'), %s, %s, %s, %s) RETURNING version",
                (spec.hash(), json.dumps(asdict(spec)), spec.dims, spec.storage),
            ).fetchone()
            assert row
            conn.execute(f"ALTER TABLE kb.contents ADD COLUMN embedding_v{row[0]} {spec.storage}({spec.dims})".encode())
            conn.execute(f"ALTER TABLE kb.contents ALTER COLUMN embedding_v{row[0]} SET STORAGE EXTERNAL".encode())
        conn.execute("INSERT INTO kb.tenants (tenant_id) VALUES (%s) ON CONFLICT DO NOTHING", (tenant,))
        conn.execute(
            "INSERT INTO kb.tenant_versions (tenant_id, version, state) VALUES (%s, %s, 'complete') ON "
            "CONFLICT DO NOTHING",
            (tenant, row[0]),
        )
        return int(row[0])


def load(
    db: Database,
    tenant: str,
    vectors: Vectors,
    *,
    spec: EmbedderSpec | None = None,
    bodies: list[str] | None = None,
    contexts: list[str] | None = None,
    metadata: list[dict[str, Any]] | None = None,
    first: int = 0,
) -> Corpus:
    """One document `docs/NNNNNN.md` with one chunk for each vector; numbering starts at `first`."""
    rows, dims = vectors.shape
    version = add_version(db, tenant, spec or spec_of(dims))
    numbers = range(first, first + rows)
    bodies = bodies or [f"body {i} of the test corpus, as long as a short sentence may be" for i in numbers]
    contexts = contexts or [""] * rows
    metadata = metadata or [
        {"number": i, "half": i % 2, "tenth": i % 10, "cent": i % 100, "name": f"n{i:06d}"} for i in numbers
    ]
    corpus = Corpus(tenant, version, vectors, bodies, metadata)
    corpus.fingerprints = [fingerprint(context, body) for context, body in zip(contexts, bodies, strict=True)]
    with db.connect("owner") as conn:
        conn.execute(
            "CREATE TEMP TABLE loaded (doc text, body text, context text, fp bytea, metadata jsonb, embedding "
            "vector) ON COMMIT DROP"
        )
        with conn.cursor().copy("COPY loaded FROM STDIN WITH (FORMAT BINARY)") as copy:
            copy.set_types(["text", "text", "text", "bytea", "jsonb", "vector"])
            for i in range(rows):
                doc = f"docs/{first + i:06d}.md"
                from psycopg.types.json import Jsonb

                copy.write_row((doc, bodies[i], contexts[i], corpus.fingerprints[i], Jsonb(metadata[i]), vectors[i]))
        for statement in (
            f"INSERT INTO kb.contents (tenant_id, fingerprint, context, body, tokens, embedding_v{version}) "
            f"SELECT %(t)s, fp, context, body, 10, embedding FROM loaded "
            f"ON CONFLICT (tenant_id, fingerprint) DO UPDATE SET embedding_v{version} = excluded.embedding_v{version}",
            "INSERT INTO kb.documents (tenant_id, doc_id, uri, content_sha256, metadata, format, chunker) "
            "SELECT %(t)s, doc, 'file:///' || doc, fp, metadata, 'md', 'test' FROM loaded ON CONFLICT DO NOTHING",
            "INSERT INTO kb.chunks (tenant_id, doc_id, ordinal, fingerprint, start_offset, end_offset, "
            "heading_path, kind) "
            "SELECT %(t)s, doc, 0, fp, 0, length(body), '{Heading}', 'text' FROM loaded ON CONFLICT DO NOTHING",
            "UPDATE kb.tenants SET contents = x.n, inserted_total = x.n FROM "
            "(SELECT count(*) AS n FROM kb.contents WHERE tenant_id = %(t)s AND orphaned_at IS NULL) x WHERE "
            "tenant_id = %(t)s",
        ):
            conn.execute(statement.encode(), {"t": tenant})
        conn.execute("ANALYZE kb.contents, kb.documents, kb.chunks")
    return corpus


class Facts:
    """A Progress that remembers what it was shown."""

    def __init__(self) -> None:
        self.tasks: list[tuple[str, int | None, str]] = []
        self.advanced = 0
        self.phases: set[object] = set()
        self.ended = 0

    def task(self, name: str, total: int | None, unit: str) -> Facts:
        self.tasks.append((name, total, unit))
        return self

    def advance(self, n: int = 1, **facts: object) -> None:
        self.advanced += n
        self.phases |= set(facts.values())

    def done(self) -> None:
        self.ended += 1


def build(
    db: Database,
    corpus: Corpus,
    *,
    m: int = 8,
    ef_construction: int = 32,
    storage: str = "vector",
    method: Any = "hnsw",
    **config: Any,
) -> Any:
    """A candidate of the corpus's version."""
    from kb_pipeline.config.schema import IndexConfig
    from kb_pipeline.index.build import build_exact, build_hnsw
    from kb_pipeline.planner.model import Build, IndexParams
    from kb_pipeline.store.versions import read_version

    with db.connect("owner") as conn:
        version = read_version(conn, corpus.version)
    params = IndexParams(m, ef_construction, storage) if method == "hnsw" else None
    action = Build(corpus.version, method, params, "asked", "for a test")
    if method == "exact":
        return build_exact(db, corpus.tenant, action, version, run_id="test")
    return build_hnsw(db, corpus.tenant, action, version, IndexConfig(**config), run_id="test", progress=Facts())


def serve(db: Database, corpus: Corpus, **options: Any) -> int:
    """Builds and makes live, unmeasured."""
    from kb_pipeline.index.promote import promote

    built = build(db, corpus, **options)
    promote(db, corpus.tenant, built.build_id, by="test", why="unmeasured, for a test", force=True)
    return int(built.build_id)


def measured(db: Database, tenant: str, build_id: int, verdict: str, reasons: tuple[str, ...] = ()) -> int:
    """An eval run as `evals` would store it."""
    from kb_pipeline.store.eval_runs import add_eval_run

    with db.connect("writer", tenant) as conn:
        return add_eval_run(
            conn, tenant, build_id, measurements={}, verdict=verdict, reasons=reasons, hashes={}, run_id="test"
        )
