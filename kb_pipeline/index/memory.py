"""What an HNSW build needs in memory: in memory it takes seconds, once it spills it takes many times as long."""

from __future__ import annotations

from dataclasses import dataclass

from kb_pipeline.errors import IndexBuildError
from kb_pipeline.planner.model import IndexParams

_MB = 1024 * 1024
_MARGIN = 1.08
"""Over the formula, which was found 2 to 3 % low for m = 4, 16, 32 at 256 dims."""
_FIXED = 4 * _MB
"""Not per row: entry point, locks, the allocator's blocks."""


def bytes_per_row(params: IndexParams, dims: int) -> float:
    """Bytes of an element of the graph under construction: 682 + 4 dims at m = 16 (2 dims as halfvec, dims / 8 as
    bits).

    Layer 0 holds 2m neighbours of 16 bytes; an element has 1 / (m - 1) upper layers on average, of m neighbours each
    (hnswutils.c: HnswInitNeighborArray, HnswGetLayerM).
    """
    m = params.m
    value = {"vector": 4 * dims, "halfvec": 2 * dims, "binary": dims / 8}[params.storage]
    return 153 + 32 * m + 16 * m / (m - 1) + value


def needed_mb(rows: int, params: IndexParams, dims: int) -> int:
    """Megabytes of `maintenance_work_mem` with which the whole graph fits."""
    return int((rows * bytes_per_row(params, dims) * _MARGIN + _FIXED) / _MB) + 1


@dataclass(frozen=True, slots=True)
class Allowance:
    """How much a build may take, and who said so."""

    mb: int
    source: str


def maintenance_work_mem(rows: int, params: IndexParams, dims: int, allowed: Allowance) -> int:
    """Megabytes to set for the build. Raises `IndexBuildError` before anything starts when they are not allowed."""
    needed = needed_mb(rows, params, dims)
    if needed <= allowed.mb:
        return needed
    advice = f"set [index] build_memory_mb = {needed} (and let the server have it)"
    smaller = IndexParams(params.m, params.ef_construction, "halfvec")
    if params.storage == "vector" and needed_mb(rows, smaller, dims) <= allowed.mb:
        advice += ', or [index] storage = "halfvec", which fits'
    raise IndexBuildError(
        f"the graph of {rows:,} rows x {dims:,} dims ({params.storage}, m = {params.m}) needs {needed:,} MB to "
        "be built in memory, "
        f"allowed are {allowed.mb:,} MB ({allowed.source}): {advice}"
    )


def allowance(asked_mb: int | None, server_mb: int, shared_buffers_mb: int, *, local: bool) -> Allowance:
    """What a build may take: as configured; else half of this machine's free memory when the server runs here.

    A server elsewhere does not tell its memory: its `maintenance_work_mem` or `shared_buffers`, whichever is more,
    because an index larger than `shared_buffers` would be slow to search anyway.
    """
    if asked_mb is not None:
        return Allowance(asked_mb, "[index] build_memory_mb")
    server = max(server_mb, shared_buffers_mb)
    free = _free_mb() // 2 if local else 0
    if free > server:
        return Allowance(free, "half of the memory that is free now")
    return Allowance(server, "the server's maintenance_work_mem or shared_buffers")


def _free_mb() -> int:
    """Memory that programs may still take here, 0 when the system does not say."""
    try:
        with open("/proc/meminfo") as lines:
            facts = dict(line.split(":", 1) for line in lines)
        return int(facts["MemAvailable"].split()[0]) // 1024
    except (OSError, KeyError, ValueError):
        return 0
