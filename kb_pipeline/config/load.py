"""Reads `kb.toml` and the environment into validated `Settings`; says what is wrong and where it stands."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from kb_pipeline.config.environment import environment_overrides
from kb_pipeline.config.keys import unknown_keys
from kb_pipeline.config.schema import Settings
from kb_pipeline.errors import ConfigError
from kb_pipeline.tenant import checked_tenant_id

FILE_NAME = "kb.toml"


@dataclass(frozen=True, slots=True)
class Configuration:
    """Settings and where they came from."""

    settings: Settings
    path: Path | None
    """The file that was read; None when there is none and everything is default or environment."""


def load(config: str | Path | None = None, *, environ: Mapping[str, str] | None = None) -> Configuration:
    """The configuration from `config`, else `KB_CONFIG`, else `./kb.toml`, with `KB_*` variables over it.

    No file at all is fine (defaults), but one that was named must exist. Relative paths in the file are relative to the
    file's folder. Raises `ConfigError` with every fault found, one a line.
    """
    environ = os.environ if environ is None else environ
    path = find_file(config, environ)
    raw = read_toml(path) if path else {}
    overrides, places = environment_overrides(environ, known_tenants=tuple(_tenants(raw, path)))
    faults = unknown_keys(raw, shown_path(path)) + unknown_keys(overrides, places)
    if faults:
        raise ConfigError("\n".join(faults))
    if path:
        absolute_paths(raw, path.parent)
    merged = merge(raw, overrides)
    try:
        settings = Settings.model_validate(merged)
        for tenant_id in settings.tenants:
            settings.tenant(checked_tenant_id(tenant_id))
    except ValidationError as error:
        raise ConfigError(readable(error, shown_path(path), places)) from None
    return Configuration(settings, path)


def find_file(config: str | Path | None, environ: Mapping[str, str]) -> Path | None:
    """The file to read, or None. Raises `ConfigError` for a named file that is not there, listing the places tried."""
    named = config or environ.get("KB_CONFIG")
    if not named:
        here = Path.cwd() / FILE_NAME
        return here if here.is_file() else None
    asked = Path(named).expanduser()
    tried = [asked.absolute(), asked.absolute() / FILE_NAME]
    for place in tried:
        if place.is_file():
            return place
    origin = "--config" if config else "KB_CONFIG"
    places = "\n".join(f"  {place}" for place in tried)
    raise ConfigError(f"no configuration file: {origin} says {named}; tried\n{places}\n`kb init` writes one")


def read_toml(path: Path) -> dict[str, Any]:
    """The file's content. Raises `ConfigError` with the parser's line for broken TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from None


def merge(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Both tables, deep; `over` wins."""
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(below, dict) and isinstance(value, dict):
            merged[key] = merge(below, value)  # pyright: ignore[reportUnknownArgumentType]
        else:
            merged[key] = value
    return merged


def absolute_paths(raw: dict[str, Any], folder: Path) -> None:
    """Make `source`, `golden` and the staging folder independent of the working directory, in place."""
    for table in [raw, *_tenants(raw, None).values()]:
        for owner, key in ((table, "source"), (table.get("eval"), "golden"), (table.get("staging"), "url")):
            if not isinstance(owner, dict):
                continue
            section = cast("dict[str, Any]", owner)
            value = section.get(key)
            if isinstance(value, str):
                section[key] = located(value, folder)


def located(place: str, folder: Path) -> str:
    """A URL or `packages:` as it is; a path made absolute, seen from `folder`."""
    if "://" in place or place.startswith("packages:"):
        return place
    return str((folder / Path(place).expanduser()).absolute())


def shown_path(path: Path | None) -> str:
    """How messages name the file."""
    return str(path) if path else FILE_NAME


def readable(error: ValidationError, file: str, places: Mapping[tuple[str, ...], str]) -> str:
    """One line for each fault: where it stands, what was found, what is allowed."""
    lines: list[str] = []
    for fault in error.errors(include_url=False):
        loc = tuple(str(part) for part in fault["loc"])
        key = tuple(part for part in loc if part.isidentifier() or "-" in part)
        place = next(
            (name for known, name in places.items() if known[: len(key)] == key or key[-2:] == known[-2:]), file
        )
        found = fault.get("input")
        message = fault["msg"].removeprefix("Value error, ").removeprefix("Input ")
        shown = f" = {found!r}" if isinstance(found, str | int | float | bool) else ""
        lines.append(f"{place}: {'.'.join(key)}{shown}: {message}")
    return "\n".join(dict.fromkeys(lines))


def _tenants(raw: Mapping[str, Any], path: Path | None) -> dict[str, dict[str, Any]]:
    tenants = raw.get("tenants", {})
    if not isinstance(tenants, dict) or any(not isinstance(own, dict) for own in tenants.values()):  # pyright: ignore[reportUnknownVariableType,reportUnknownMemberType]
        raise ConfigError(f'{shown_path(path)}: tenants are tables: [tenants.NAME] with source = "..."')
    return tenants  # pyright: ignore[reportUnknownVariableType]
