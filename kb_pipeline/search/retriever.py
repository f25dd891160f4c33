"""Search from Python: embeds the question with the model of what is live, and notices when that changes."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from kb_pipeline.config.schema import EmbedderConfig, Settings, TenantConfig
from kb_pipeline.embed.protocol import Embedder, EmbedderSpec
from kb_pipeline.errors import ConfigError, NotLive
from kb_pipeline.search.bridged import Away, Bridges
from kb_pipeline.search.filters import Condition, wire
from kb_pipeline.search.hit import Hit, folded
from kb_pipeline.search.profiles import PROFILES, asked_ef, checked_k, checked_profile
from kb_pipeline.store.search_sql import Found, Moved, Vector, live_embedder, search_live
from kb_pipeline.tenant import checked_tenant_id

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.rows import TupleRow
    from psycopg_pool import ConnectionPool

    from kb_pipeline.store.database import Database

MOST_ROWS = 10_000
"""Where looking for further distinct texts ends: so many equal ones are no knowledge base."""


@dataclass(frozen=True, slots=True)
class _Serving:
    version: int
    config: EmbedderConfig
    embedder: Embedder


class Retriever:
    """Searches tenants of one database; keep it, it holds connections and the loaded model. Safe for use by several
    threads.

    A search is one round trip. When another model went live meanwhile, the answer says so, and the question is embedded
    again: vectors of different models are never compared. Use as a context manager, or `close()`.
    """

    def __init__(self, db: Database, settings: Settings, *, max_connections: int = 8) -> None:
        self._db = db
        self._settings = settings
        self._max_connections = max_connections
        self._serving: dict[str, _Serving] = {}
        self._configs: dict[str, TenantConfig] = {}
        self._embedders: dict[str, Embedder] = {}
        self._making: dict[str, threading.Lock] = {}
        self._bridges = Bridges()
        self._lock = threading.Lock()

    def search(
        self,
        query: str,
        *,
        tenant: str,
        k: int = 10,
        where: Sequence[Condition] = (),
        ef_search: int | None = None,
        profile: str | None = None,
    ) -> list[Hit]:
        """The `k` nearest distinct texts (all there are, if fewer pass), best first.

        `ef_search`, else `profile` (interactive, default, offline) say how far the index is searched. Raises `NotLive`
        when the tenant serves nothing yet, `ConfigError` for a request that cannot be.
        """
        if not query.strip():
            raise ConfigError("the question is empty")
        serving = self._serving.get(checked_tenant_id(tenant))
        if serving is None:
            with self._pool.connection() as conn:
                serving = self._follow(tenant, live_embedder(conn, tenant))
        vector = self._question(tenant, serving, query)
        self._serving.setdefault(tenant, serving)
        for _ in range(3):
            answer = self._search(tenant, serving.version, vector, k, where, ef_search, profile, lenient=False)
            if not isinstance(answer, Moved):
                return answer
            making = self._making.setdefault(tenant, threading.Lock())
            if not making.acquire(blocking=False):
                # Another thread loads the new model now. What was live a moment ago is in soak, and answers meanwhile.
                before = self._search(tenant, serving.version, vector, k, where, ef_search, profile, lenient=True)
                if not isinstance(before, Moved):
                    return before
                making.acquire()
            try:
                serving = self._follow(tenant, answer)
                vector = self._question(tenant, serving, query)
                self._serving[tenant] = serving  # only now that its model is loaded
            finally:
                making.release()
        raise NotLive(f"what tenant {tenant!r} serves changed three times during one search: search again")

    def search_vector(
        self,
        vector: Vector,
        *,
        tenant: str,
        version: int,
        k: int = 10,
        where: Sequence[Condition] = (),
        ef_search: int | None = None,
        profile: str | None = None,
    ) -> list[Hit]:
        """`search` with a query vector of one's own, made with the embedder of `version`: live, or in soak after a
        switch; with `[migration] bridge` also one that is being back-filled.

        Raises `NotLive` when that version is not searchable (any more).
        """
        answer = self._search(checked_tenant_id(tenant), version, vector, k, where, ef_search, profile, lenient=True)
        if isinstance(answer, Moved) and answer.version is not None and self._config(tenant).migration.bridge:
            bridge = self._bridges.find(self._pool.connection, tenant, target=answer.version, source=version)
            if bridge is not None:
                mapped = bridge.mapped(vector)
                answer = self._search(tenant, bridge.target, mapped, k, where, ef_search, profile, lenient=False)
        if isinstance(answer, Moved):
            now = (
                "nothing is"
                if answer.version is None
                else f"v{answer.version} ({(answer.embedder or {}).get('model')}) is"
            )
            raise NotLive(
                f"tenant {tenant!r} is not searchable with vectors of version v{version}; {now} live. "
                "Make the query vector with the live version's embedder, or use Retriever.search"
            )
        return answer

    def close(self) -> None:
        """Closes the connections."""
        if "_pool" in self.__dict__:
            self._pool.close()
            del self.__dict__["_pool"]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @cached_property
    def _pool(self) -> ConnectionPool[Connection[TupleRow]]:
        with self._lock:
            if "_pool" in self.__dict__:
                return self.__dict__["_pool"]
            pool = self._db.pool("reader", max_size=self._max_connections, autocommit=True)
            pool.open()
            self.__dict__["_pool"] = pool
            return pool

    def _search(
        self,
        tenant: str,
        version: int,
        vector: Vector,
        k: int,
        where: Sequence[Condition],
        ef_search: int | None,
        profile: str | None,
        *,
        lenient: bool,
    ) -> list[Hit] | Moved:
        checked_k(k)
        if not float(np.dot(vector, vector)) > 0:
            raise ConfigError("the query vector is zero or not finite: the question holds nothing the model knows")
        index = self._config(tenant).index
        named = checked_profile(profile)
        n = k + 2 + k // 8  # room for equal texts under other headings, which are folded
        while True:
            found = self._ask(
                tenant, version, vector, n=n, ef=asked_ef(ef_search, profile, index), profile=named,
                fallback_ef=PROFILES[named], at_least=2 * k, conditions=wire(where), lenient=lenient,
            )  # fmt: skip
            if isinstance(found, Moved):
                return found
            hits = folded(found.hits)
            if len(hits) >= k or not found.more or n >= MOST_ROWS:
                return hits[:k]
            n *= 4

    def _ask(self, tenant: str, version: int, vector: Vector, **options: Any) -> Found | Moved:
        import psycopg

        for last in (False, True):
            try:
                with self._pool.connection() as conn:
                    return search_live(conn, tenant, version, vector, **options)
            except psycopg.errors.InvalidParameterValue as error:
                raise ConfigError(str(error.diag.message_primary)) from error
            except psycopg.OperationalError:
                # A pooled connection may have died with a restarted server; a fresh one tells whether it is back.
                if last:
                    raise
                self._pool.check()
        raise AssertionError("the second try returns or raises")

    def _question(self, tenant: str, serving: _Serving, query: str) -> Vector:
        """The question as a vector of what is live; over a bridge where its model cannot be asked any more."""
        bridged = self._config(tenant).migration.bridge
        away: Exception | None = None
        if not bridged or not self._bridges.away(tenant, serving.version):
            try:
                return serving.embedder.embed_queries([query]).vectors[0]
            except Exception as error:
                if not bridged:
                    raise
                self._bridges.failed(tenant, serving.version)
                away = error
        bridge = self._bridges.find(self._pool.connection, tenant, target=serving.version)
        if bridge is not None:
            configured = self._config(tenant).embedder
            return bridge.question(query, lambda spec: self._embedder(embedder_config(configured, spec)))
        if away is not None:
            raise away
        return serving.embedder.embed_queries([query]).vectors[0]

    def _follow(self, tenant: str, live: Moved) -> _Serving:
        """What is live now, with its embedder made once for each version."""
        if live.version is None or live.embedder is None:
            self._serving.pop(tenant, None)
            raise NotLive(f"tenant {tenant!r} serves nothing yet: run `kb run --tenant {tenant}`")
        with self._lock:
            serving = self._serving.get(tenant)
            if serving is None or serving.version != live.version:
                config = embedder_config(self._config(tenant).embedder, EmbedderSpec(**live.embedder))
                try:
                    embedder = self._embedder(config)
                except Exception as error:
                    if not self._config(tenant).migration.bridge:
                        raise
                    embedder = Away(EmbedderSpec(**live.embedder), error)
                serving = _Serving(live.version, config, embedder)
            return serving

    def _embedder(self, config: EmbedderConfig) -> Embedder:
        from kb_pipeline.embed.registry import make_embedder

        # Kept for the way back: tenants share models, and a rollback loads none again.
        key = config.model_dump_json()
        known = self._embedders.get(key)
        if known is None:
            known = self._embedders[key] = make_embedder(config)
        return known

    def _config(self, tenant: str) -> TenantConfig:
        config = self._configs.get(tenant)
        if config is None:
            config = self._configs[tenant] = self._settings.tenant(tenant)
        return config


def embedder_config(configured: EmbedderConfig, spec: EmbedderSpec) -> EmbedderConfig:
    """How to make the embedder of a stored version: its identity is the version's; endpoints, keys and limits are those
    configured, unless the configuration has meanwhile moved to another provider."""
    base = configured if configured.provider == spec.provider else EmbedderConfig()
    return base.model_copy(update=asdict(spec))
