"""Which keys `kb.toml` may hold, and what was probably meant by one that it may not."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from kb_pipeline.config.schema import Section, Settings, Shared, TenantConfig

Path = tuple[str, ...]


def section_models(*, tenant: bool) -> dict[str, type[Section]]:
    """The sections by name: those of the whole file, or those under one tenant."""
    fields = (Shared if tenant else Settings).model_fields
    annotations = ((name, field.annotation) for name, field in fields.items())
    return {name: found for name, found in annotations if isinstance(found, type) and issubclass(found, Section)}


def tenant_keys() -> set[str]:
    """Keys that stand directly under `[tenants.NAME]`."""
    return set(TenantConfig.model_fields) - set(Shared.model_fields) - {"tenant_id"}


def allowed(path: Path) -> set[str] | None:
    """Names that may stand under this path; None where anything may (a tenant's name) or nothing stands below."""
    match path:
        case ():
            return set(Settings.model_fields)
        case ("tenants",):
            return None
        case ("tenants", _):
            return tenant_keys() | set(section_models(tenant=True))
        case ("tenants", _, section) if section in section_models(tenant=True):
            return set(section_models(tenant=True)[section].model_fields)
        case (section,) if section in section_models(tenant=False):
            return set(section_models(tenant=False)[section].model_fields)
        case _:
            return None


def unknown_keys(raw: Mapping[str, Any], where: str | Mapping[Path, str]) -> list[str]:
    """One sentence for each key that is not a setting. `where` is the file, or the variable's name of each path."""
    return [_sentence(path, where) for path in _walk(raw, ()) if _unknown(path)]


def nearest(path: Path) -> str | None:
    """The valid key that was probably meant, dotted; looked for beside the key first, then in every section."""
    *parent, name = path
    beside = difflib.get_close_matches(name, sorted(allowed(tuple(parent)) or ()), n=1, cutoff=0.6)
    if beside:
        return ".".join([*parent, beside[0]])
    everywhere = {
        key: f"{section}.{key}" for section, model in section_models(tenant=False).items() for key in model.model_fields
    }
    found = difflib.get_close_matches(name, sorted(everywhere), n=1, cutoff=0.8)
    return everywhere[found[0]] if found else None


def _unknown(path: Path) -> bool:
    names = allowed(path[:-1])
    return names is not None and path[-1] not in names


def _walk(raw: Mapping[str, Any], above: Path) -> Iterator[Path]:
    for key, value in raw.items():
        path = (*above, key)
        yield path
        if isinstance(value, dict) and not _unknown(path):
            yield from _walk(value, path)  # pyright: ignore[reportUnknownArgumentType]


def _sentence(path: Path, where: str | Mapping[Path, str]) -> str:
    *parent, name = path
    place = (
        where if isinstance(where, str) else where[path] if path in where else next(iter(where.values()), "environment")
    )
    meant = nearest(path)
    if meant:
        hint = f"did you mean {meant}?"
    else:
        hint = "valid here: " + ", ".join(sorted(allowed(tuple(parent)) or ()))
    section = f"[{'.'.join(parent)}] " if parent else ""
    return f"{place}: {section}{name} is not a setting; {hint}"
