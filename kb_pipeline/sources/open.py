"""Which source a configuration names."""

from __future__ import annotations

from pathlib import Path

from kb_pipeline.config.schema import TenantConfig
from kb_pipeline.errors import ConfigError, SourceError
from kb_pipeline.sources.model import Source

RECORD_ENDINGS = (".jsonl", ".ndjson")


def open_source(config: TenantConfig) -> Source:
    """The tenant's source: a folder, a file, an fsspec URL, JSON Lines, Parquet, or `packages:`.

    Raises `ConfigError` when none is configured or its extra is missing, `SourceError` when it is not there.
    """
    url = config.source
    if not url:
        raise ConfigError(
            f"tenant {config.tenant_id} has no source: set [tenants.{config.tenant_id}] source = ... in kb.toml, or give --source"
        )
    if url == "packages:":
        from kb_pipeline.sources.packages import PackagesSource

        return PackagesSource()
    url = url.removeprefix("file://")
    if url.endswith(RECORD_ENDINGS):
        from kb_pipeline.sources.jsonl import JsonLinesSource

        return JsonLinesSource(url)
    if url.endswith(".parquet"):
        from kb_pipeline.sources.parquet import ParquetSource

        return ParquetSource(url)
    if "://" in url:
        from kb_pipeline.sources.remote import RemoteSource

        return RemoteSource(url, config)
    from kb_pipeline.sources.folder import FolderSource

    root = Path(url).expanduser()
    if not root.exists():
        raise SourceError(f"the source of tenant {config.tenant_id} is not there: {root.absolute()}; nothing was changed")
    if root.is_dir():
        return FolderSource(root, config)
    return FolderSource(root.parent, config.model_copy(update={"patterns": (f"/{_escaped(root.name)}",), "ignore": ()}))


def _escaped(name: str) -> str:
    """A file's name as a pattern that matches nothing else."""
    return "".join(f"\\{char}" if char in "*?[]!\\# " else char for char in name)
