"""From what `source = ...` says to the place documents come from."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

from kb_pipeline.config.schema import TenantConfig
from kb_pipeline.errors import ConfigError, SourceError
from kb_pipeline.sources.model import Source

PACKAGES = "packages:"
URL = re.compile(r"[a-z][a-z0-9+.-]*(::|://)", re.IGNORECASE)


def open_source(config: TenantConfig) -> Source:
    """The tenant's source. Raises `ConfigError` when none is set or its URL needs an extra, `SourceError` when it
    is not there.
    """
    where = config.source
    if not where:
        raise ConfigError(f"tenant {config.tenant_id!r} has no source: set tenants.{config.tenant_id}.source")
    if where.startswith(PACKAGES):
        from kb_pipeline.sources.packages import PackagesSource

        return PackagesSource(where.removeprefix(PACKAGES))
    limit = config.sources.max_file_mb
    if where.startswith("file://"):
        where = unquote(where.removeprefix("file://"))
    if URL.match(where):
        from kb_pipeline.sources.remote import open_remote

        return open_remote(where, config.patterns, config.ignore, limit)
    path = Path(where).expanduser().absolute()
    if path.is_dir():
        from kb_pipeline.sources.files import FolderSource

        return FolderSource(path, config.patterns, config.ignore, limit)
    if not path.is_file():
        raise SourceError(
            f"the source {where!r} of tenant {config.tenant_id!r} does not exist (looked for {path}); it may be a "
            "folder, a file, a URL such as s3://bucket/docs, or 'packages:'"
        )
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        from kb_pipeline.sources.jsonl import JsonLinesSource

        return JsonLinesSource(str(path), lambda: path.open("rb"), limit)
    if path.suffix.lower() == ".parquet":
        from kb_pipeline.sources.parquet import ParquetSource

        return ParquetSource(str(path), lambda: path.open("rb"), limit)
    from kb_pipeline.sources.files import FileSource

    return FileSource(path, limit)
