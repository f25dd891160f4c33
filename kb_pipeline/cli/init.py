"""`kb init`: a kb.toml to begin with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kb_pipeline.errors import ConfigError

TEMPLATE = """\
# Configuration of kb_pipeline. Every key has a default; environment variables stand above the file:
# KB_EMBEDDER__MODEL=... is [embedder] model, KB_TENANTS__DOCS__SOURCE=... is [tenants.docs] source.

[embedder]                       # for every tenant; [tenants.NAME.embedder] overrides
provider = "local"               # local (offline, free) | openai | sentence-transformers | python:package.module:Class
# model = "text-embedding-3-small"
# dims = 1536

[chunking]
max_tokens = 320
# overlap_tokens = 0

[index]
preset = "balanced"              # dev | balanced | high | max, or m and ef_construction
# exact_below = "auto"           # rows below which no index is built

[eval]
recall_floor = 0.95
# golden = "path/to/beir-set"    # questions with known answers: corpus.jsonl, queries.jsonl, qrels/

[promotion]
mode = "auto"                    # review: a person approves what goes live
soak = "7d"                      # how long the build before is kept for `kb rollback`

[schedule]
nightly = "0 2 * * *"
timezone = "UTC"

[tenants.{tenant}]
source = "{source}"              # folder, s3://..., file.jsonl, corpus.parquet, packages:
# patterns = ["**/*.md"]
# ignore = ["drafts/"]
"""


def init(
    source: Annotated[str, typer.Option(help="Folder, URL, .jsonl or .parquet of the first tenant.")] = "docs",
    tenant: Annotated[str, typer.Option("--tenant", "-t", help="Name of the first tenant.")] = "docs",
    force: Annotated[bool, typer.Option("--force", help="Replace a kb.toml that is there.")] = False,
) -> None:
    """Write a kb.toml into this folder, with one tenant and the settings people change first."""
    from kb_pipeline.tenant import checked_tenant_id

    target = Path("kb.toml")
    if target.exists() and not force:
        raise ConfigError(f"{target.absolute()} is there already; --force replaces it")
    checked_tenant_id(tenant)
    quoted = source.replace("\\", "\\\\").replace('"', '\\"')
    target.write_text(TEMPLATE.replace("{tenant}", tenant).replace("{source}", quoted), encoding="utf-8")
    print(f"wrote {target.absolute()}\nnext: `kb plan` shows what a run would do, `kb run` does it")
