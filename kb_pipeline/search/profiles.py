"""How far the index is searched: `ef_search` by profile, and what serving allows."""

from __future__ import annotations

from kb_pipeline.config.schema import IndexConfig
from kb_pipeline.errors import ConfigError

PROFILES = {"interactive": 30, "default": 100, "offline": 300}
"""Profile -> ef_search, where the build has no value fitted for the profile."""
MAX_K = 500
"""Because ef_search, at least twice k, ends at 1,000 (HNSW_MAX_EF_SEARCH)."""


def checked_k(k: int) -> int:
    """`k` itself if it can be served. Raises `ConfigError`."""
    if not 1 <= k <= MAX_K:
        raise ConfigError(f"k = {k}: ask for 1 to {MAX_K} results")
    return k


def checked_profile(profile: str | None) -> str:
    """The profile's name, `default` for None. Raises `ConfigError`."""
    if profile is not None and profile not in PROFILES:
        raise ConfigError(f"profile {profile!r} is none of {', '.join(PROFILES)}")
    return profile or "default"


def asked_ef(ef_search: int | None, profile: str | None, config: IndexConfig) -> int | None:
    """What was asked for: by the request, else (where it names no profile) by the tenant's configuration. None: the
    profile decides."""
    if ef_search is not None:
        if not 1 <= ef_search <= 1000:
            raise ConfigError(f"ef_search = {ef_search}: choose 1 to 1000")
        return ef_search
    return config.ef_search if profile is None and isinstance(config.ef_search, int) else None
