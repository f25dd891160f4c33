"""What `kb.toml` may say, as frozen pydantic models. `load.py` reads files and environment into them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from kb_pipeline.tenant import checked_tenant_id


class Section(BaseModel):
    """Base of all sections: frozen, and an unknown key is an error (load.py names the nearest valid one)."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class EmbedderConfig(Section):
    """Which model makes the vectors, how it is reached, and within which limits."""

    provider: str = "local"
    """`local`, `openai`, `sentence-transformers` or `python:package.module:Class`."""
    model: str | None = None
    dims: int | None = Field(default=None, ge=1, le=64_000)
    storage: Literal["vector", "halfvec"] | None = None
    """Type of the column; by default `vector` up to 2,000 dims and `halfvec` above. Part of the version."""
    document_prefix: str = ""
    query_prefix: str = ""
    normalize: bool = True
    base_url: str | None = None
    """An OpenAI-compatible endpoint; by default what `OPENAI_BASE_URL` says."""
    endpoints: tuple[str, ...] = ()
    """Further endpoints that serve the same model; each is compared with stored vectors before it is used."""
    api_key_env: str = "OPENAI_API_KEY"
    """Name of the environment variable that holds the key; the key itself never stands in a file."""
    tokenizer: str | None = None
    """Name of a tiktoken encoding or path of a tokenizer.json; by default the model's own."""
    max_input_tokens: int | None = Field(default=None, ge=1)
    max_batch_inputs: int = Field(default=2048, ge=1)
    max_batch_tokens: int = Field(default=300_000, ge=1)
    requests_per_minute: float | None = Field(default=None, gt=0)
    tokens_per_minute: float | None = Field(default=None, gt=0)
    max_concurrency: int = Field(default=16, ge=1)
    request_timeout_s: float = Field(default=60.0, gt=0)
    max_wait_s: float = Field(default=600.0, ge=0)
    """A `retry-after` longer than this ends the run (exit code 75); the next run goes on."""
    first_answer_wait_s: float = Field(default=90.0, ge=0)
    """A provider that nobody can connect to, or that has given no usable answer yet in this run, is given up after
    this: a wrong address is said soon, and an outage of a minute is survived."""
    breaker_failures: int = Field(default=5, ge=1)
    breaker_reset_s: float = Field(default=60.0, gt=0)
    breaker_successes: int = Field(default=2, ge=1)
    lane: Literal["sync", "batch", "auto"] = "sync"
    batch_above: int = Field(default=20_000, ge=1)
    """`lane = "auto"`: the batch lane from this number of texts on."""
    usd_per_million_tokens: float | None = Field(default=None, ge=0)
    """Price of the sync lane; by default the built-in dated table."""
    share_across_tenants: bool = False
    """Reuse vectors of other tenants for identical texts. Cost and time then show that another tenant holds a text."""


class ChunkingConfig(Section):
    """How large chunks are, in tokens of the embedder's tokenizer."""

    max_tokens: int = Field(default=320, ge=16, le=8192)
    overlap_tokens: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _overlap_below_half(self) -> ChunkingConfig:
        if self.overlap_tokens * 2 > self.max_tokens:
            raise ValueError(
                f"overlap_tokens = {self.overlap_tokens} is more than half of max_tokens = {self.max_tokens}"
            )
        return self


class IndexConfig(Section):
    """How vectors are indexed."""

    preset: Literal["dev", "balanced", "high", "max"] = "balanced"
    m: int | None = Field(default=None, ge=2, le=100)
    ef_construction: int | None = Field(default=None, ge=4, le=1000)
    storage: Literal["vector", "halfvec", "binary"] | None = None
    """How the column is indexed; by default as the dims allow. A change is a rebuild only."""
    exact_below: Literal["auto"] | int = "auto"
    """Rows below which a tenant is scanned exactly; auto: rows x dims <= 1.25 million."""
    ef_search: Literal["auto"] | int | None = None
    """auto: fitted to `target_recall` after each build; by default the profiles' widths, raised after a build whose
    recall could be under `[eval] recall_floor` with them."""
    target_recall: float = Field(default=0.95, gt=0, le=1)
    target_p95_ms: float | None = Field(default=None, gt=0)
    build_memory_mb: int | None = Field(default=None, ge=16)
    build_workers: int | None = Field(default=None, ge=0, le=64)
    """Workers of an index build beside its leader; by default one for each core: the build is as quick as can be, and
    searches share the cores with it. Fewer keep searches quicker meanwhile."""


class EvalConfig(Section):
    """What is measured and where the floors are."""

    golden: str | None = None
    recall_floor: float = Field(default=0.95, ge=0, le=1)
    queries: int = Field(default=200, ge=1)
    quality_tolerance: float = Field(default=0.02, ge=0, le=1)
    latency_tolerance: float = Field(default=1.0, ge=0)
    """How much slower p95 may be than the live build's, as a fraction (1.0: twice)."""
    min_coverage: float = Field(default=1.0, ge=0, le=1)
    latency_seconds: float = Field(default=2.0, gt=0, le=600)
    """How long each build is searched under load; p99 of fewer than some hundred searches says little."""
    check_severity: Literal["error", "warn"] = "error"
    """How the UI shows a failed data check; neither stops a run."""
    check_rows: int = Field(default=20_000, ge=1)
    """Rows that a data check looks at; of more, an even sample."""


