"""Which lane a run's texts take."""

from __future__ import annotations

from kb_pipeline.config.schema import EmbedderConfig
from kb_pipeline.embed.prices import LaneName
from kb_pipeline.errors import ConfigError


def lane_for(config: EmbedderConfig, texts: int) -> LaneName:
    """`batch` where the configuration says so, or leaves the choice and there are many texts.

    Raises `ConfigError` when the batch lane is asked of a provider that has none.
    """
    if config.lane == "sync" or (config.lane == "auto" and (config.provider != "openai" or texts < config.batch_above)):
        return "sync"
    if config.provider != "openai":
        raise ConfigError(
            f'embedder.lane = "batch": provider {config.provider!r} has no Batch API; use "sync", or "auto"'
        )
    return "batch"
