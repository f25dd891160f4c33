"""The serving path as evals see it: a build's searcher, and the embedder that made its vectors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from evals.searchers import OpenSearcher, Searcher, Vector
from kb_pipeline.config.schema import EmbedderConfig
from kb_pipeline.embed.protocol import Embedder, EmbedderSpec
from kb_pipeline.embed.registry import make_embedder, resolve_spec
from kb_pipeline.store.database import Database
from kb_pipeline.store.eval_reads import BuildRow, search_build

DEFAULT_EF_SEARCH = 100
"""Of the default profile, where nothing was fitted to the build."""


def opened(db: Database, tenant_id: str, build: BuildRow) -> OpenSearcher:
    """Opens searchers of one build: the reader's role, one connection each, the SQL that serves users."""

    @contextmanager
    def searcher() -> Iterator[Searcher]:
        with db.connect("reader", tenant_id, autocommit=True) as conn:

            def search(vector: Vector, k: int, ef_search: int | None) -> list[bytes]:
                width = ef_search if ef_search is not None else default_ef_search(build.params, k)
                return search_build(conn, tenant_id, build.build_id, vector, k, ef_search=width)

            yield search

    return searcher


def default_ef_search(params: Mapping[str, Any], k: int) -> int:
    """What a request without a wish is served with: the fitted value or 100, at least 2k, at most 1,000."""
    fitted = params.get("ef_search")
    fitted = fitted.get("default") if isinstance(fitted, Mapping) else fitted
    return min(1000, max(2 * k, int(fitted or DEFAULT_EF_SEARCH)))


def embedder_of(config: EmbedderConfig, build: BuildRow) -> Embedder:
    """The embedder of the build's version, which is the configured one unless the live build is of an earlier model.

    An earlier model of the same provider is reached where the configuration says; of another provider, where its own
    environment variables say.
    """
    spec = EmbedderSpec(**build.embedder)
    if resolve_spec(config) == spec:
        return make_embedder(config)
    identity = {name: getattr(spec, name) for name in ("provider", "model", "dims", "storage", "normalize")}
    prefixes = {"document_prefix": spec.document_prefix, "query_prefix": spec.query_prefix}
    base = config if config.provider == spec.provider else EmbedderConfig(api_key_env=config.api_key_env)
    return make_embedder(base.model_copy(update={**identity, **prefixes, "tokenizer": None, "max_input_tokens": None}))
