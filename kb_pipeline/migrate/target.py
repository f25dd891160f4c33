"""`kb migrate --to MODEL` as a change of kb.toml: the file stays the truth of what is wanted."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, cast

from kb_pipeline.config.schema import EmbedderConfig
from kb_pipeline.errors import ConfigError

OF_THE_MODEL = ("dims", "storage", "document_prefix", "query_prefix", "tokenizer", "max_input_tokens",
                "usd_per_million_tokens", "endpoints")  # fmt: skip
"""Keys that belong to the model they were written for and do not pass to another."""
OF_THE_PROVIDER = ("base_url", "api_key_env")


def target_keys(
    now: EmbedderConfig, to: str, *, dims: int | None, storage: Literal["vector", "halfvec"] | None
) -> dict[str, Any]:
    """The keys of `[embedder]` that `MODEL` means: `PROVIDER/MODEL`, `python:package.module:Class`, the name of a model
    that is known here, or another model of the configured provider. Raises `ConfigError` for one nobody can resolve."""
    from kb_pipeline.embed.custom import PREFIX
    from kb_pipeline.embed.models import DEFAULT_MODEL, KNOWN
    from kb_pipeline.embed.registry import resolve_spec

    keys: dict[str, Any]
    first, _, rest = to.partition("/")
    known = [provider for provider, model in KNOWN if model == to]
    if to.startswith(PREFIX):
        keys = {"provider": to}
    elif first in DEFAULT_MODEL:
        keys = {"provider": first, "model": rest} if rest else {"provider": first}
    elif known:
        keys = {"provider": now.provider if now.provider in known else known[0], "model": to}
    else:
        keys = {"provider": now.provider, "model": to}
    if dims is not None:
        keys["dims"] = dims
    if storage is not None:
        keys["storage"] = storage
    resolve_spec(EmbedderConfig.model_validate({**_kept(now, keys), **keys}))
    return keys


def _kept(now: EmbedderConfig, keys: dict[str, Any]) -> dict[str, Any]:
    """What stays of the present section: limits, and the address while the provider stays."""
    gone = {"provider", "model", *OF_THE_MODEL, *(OF_THE_PROVIDER if keys["provider"] != now.provider else ())}
    return {key: value for key, value in now.model_dump(exclude_unset=True).items() if key not in gone}


def target_config(now: EmbedderConfig, keys: dict[str, Any]) -> EmbedderConfig:
    """The configuration after the change."""
    return EmbedderConfig.model_validate({**_kept(now, keys), **keys})


def write_target(path: Path, tenant_id: str | None, now: EmbedderConfig, keys: dict[str, Any]) -> str:
    """Put the keys into kb.toml, under `[tenants.NAME.embedder]` or `[embedder]`; comments and order stay. The section.

    Keys that belong to the old model are taken out. Raises `ConfigError` when the file cannot be written.
    """
    import tomlkit

    try:
        document = tomlkit.parse(path.read_text(encoding="utf-8")) if path.exists() else tomlkit.document()
        parents = [] if tenant_id is None else ["tenants", tenant_id]
        table = cast("dict[str, Any]", document)
        for name in [*parents, "embedder"]:
            if name not in table:
                table[name] = tomlkit.table(is_super_table=name in parents)
            table = table[name]
        gone = [*OF_THE_MODEL, "model", *(OF_THE_PROVIDER if keys["provider"] != now.provider else ())]
        for key in gone:
            table.pop(key, None)
        table.update(keys)
        path.write_text(tomlkit.dumps(document), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error}") from error
    return f"[{'.'.join([*parents, 'embedder'])}] of {path}"
