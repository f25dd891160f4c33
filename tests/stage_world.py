"""A tenant with a folder as its source and an embedder that writes down what it is given: for tests of the stages."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kb_pipeline.config.schema import EmbedderConfig, Settings
from kb_pipeline.embed.protocol import Vectors
from kb_pipeline.errors import ProviderUnavailable
from kb_pipeline.stages import chunks, documents, embeddings, fingerprints
from kb_pipeline.stages.context import NullProgress, StageContext
from kb_pipeline.stages.documents import DocumentsSummary
from kb_pipeline.stages.embeddings import EmbeddingsSummary
from kb_pipeline.stages.fingerprints import ChangeSetSummary
from kb_pipeline.staging import open_staging
from kb_pipeline.store.database import Database

SENT: list[str] = []
"""Texts the embedder was given since the test began, in order."""
PROVIDER = "python:stage_world:HashEmbedder"
DIMS = 16


class Trouble:
    """What the embedder does next."""

    poison: str | None = None
    """A text that holds this is refused."""
    unavailable_after: int | None = None
    """It stops answering after so many texts."""


class HashEmbedder:
    """A vector from the hash of the text and the model's name; counts what it is asked for."""

    def __init__(self, config: EmbedderConfig) -> None:
        self._config = config

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        if Trouble.poison and any(Trouble.poison in text for text in texts):
            raise ValueError("this text cannot be embedded")
        if Trouble.unavailable_after is not None and len(SENT) + len(texts) > Trouble.unavailable_after:
            raise ProviderUnavailable("the provider is away")
        SENT.extend(texts)
        return np.stack([_vector(f"{self._config.model}:{text}", self._config.dims or DIMS) for text in texts])


def _vector(text: str, dims: int) -> Vectors:
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
    return np.random.default_rng(seed).standard_normal(dims).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Ran:
    """Summaries of one run."""

    documents: DocumentsSummary
    change_set: ChangeSetSummary
    embeddings: EmbeddingsSummary


