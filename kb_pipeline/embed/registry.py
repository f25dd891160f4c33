"""From configuration to embedder, lane and identity."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches

from kb_pipeline.config.schema import EmbedderConfig
from kb_pipeline.embed import custom
from kb_pipeline.embed.lane import Lane
from kb_pipeline.embed.models import DEFAULT_MODEL, KNOWN, LOCAL_DIMS, known_model
from kb_pipeline.embed.protocol import Embedder, EmbedderSpec, Vectors
from kb_pipeline.errors import ConfigError

VECTOR_DIMS = 2000
"""A column above is `halfvec` by default: pgvector's HNSW over `vector` ends there."""

Samples = Callable[[], Sequence[tuple[str, Vectors]]]
"""A few stored (embedded text, vector) pairs; what another endpoint of the same model is compared with."""


def resolve_spec(config: EmbedderConfig) -> EmbedderSpec:
    """Identity of the configured embedder. No network, no model is loaded.

    Raises `ConfigError` for an unknown provider, or a model whose dimensions nobody told.
    """
    provider = config.provider

    def storage_of(dims: int) -> str:
        return config.storage or ("vector" if dims <= VECTOR_DIMS else "halfvec")

    if provider.startswith(custom.PREFIX):
        return custom.user_spec(config, storage_of=storage_of)
    if provider not in DEFAULT_MODEL:
        near = get_close_matches(provider, DEFAULT_MODEL, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(
            f"embedder.provider = {provider!r} is none of {', '.join(DEFAULT_MODEL)}, python:package.module:Class{hint}"
        )
    model = config.model or DEFAULT_MODEL[provider]
    dims = _dims(config, provider, model)
    return EmbedderSpec(
        provider=provider,
        model=model,
        dims=dims,
        storage=storage_of(dims),
        document_prefix=config.document_prefix,
        query_prefix=config.query_prefix,
        normalize=config.normalize,
    )


def _dims(config: EmbedderConfig, provider: str, model: str) -> int:
    known = known_model(provider, model)
    if provider == "local":
        if known is None:
            names = ", ".join(name for one, name in KNOWN if one == "local")
            raise ConfigError(f"embedder.model = {model!r}: the local provider has {names}")
        if config.dims is not None and config.dims not in LOCAL_DIMS:
            raise ConfigError(f"embedder.dims = {config.dims}: {model} has {', '.join(map(str, LOCAL_DIMS))}")
    if known is None:
        if config.dims is None:
            raise ConfigError(
                f"embedder.model = {model!r} is not known here: set embedder.dims to the length of its vectors"
            )
        return config.dims
    if config.dims is None or config.dims == known.dims:
        return known.dims
    if not known.shorter_dims or config.dims > known.dims:
        raise ConfigError(f"embedder.dims = {config.dims}: {model} gives vectors of {known.dims}")
    return config.dims


def max_input_tokens(config: EmbedderConfig, spec: EmbedderSpec) -> int:
    """Longest text the model takes, in its own tokens: configured, else known, else 8,192."""
    if config.max_input_tokens is not None:
        return config.max_input_tokens
    known = known_model(spec.provider, spec.model)
    return known.max_input_tokens if known else 8192


def make_embedder(config: EmbedderConfig) -> Embedder:
    """The configured embedder. Cheap: models and keys are looked for at first use."""
    spec = resolve_spec(config)
    if spec.provider == "local":
        from kb_pipeline.embed.local import LocalEmbedder

        return LocalEmbedder(spec)
    if spec.provider == "openai":
        from kb_pipeline.embed.openai import OpenAIEmbedder

        return OpenAIEmbedder(config, spec)
    if spec.provider == "sentence-transformers":
        from kb_pipeline.embed.sentence_transformers import SentenceTransformersEmbedder

        return SentenceTransformersEmbedder(config, spec)
    return custom.CustomEmbedder(config, spec)


def make_lane(
    config: EmbedderConfig,
    embedder: Embedder,
    *,
    samples: Samples | None = None,
    on_breaker: Callable[[str, str], None] | None = None,
    known_inputs: Mapping[str, int] | None = None,
    on_inputs: Callable[[str, int | None], None] | None = None,
) -> Lane:
    """The lane that fits the embedder: over HTTP for `openai`, in this process for the others.

    `samples` is needed only where `endpoints` are configured. `on_breaker(endpoint, state)` is told each change of a
    circuit breaker, in the thread that runs the lane, so that `kb status` can show it. `on_inputs(endpoint, texts)` is
    told how many texts a server takes at once, where that is fewer than configured; `known_inputs` has it from earlier
    runs.

    Raises `ConfigError` when the provider's key is missing, naming the variable that was read.
    """
    limit = max_input_tokens(config, embedder.spec)
    if embedder.spec.provider == "openai":
        from kb_pipeline.embed.sync_lane import SyncLane

        return SyncLane(
            config,
            embedder.spec,
            max_input_tokens=limit,
            samples=samples,
            on_breaker=on_breaker,
            known_inputs=known_inputs,
            on_inputs=on_inputs,
        )
    from kb_pipeline.embed.in_process import InProcessLane

    return InProcessLane(config, embedder, max_input_tokens=limit)
