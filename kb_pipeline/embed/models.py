"""What is known of well-known models, so that a configuration needs only a name."""

from __future__ import annotations

from dataclasses import dataclass

LOCAL_MODEL = "wordllama-l2-supercat"


@dataclass(frozen=True, slots=True)
class KnownModel:
    """Facts of one model, from its provider's documentation."""

    dims: int
    """Native dimensions."""
    max_input_tokens: int
    """Longest text the model takes; more is refused by the provider or cut off silently."""
    encoding: str
    """Name of the tiktoken encoding, or the Hugging Face repository whose tokenizer.json counts its tokens."""
    shorter_dims: bool = False
    """Whether the provider takes a `dimensions` parameter (Matryoshka models)."""


KNOWN: dict[tuple[str, str], KnownModel] = {
    ("local", LOCAL_MODEL): KnownModel(256, 1_000_000, "wordllama-l2", shorter_dims=True),
    ("openai", "text-embedding-3-small"): KnownModel(1536, 8192, "cl100k_base", shorter_dims=True),
    ("openai", "text-embedding-3-large"): KnownModel(3072, 8192, "cl100k_base", shorter_dims=True),
    ("openai", "text-embedding-ada-002"): KnownModel(1536, 8192, "cl100k_base"),
    ("openai", "BAAI/bge-m3"): KnownModel(1024, 8192, "BAAI/bge-m3"),
    ("openai", "BAAI/bge-small-en-v1.5"): KnownModel(384, 512, "BAAI/bge-small-en-v1.5"),
    ("openai", "nomic-embed-text"): KnownModel(768, 8192, "nomic-ai/nomic-embed-text-v1.5"),
    ("openai", "mxbai-embed-large"): KnownModel(1024, 512, "mixedbread-ai/mxbai-embed-large-v1"),
    ("sentence-transformers", "sentence-transformers/all-MiniLM-L6-v2"): KnownModel(
        384, 256, "sentence-transformers/all-MiniLM-L6-v2"
    ),
    ("sentence-transformers", "sentence-transformers/all-mpnet-base-v2"): KnownModel(
        768, 384, "sentence-transformers/all-mpnet-base-v2"
    ),
    ("sentence-transformers", "BAAI/bge-small-en-v1.5"): KnownModel(384, 512, "BAAI/bge-small-en-v1.5"),
    ("sentence-transformers", "BAAI/bge-m3"): KnownModel(1024, 8192, "BAAI/bge-m3"),
}

DEFAULT_MODEL = {
    "local": LOCAL_MODEL,
    "openai": "text-embedding-3-small",
    "sentence-transformers": "sentence-transformers/all-MiniLM-L6-v2",
}

IN_PROCESS = ("local", "sentence-transformers")
"""Providers that run in this process: nothing is billed."""

LOCAL_DIMS = (64, 128, 256)
"""Lengths the bundled local model was trained to be cut to."""


def known_model(provider: str, model: str) -> KnownModel | None:
    """Facts of the model, or None for one that only its user knows."""
    return KNOWN.get((provider, model))