class PromotionConfig(Section):
    """Who promotes, and how long the way back is kept."""

    mode: Literal["auto", "review"] = "auto"
    soak: str = "7d"
    remind_after: str = "2d"
    """How long a build waits for a decision before the sensor `review_reminder` reports it."""
    on_refusal: Literal["fail", "warn"] = "fail"
    """Whether the run that measured a candidate fails (exit code 5) when the gate refuses it, or only says so."""


class SourcesConfig(Section):
    """What a source may do to the index."""

    max_delete_fraction: float = Field(default=0.5, ge=0, le=1)
    max_file_mb: float = Field(default=50.0, gt=0)


class StagingConfig(Section):
    """Where data between assets lies."""

    url: str | None = None
    """Where Parquet between assets goes; by default `KB_HOME/staging`."""


class ScheduleConfig(Section):
    """When the nightly run starts."""

    nightly: str = "0 2 * * *"
    maintenance: str = "30 4 * * *"
    timezone: str = "UTC"


class MigrationConfig(Section):
    """How the embedding model is changed."""

    texts_per_minute: float | None = Field(default=None, gt=0)
    """Limit of the back-fill alone, so that it does not use up what a provider allows or the database bears."""
    bridge: bool = False
    """Whether a map from the new model's space to the live one's is fitted during the back-fill, for questions that the
    old model cannot embed any more."""
    bridge_floor: float = Field(default=0.9, ge=0, le=1)
    """Recall@10 of mapped questions under which the map is not used."""


class MaintenanceConfig(Section):
    """What is kept for how long."""

    orphan_grace: str = "7d"


class HistoryConfig(Section):
    """How long what is only looked back at is kept."""

    keep: str = "30d"
    """Ended runs and their event logs; the newest good run of each tenant and job always stays."""
    staging: str = "1d"
    """Staged files that no stage has registered: a run that writes them may still go on."""


class AlertsConfig(Section):
    """Who is told of a failed run; nobody by default."""

    webhook: str | None = None
    """URL that gets JSON with a `text`, which is what chat services take."""
    mail: str | None = None
    """Address."""
    mail_from: str = "kb-pipeline@localhost"
    smtp: str = "localhost:25"
    """`host:port`; with SMTP_USER and SMTP_PASSWORD in the environment the session is encrypted and logged in."""


class BudgetConfig(Section):
    """What may be spent."""

    monthly_usd: float | None = Field(default=None, ge=0)
    max_cost_per_run: float | None = Field(default=None, ge=0)


class Shared(Section):
    """Sections that stand at the top for every tenant and under `[tenants.NAME.*]` for one."""

    embedder: EmbedderConfig = EmbedderConfig()
    chunking: ChunkingConfig = ChunkingConfig()
    index: IndexConfig = IndexConfig()
    eval: EvalConfig = EvalConfig()
    promotion: PromotionConfig = PromotionConfig()
    migration: MigrationConfig = MigrationConfig()
    sources: SourcesConfig = SourcesConfig()
    maintenance: MaintenanceConfig = MaintenanceConfig()
    budget: BudgetConfig = BudgetConfig()


class TenantConfig(Shared):
    """One tenant, fully resolved: what stands at the top of the file, overridden by the tenant's own sections."""

    tenant_id: str
    source: str | None = None
    """Folder, fsspec URL, `*.jsonl`, `*.parquet`, or `packages:` (documentation of the installed Python packages)."""
    patterns: tuple[str, ...] = ()
    """Globs a path must match; empty: every format that is known."""
    ignore: tuple[str, ...] = ()
    """Git-style ignore rules, beside those of `.kbignore` in the source."""

    @field_validator("tenant_id")
    @classmethod
    def _rule(cls, value: str) -> str:
        return checked_tenant_id(value)


class Settings(Shared):
    """The whole configuration, validated once."""

    staging: StagingConfig = StagingConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    history: HistoryConfig = HistoryConfig()
    alerts: AlertsConfig = AlertsConfig()
    tenants: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Raw overrides by tenant; `tenant()` resolves one."""

    def tenant(self, tenant_id: str) -> TenantConfig:
        """The tenant's resolved configuration. One that is not in the file has the shared settings, no source."""
        raw = self.tenants.get(tenant_id, {})
        merged: dict[str, Any] = {"tenant_id": tenant_id}
        for name in Shared.model_fields:
            section: Section = getattr(self, name)
            own: dict[str, Any] = raw.get(name, {})
            merged[name] = {**section.model_dump(exclude_unset=True), **own}
        own_keys = {key: value for key, value in raw.items() if key not in Shared.model_fields}
        return TenantConfig.model_validate({**merged, **own_keys})
