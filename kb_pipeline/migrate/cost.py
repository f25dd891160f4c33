"""What a change of model will take: texts, tokens, dollars, minutes, disk, memory. Counted, nothing is embedded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kb_pipeline.embed.protocol import EmbedderSpec
from kb_pipeline.planner.model import IndexParams

if TYPE_CHECKING:
    from kb_pipeline.config.schema import EmbedderConfig
    from kb_pipeline.session import Session

_PAGE = 8192
_TUPLE_IN_CHUNK = 1996
"""Bytes of a TOAST chunk, four to a page."""
_CHUNK_OVERHEAD = 56
"""Tuple header, identity of the chunk and its entry in the TOAST index."""


@dataclass(frozen=True, slots=True)
class MigrationCost:
    """One tenant."""

    tenant: str
    model: str
    dims: int
    storage: str
    texts: int
    """Contents that lack a vector and must be embedded; 0 where a cast fills the column."""
    tokens: int
    """As counted for the live model."""
    usd_sync: float | None
    """None: nobody knows the price."""
    usd_batch: float | None
    minutes: float | None
    """At the rate of the newest back-fill or the configured limit; None while neither is known."""
    column_bytes: int
    index_bytes: int
    """0 where the tenant will be scanned exactly."""
    build_memory_mb: int

    def lines(self) -> list[str]:
        """For a person."""
        price = (
            "price not known"
            if self.usd_sync is None or self.usd_batch is None
            else f"${self.usd_sync:.4f} (batch lane ${self.usd_batch:.4f})"
        )
        time = "time not known before the first run" if self.minutes is None else f"about {self.minutes:,.1f} minutes"
        index = (
            f"index {self.index_bytes / 2**20:,.0f} MB built in {self.build_memory_mb:,} MB of memory"
            if self.index_bytes
            else "no index, it is scanned exactly"
        )
        return [
            f"to {self.model}, {self.dims:,} dims as {self.storage}: {self.texts:,} texts, {self.tokens:,} tokens, "
            f"{price}, {time}",
            f"disk: column {self.column_bytes / 2**20:,.0f} MB, {index}; the old ones go after the soak",
        ]


def migration_cost(session: Session, tenant_id: str, target: EmbedderConfig) -> MigrationCost:
    """Counts for the tenant and this embedder. Raises `ConfigError` for one that cannot be."""
    from kb_pipeline.embed.prices import price
    from kb_pipeline.embed.registry import resolve_spec
    from kb_pipeline.index.params import exact_below_rows, resolve_params
    from kb_pipeline.store.contents import count_lacking
    from kb_pipeline.store.migrations_state import read_migration
    from kb_pipeline.store.versions import present_versions

    tenant = session.tenant(tenant_id)
    spec = resolve_spec(target)
    with session.db.connect("owner") as conn:
        everything, _ = count_lacking(conn, tenant_id, [])
        same = [one.version for one in present_versions(conn) if one.spec.space() == spec.space()]
        texts, tokens = count_lacking(conn, tenant_id, same)
        row = read_migration(conn, tenant_id)
    sync, batch = (price(spec.model, lane=lane, override=target.usd_per_million_tokens) for lane in ("sync", "batch"))
    limit = tenant.migration.texts_per_minute
    rate = limit / 60 if limit else row.rows_per_second if row is not None and row.target_hash == spec.hash() else None
    params = resolve_params(tenant.index, spec.dims, spec.storage)
    indexed = everything >= exact_below_rows(tenant.index, spec.dims)
    return MigrationCost(
        tenant=tenant_id,
        model=f"{spec.provider}/{spec.model}",
        dims=spec.dims,
        storage=spec.storage,
        texts=texts,
        tokens=tokens,
        usd_sync=None if sync is None else sync.usd(tokens),
        usd_batch=None if batch is None else batch.usd(tokens),
        minutes=texts / rate / 60 if rate else 0.0 if not texts else None,
        column_bytes=everything * column_bytes(spec),
        index_bytes=everything * index_bytes(params, spec.dims) if indexed else 0,
        build_memory_mb=_memory(everything, params, spec.dims) if indexed else 0,
    )


def column_bytes(spec: EmbedderSpec) -> int:
    """Bytes a row's vector takes out of line, with what TOAST adds."""
    value = 8 + spec.dims * (2 if spec.storage == "halfvec" else 4)
    chunks = -(-value // _TUPLE_IN_CHUNK)
    return value + chunks * _CHUNK_OVERHEAD + 18


def index_bytes(params: IndexParams, dims: int) -> int:
    """Bytes an element takes in an HNSW index: as many whole elements as fit a page (hnsw.h: HNSW_ELEMENT_TUPLE_SIZE,
    HNSW_NEIGHBOR_TUPLE_SIZE)."""
    value = {"vector": 4 * dims, "halfvec": 2 * dims, "binary": dims // 8}[params.storage]
    element = 96 + value + 8 + 6 * 2 * params.m + 12
    page = _PAGE - 40
    return _PAGE // max(page // element, 1) if element <= page else 2 * _PAGE


def _memory(rows: int, params: IndexParams, dims: int) -> int:
    from kb_pipeline.index.memory import needed_mb

    return needed_mb(rows, params, dims)
