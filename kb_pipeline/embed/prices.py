"""What a million tokens cost, by model and lane. Dated: a price is a fact of a day."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kb_pipeline.embed.models import IN_PROCESS, KNOWN

LaneName = Literal["sync", "batch"]

_SOURCE = "https://platform.openai.com/docs/pricing"
_DATE = "2025-11-01"
_SYNC_USD = {
    "text-embedding-3-small": 0.02,
    "text-embedding-3-large": 0.13,
    "text-embedding-ada-002": 0.10,
}
BATCH_FACTOR = 0.5
"""The Batch API costs half (https://platform.openai.com/docs/guides/batch)."""


@dataclass(frozen=True, slots=True)
class Price:
    """The price of one model in one lane."""

    usd_per_million_tokens: float
    date: str
    """ISO date the price was looked up; empty when it comes from the configuration."""
    source: str
    """Where it was read."""

    def usd(self, tokens: int) -> float:
        """Cost of that many tokens."""
        return self.usd_per_million_tokens * tokens / 1e6


def price(model: str, *, lane: LaneName = "sync", override: float | None = None) -> Price | None:
    """Price of a model, or None when nobody knows it.

    `override` is the configuration's `usd_per_million_tokens` of the sync lane; the batch lane is half of it.
    """
    factor = BATCH_FACTOR if lane == "batch" else 1.0
    if override is not None:
        return Price(override * factor, "", "usd_per_million_tokens in [embedder]")
    if any(name == model and provider in IN_PROCESS for provider, name in KNOWN):
        return Price(0.0, "", "runs in this process")
    listed = _SYNC_USD.get(model)
    return None if listed is None else Price(listed * factor, _DATE, _SOURCE)
