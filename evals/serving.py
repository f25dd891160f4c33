"""The serving path as evals see it: a build's searcher, and the embedder that made its vectors."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

from evals.searchers import OpenSearcher, Searcher, Vector
from kb_pipeline.config.schema import EmbedderConfig, IndexConfig
from kb_pipeline.embed.protocol import Embedder, EmbedderSpec
from kb_pipeline.embed.registry import make_embedder
from kb_pipeline.search.profiles import PROFILES, asked_ef
from kb_pipeline.search.retriever import embedder_config
from kb_pipeline.store.database import Database
from kb_pipeline.store.eval_reads import BuildRow
from kb_pipeline.store.search_sql import search_build


def opened(db: Database, tenant_id: str, build: BuildRow, config: IndexConfig) -> OpenSearcher:
    """Opens searchers of one build: the reader's role, one connection each, the SQL that serves users."""

    @contextmanager
    def searcher() -> Generator[Searcher]:
        with db.connect("reader", tenant_id, autocommit=True) as conn:

            def search(vector: Vector, k: int, ef_search: int | None) -> list[bytes]:
                width = ef_search if ef_search is not None else default_ef_search(build.params, config, k)
                found = search_build(conn, tenant_id, build.build_id, vector, k, width)
                return [fingerprint for fingerprint, _ in found]

            yield search

    return searcher


def default_ef_search(params: Mapping[str, Any], config: IndexConfig, k: int) -> int:
    """What a request without a wish is served with: configured, else fitted to the build, else the default profile's
    value; at least 2k, at most 1,000."""
    fitted: Mapping[str, int] = params.get("ef_search") or {}
    value = asked_ef(None, None, config) or fitted.get("default") or PROFILES["default"]
    return min(1000, max(2 * k, int(value)))


def embedder_of(config: EmbedderConfig, build: BuildRow) -> Embedder:
    """The embedder of the build's version, which is the configured one unless the live build is of an earlier model."""
    return make_embedder(embedder_config(config, EmbedderSpec(**build.embedder)))