@dataclass
class World:
    """One tenant."""

    db: Database
    root: Path
    tenant_id: str = "world"
    sections: dict[str, Any] = field(default_factory=dict[str, Any])
    runs: int = 0

    @property
    def source(self) -> Path:
        """The folder that is indexed."""
        return self.root / f"docs-{self.tenant_id}"

    def write(self, files: Mapping[str, str | bytes | None]) -> None:
        """Put these files into the source; None removes one."""
        self.source.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            path = self.source / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if text is None:
                path.unlink()
            else:
                path.write_bytes(text if isinstance(text, bytes) else text.encode())

    def context(self, run_id: str | None = None) -> StageContext:
        """What the stages of the next run are given."""
        self.runs += 1
        embedder = {"provider": PROVIDER, "model": "m1", "dims": DIMS, **self.sections.get("embedder", {})}
        measured = {"latency_seconds": 0.2, **self.sections.get("eval", {})}
        tenants = {self.tenant_id: {"source": str(self.source)}}
        raw = {**self.sections, "embedder": embedder, "eval": measured, "tenants": tenants}
        settings = Settings.model_validate(raw)
        staging = open_staging(str(self.root / "staging"))
        run_id = run_id or f"{self.tenant_id}-{self.runs}"
        return StageContext(settings, settings.tenant(self.tenant_id), self.db, staging, run_id, NullProgress())

    def run(self, *, run_id: str | None = None, allow_mass_delete: bool = False, **options: Any) -> Ran:
        """All stages up to the embeddings."""
        ctx = self.context(run_id)
        listed = documents.run(ctx, allow_mass_delete=allow_mass_delete)
        chunks.run(ctx)
        compared = fingerprints.run(ctx)
        return Ran(listed, compared, embeddings.run(ctx, **options))

    def run_until_fingerprints(self) -> ChangeSetSummary:
        """The stages before the embeddings: what a run would cost."""
        ctx = self.context()
        documents.run(ctx)
        chunks.run(ctx)
        return fingerprints.run(ctx)

    def query(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Rows as the owner sees them; `%(t)s` is the tenant."""
        with self.db.connect("owner") as conn:
            return conn.execute(sql.encode(), values or {"t": self.tenant_id}).fetchall()

    def one(self, sql: str, *values: object) -> Any:
        """The single value of a query."""
        return self.query(sql, *values)[0][0]

    def change(self, sql: str, *values: object) -> None:
        """A statement as the owner."""
        with self.db.connect("owner") as conn:
            conn.execute(sql.encode(), values or {"t": self.tenant_id})

    def state(self) -> dict[str, list[tuple[Any, ...]]]:
        """Everything that must be equal after equal inputs, without times, paths and the tenant's name."""
        vectors = [name for (name,) in self.query(_VECTOR_COLUMNS)]
        has = ", ".join(f"{name} IS NOT NULL" for name in vectors) or "true"
        queries = {
            "documents": "SELECT doc_id, content_sha256, metadata::text, format, chunker FROM kb.documents",
            "chunks": "SELECT doc_id, ordinal, fingerprint, start_offset, end_offset, heading_path, kind FROM "
            "kb.chunks",
            "contents": f"SELECT fingerprint, context, body, tokens, orphaned_at IS NULL, {has} FROM kb.contents",
            "counter": "SELECT contents, unsettled FROM kb.tenants",
            "letters": "SELECT stage, doc_id, ordinal, fingerprint, reason FROM kb.dead_letters",
        }
        return {name: sorted(self.query(f"{sql} WHERE tenant_id = %(t)s"), key=repr) for name, sql in queries.items()}

    def versions_of_rows(self, *tables: str) -> list[tuple[Any, ...]]:
        """Where each row of the three large tables lies and who wrote it: equal means that nothing was written."""
        return [
            row
            for table in tables or ("documents", "chunks", "contents")
            for row in self.query(f"SELECT ctid::text, xmin::text FROM kb.{table} WHERE tenant_id = %(t)s ORDER BY 1")
        ]

    def counters(self) -> tuple[int, int, int]:
        """contents, inserted_total, deleted_total."""
        return self.query("SELECT contents, inserted_total, deleted_total FROM kb.tenants WHERE tenant_id = %(t)s")[0]  # type: ignore[return-value]

    def require_true_counters(self) -> None:
        """The counters say what the tables say, and orphans are exactly the contents without a chunk."""
        used = self.one("SELECT count(DISTINCT fingerprint) FROM kb.chunks WHERE tenant_id = %(t)s")
        contents, inserted, deleted = self.counters()
        assert (contents, inserted - deleted) == (used, used)
        wrong = self.one(
            "SELECT count(*) FROM kb.contents c WHERE tenant_id = %(t)s AND (orphaned_at IS NULL) <> EXISTS "
            "(SELECT FROM kb.chunks p WHERE p.tenant_id = c.tenant_id AND p.fingerprint = c.fingerprint)"
        )
        assert wrong == 0

    def serve(self, version: int) -> None:
        """Make an exact build of this version live, as the later stages do."""
        build = self.query(
            "INSERT INTO kb.builds (tenant_id, version, method, state) VALUES (%s, %s, 'exact', 'live') "
            "RETURNING build_id",
            self.tenant_id,
            version,
        )[0][0]
        self.change(
            "INSERT INTO kb.live (tenant_id, version, build_id, promoted_by) VALUES (%s, %s, %s, 'test')",
            self.tenant_id,
            version,
            build,
        )


_VECTOR_COLUMNS = (
    "SELECT attname FROM pg_attribute WHERE attrelid = 'kb.contents'::regclass AND attname LIKE 'embedding_v%%' "
    "AND NOT attisdropped ORDER BY attname"
)


def sent(action: Callable[[], object]) -> list[str]:
    """Texts the embedder is given by an action."""
    before = len(SENT)
    action()
    return SENT[before:]


def page(title: str, paragraphs: Iterable[str]) -> str:
    """A Markdown document in which each paragraph is a chunk of its own, where `max_tokens` is small."""
    return f"# {title}\n\n" + "\n\n".join(paragraphs) + "\n"
