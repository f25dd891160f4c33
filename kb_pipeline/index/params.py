"""Which index a tenant gets: parameters and storage, chosen or checked so that Postgres never has to refuse them."""

from __future__ import annotations

from kb_pipeline.config.schema import IndexConfig
from kb_pipeline.errors import ConfigError
from kb_pipeline.planner.model import IndexParams

PRESETS: dict[str, tuple[int, int]] = {"dev": (8, 32), "balanced": (16, 64), "high": (24, 128), "max": (32, 200)}
"""Name -> (m, ef_construction)."""
MAX_DIMS = {"vector": 2_000, "halfvec": 4_000, "binary": 64_000}
"""What pgvector's HNSW takes of each index storage (HNSW_MAX_DIM in hnsw.h, and twice, 32 times it)."""
MAX_COLUMN_DIMS = 16_000
"""What a column of either type takes (VECTOR_MAX_DIM)."""
EXACT_VOLUME = 1_250_000
"""Rows x dims up to which a scan is as good as an index: about 5 ms on one core of a 2-core machine."""


def resolve_params(config: IndexConfig, dims: int, column_storage: str) -> IndexParams:
    """The parameters `config` asks for, complete, for a column of `dims` dims of type `column_storage`.

    An `ef_construction` that was not given follows a given `m` up to the 2m that pgvector needs. Raises `ConfigError`
    naming the fix.
    """
    m, ef_construction = PRESETS[config.preset]
    if config.m is not None:
        m = config.m
        ef_construction = max(ef_construction, 2 * m)
    if config.ef_construction is not None:
        ef_construction = config.ef_construction
    if not 2 <= m <= 100:
        raise ConfigError(f"[index] m = {m}: choose 2 to 100 (16 is a good start)")
    if not 4 <= ef_construction <= 1000:
        raise ConfigError(f"[index] ef_construction = {ef_construction}: choose 4 to 1000 (64 is a good start)")
    if ef_construction < 2 * m:
        raise ConfigError(
            f"[index] ef_construction = {ef_construction} is under twice m = {m}: "
            f"set ef_construction = {2 * m} or more, or m = {ef_construction // 2} or less"
        )
    return IndexParams(m, ef_construction, index_storage(config.storage, dims, column_storage))


def index_storage(asked: str | None, dims: int, column_storage: str) -> str:
    """How a column is indexed: `asked` if it can be, else the finest that takes the dims. Raises `ConfigError`."""
    if dims > MAX_COLUMN_DIMS:
        raise ConfigError(
            f"a column holds {MAX_COLUMN_DIMS:,} dims at most, the embedder has {dims:,}: set [embedder] dims"
        )
    fitting = [
        name
        for name, limit in MAX_DIMS.items()
        if dims <= limit and not (name == "vector" and column_storage == "halfvec")
    ]
    if asked is None:
        return fitting[0]
    if asked in fitting:
        return asked
    why = (
        "the column is halfvec, and a cast to vector doubles the index without adding precision"
        if column_storage == "halfvec" and asked == "vector"
        else f"an HNSW index over {asked} takes {MAX_DIMS[asked]:,} dims, this embedder has {dims:,}"
    )
    raise ConfigError(f'[index] storage = "{asked}": {why}; set storage = "{fitting[0]}", or leave it out')


def exact_below_rows(config: IndexConfig, dims: int) -> int:
    """Tenants with fewer rows than this are scanned exactly."""
    return EXACT_VOLUME // dims if config.exact_below == "auto" else config.exact_below
