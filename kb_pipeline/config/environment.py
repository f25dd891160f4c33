"""Settings from environment variables: `KB_` and the path, levels joined by two underscores."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from kb_pipeline.config.keys import section_models, tenant_keys
from kb_pipeline.config.schema import TenantConfig
from kb_pipeline.errors import ConfigError

PREFIX = "KB_"
LEVEL = "__"
NOT_SETTINGS = ("KB_HOME", "KB_DSN", "KB_DAGSTER_DSN", "KB_CONFIG", "KB_PG_MAJOR", "KB_DEBUG", "KB_TEST")


def environment_overrides(
    environ: Mapping[str, str], *, known_tenants: Sequence[str] = ()
) -> tuple[dict[str, Any], dict[tuple[str, ...], str]]:
    """The settings the environment gives, as a table like the file's, and the variable's name of each path.

    `KB_EMBEDDER__MODEL=x` is `[embedder] model`, `KB_TENANTS__DOCS__SOURCE=/srv` is `[tenants.docs] source`; a tenant
    of the file is found also when its name has a dash. A value is read as TOML where the setting is not a text.
    """
    overrides: dict[str, Any] = {}
    places: dict[tuple[str, ...], str] = {}
    for name in sorted(environ):
        if not name.startswith(PREFIX) or name.startswith(NOT_SETTINGS):
            continue
        if LEVEL not in name:
            _refuse_single_underscore(name)
            continue
        path = _path(name, known_tenants)
        table = overrides
        for part in path[:-1]:
            table = table.setdefault(part, {})
        table[path[-1]] = parsed(environ[name], text=is_text(path))
        places[path] = name
    return overrides, places


def parsed(value: str, *, text: bool) -> Any:
    """The variable's value: a TOML value (number, boolean, list, quoted string), else the text itself."""
    if text and value[:1] not in ('"', "'"):
        return value
    try:
        return tomllib.loads(f"value = {value}")["value"]
    except (tomllib.TOMLDecodeError, KeyError):
        return value


def is_text(path: tuple[str, ...]) -> bool:
    """Whether the setting at this path is a text, so that `KB_EMBEDDER__MODEL=3` stays one."""
    *parent, key = path[2:] if path[0] == "tenants" else path
    model = TenantConfig if not parent else section_models(tenant=False).get(parent[0])
    field = model.model_fields.get(key) if model else None
    return field is not None and (field.annotation is str or field.annotation == str | None)


def _path(name: str, known_tenants: Sequence[str]) -> tuple[str, ...]:
    path = name.removeprefix(PREFIX).lower().split(LEVEL)
    if path[0] == "tenants" and len(path) > 1:
        path[1] = next((known for known in known_tenants if known.replace("-", "_") == path[1]), path[1])
    return tuple(path)


def _refuse_single_underscore(name: str) -> None:
    """`KB_EMBEDDER_MODEL` would be ignored in silence: refuse it and name the right spelling."""
    rest = name.removeprefix(PREFIX).lower()
    for section, model in section_models(tenant=False).items():
        if rest == section:
            raise ConfigError(
                f"environment variable {name} names a section; write {name}{LEVEL}KEY, "
                f"for example {name}{LEVEL}{next(iter(model.model_fields)).upper()}"
            )
        if rest.startswith(section + "_") and rest.removeprefix(section + "_") in model.model_fields:
            key = rest.removeprefix(section + "_").upper()
            raise ConfigError(
                f"environment variable {name} is not a setting; did you mean {PREFIX}{section.upper()}{LEVEL}{key}?"
            )
    if rest.startswith("tenants_") and rest.split("_")[-1] in tenant_keys():
        raise ConfigError(
            f"environment variable {name} is not a setting; levels are joined by two underscores, "
            "as in KB_TENANTS__DOCS__SOURCE"
        )
