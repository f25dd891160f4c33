"""The tenant id rule, checked once at every edge (configuration, command line, partitions, Python API)."""

from __future__ import annotations

import re

from kb_pipeline.errors import ConfigError

TENANT_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


def checked_tenant_id(value: str) -> str:
    """The id itself when it keeps the rule. Raises `ConfigError`; only a checked id may become an SQL literal."""
    if not TENANT_ID.fullmatch(value):
        raise ConfigError(
            f"tenant id {value!r} is not valid: use 1 to 63 of a-z, 0-9, '_' and '-', beginning with a letter or digit"
        )
    return value
