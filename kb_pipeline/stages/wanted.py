"""Which embedding versions a run has to make complete, and what that costs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kb_pipeline.config.schema import EmbedderConfig
from kb_pipeline.embed.prices import LaneName
from kb_pipeline.embed.protocol import EmbedderSpec
from kb_pipeline.store.versions import Version, find_version, read_version, served_versions

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.rows import TupleRow


@dataclass(frozen=True, slots=True)
class Space:
    """Versions that should exist and differ in column type or normalisation only: a text is embedded once for all of
    them.
    """

    spec: EmbedderSpec
    """What is embedded: of the version that loses least."""
    versions: tuple[Version, ...]
    """Those that have a column; the one of `spec` first, once it exists."""
    required: bool
    """A document commits when its contents have these vectors."""

    @property
    def numbers(self) -> list[int]:
        """Their numbers."""
        return [version.version for version in self.versions]


@dataclass(frozen=True, slots=True)
class Wanted:
    """The versions that should exist for a tenant."""

    desired: EmbedderSpec
    """Of the configured embedder."""
    version: int | None
    """The desired one's number; None while it has no column."""
    required: tuple[int, ...]
    """A document commits when its contents have vectors of all of these: what is served, else the desired one."""
    spaces: tuple[Space, ...]
    """The required first."""


def wanted_versions(conn: Connection[TupleRow], tenant_id: str, config: EmbedderConfig) -> Wanted:
    """What should exist, from the configuration and what is served now. Changes nothing."""
    from kb_pipeline.embed.registry import resolve_spec

    desired = resolve_spec(config)
    number = find_version(conn, desired)
    served = [read_version(conn, version) for version in served_versions(conn, tenant_id)]
    present = served if number is None else [*(v for v in served if v.version != number), Version(number, desired)]
    required = [v.version for v in served] or ([] if number is None else [number])
    return Wanted(desired, number, tuple(required), tuple(_spaces(present, desired, required)))


def _spaces(present: list[Version], desired: EmbedderSpec, required: list[int]) -> list[Space]:
    specs = [*(version.spec for version in present), desired]
    found: list[Space] = []
    for space in dict.fromkeys(spec.space() for spec in specs):
        versions = sorted((v for v in present if v.spec.space() == space), key=lambda v: _loss(v.spec))
        spec = versions[0].spec if versions else desired
        found.append(Space(spec, tuple(versions), not required or any(v.version in required for v in versions)))
    return sorted(found, key=lambda space: not space.required)


def _loss(spec: EmbedderSpec) -> tuple[bool, bool]:
    """A cast keeps everything only from the full length and the full precision."""
    return spec.normalize, spec.storage != "vector"


def embedder_config(config: EmbedderConfig, spec: EmbedderSpec) -> EmbedderConfig:
    """The configuration that makes this version's embedder: the present one, with the identity of the version.

    Limits, keys and addresses are those of the file; a provider other than the file's is asked at its usual address.
    """
    identity = {
        "provider": spec.provider,
        "model": spec.model,
        "dims": spec.dims,
        "storage": spec.storage,
        "document_prefix": spec.document_prefix,
        "query_prefix": spec.query_prefix,
        "normalize": spec.normalize,
    }
    if spec.provider == config.provider:
        same_model = spec.model == config.model
        other = (
            {}
            if same_model
            else {"tokenizer": None, "max_input_tokens": None, "usd_per_million_tokens": None, "endpoints": ()}
        )
        return config.model_copy(update={**identity, **other})
    return EmbedderConfig.model_validate({**identity, "max_concurrency": config.max_concurrency})


def usd(config: EmbedderConfig, spec: EmbedderSpec, tokens: int, *, lane: LaneName = "sync") -> float:
    """What so many tokens cost; 0 for a model whose price nobody knows."""
    from kb_pipeline.embed.prices import price

    known = price(spec.model, lane=lane, override=embedder_config(config, spec).usd_per_million_tokens)
    return known.usd(tokens) if known else 0.0


def price_known(config: EmbedderConfig, specs: Iterable[EmbedderSpec]) -> bool:
    """Whether the price of all these models is known."""
    from kb_pipeline.embed.prices import price

    return all(price(each.model, override=embedder_config(config, each).usd_per_million_tokens) for each in specs)
