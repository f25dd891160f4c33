"""What embedding will cost and take, before anything is sent."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from kb_pipeline.config.schema import EmbedderConfig
from kb_pipeline.embed.prices import BATCH_FACTOR, price
from kb_pipeline.embed.registry import resolve_spec

_REQUEST_TOKENS = 65_536
_REQUEST_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Estimate:
    """Costs of both lanes and the least time of the sync lane."""

    sync_usd: float | None
    """None: nobody knows the price."""
    batch_usd: float | None
    """None: nobody knows the price, or the provider has no Batch API. A batch job takes up to 24 hours."""
    minutes: float | None
    """Under the configured limits; None: none is configured."""
    price: str
    """Price, date and source; empty where nothing is billed or nobody knows."""


def estimate(config: EmbedderConfig, *, texts: int, tokens: int, sync_usd: float | None) -> Estimate:
    """For so many texts and tokens, which cost `sync_usd` in the sync lane."""
    spec = resolve_spec(config)
    known = price(spec.model, override=config.usd_per_million_tokens)
    words = ""
    if known is not None and known.usd_per_million_tokens:
        dated = f", looked up {known.date}; usd_per_million_tokens replaces it" if known.date else ""
        words = f"${known.usd_per_million_tokens:g} per million tokens ({known.source}{dated})"
    batch = sync_usd * BATCH_FACTOR if sync_usd is not None and spec.provider == "openai" else None
    return Estimate(sync_usd, batch, _minutes(config, texts, tokens, dims=spec.dims), words)


def _minutes(config: EmbedderConfig, texts: int, tokens: int, *, dims: int) -> float | None:
    per_minute = config.tokens_per_minute
    needed: list[float] = []
    if per_minute is not None:
        needed.append(tokens / per_minute)
    if config.requests_per_minute is not None:
        most_tokens = min(config.max_batch_tokens, _REQUEST_TOKENS, per_minute or _REQUEST_TOKENS)
        most_texts = min(config.max_batch_inputs, max(_REQUEST_BYTES // (4 * dims), 16))
        needed.append(max(ceil(tokens / most_tokens), ceil(texts / most_texts)) / config.requests_per_minute)
    return max(needed) if needed else None
