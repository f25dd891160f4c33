"""Where a tenant's change of model stands, in one word and with its numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from kb_pipeline.embed.protocol import EmbedderSpec
from kb_pipeline.planner.model import Actual, VersionFacts

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.rows import TupleRow

    from kb_pipeline.config.schema import TenantConfig
    from kb_pipeline.store.migrations_state import MigrationRow

Stage = Literal["none", "planned", "back-fill", "build", "measure", "refused", "review", "soak", "paused", "aborted",
                "rolled back"]  # fmt: skip


@dataclass(frozen=True, slots=True)
class MigrationStatus:
    """One tenant."""

    tenant: str
    stage: Stage
    live: str | None
    """`v1 local/wordllama-l2 256`; None while nothing is live."""
    target: str | None
    """The same of the model that is wanted; None when the live one is."""
    rows_done: int = 0
    """Contents in use with the target's vector."""
    rows_total: int = 0
    rows_per_second: float = 0.0
    """Of the back-fill that is under way, or was the last."""
    seconds_left: float | None = None
    usd: float = 0.0
    """Spent on the target's model since the change began."""
    soak_seconds_left: float | None = None
    bridge: str = ""
    """How good the map from the new model's space to the live one's is, and whether it is used; empty without one."""
    by: str = ""
    """Who paused, aborted or rolled back."""
    next: str = ""
    """What a person can do now."""


def migration_status(conn: Connection[TupleRow], tenant: TenantConfig) -> MigrationStatus:
    """Reads everything; changes nothing. `conn` is the owner's. Raises `ConfigError` for an unusable configuration."""
    from kb_pipeline.config.durations import parse_duration
    from kb_pipeline.embed.registry import resolve_spec
    from kb_pipeline.store.actual import actual_state
    from kb_pipeline.store.builds import standing_builds
    from kb_pipeline.store.migrations_state import read_migration, spent_on

    tenant_id = tenant.tenant_id
    actual = actual_state(conn, tenant_id)
    row = read_migration(conn, tenant_id)
    wanted = resolve_spec(tenant.embedder)
    if row is not None and row.held:
        wanted = EmbedderSpec(**row.target)
    facts = next((one for one in actual.versions if one.spec.hash() == wanted.hash()), None)
    live = next((one for one in actual.versions if actual.live and one.version == actual.live.version), None)
    stage = stage_of(actual, facts, row)
    soak_left: float | None = None
    if stage in ("soak", "rolled back") and actual.live and actual.live.previous_build_id is not None:
        since = {build.build_id: build.since_s for build in standing_builds(conn, tenant_id)}
        soak = parse_duration(tenant.promotion.soak).total_seconds()
        soak_left = max(soak - since.get(actual.live.previous_build_id, 0.0), 0.0)
    changing = stage not in ("none", "soak")
    done = actual.contents - facts.missing if facts is not None and facts.state is not None else 0
    rate = row.rows_per_second if row is not None else 0.0
    left = (actual.contents - done) / rate if stage == "back-fill" and rate else None
    return MigrationStatus(
        tenant=tenant_id,
        stage=stage,
        live=None if live is None else _named(live.version, live.spec),
        target=_named(None if facts is None else facts.version, wanted) if changing else None,
        rows_done=done if changing else 0,
        rows_total=actual.contents if changing else 0,
        rows_per_second=rate if changing else 0.0,
        seconds_left=left,
        usd=spent_on(conn, tenant_id, wanted.model) if changing else 0.0,
        soak_seconds_left=soak_left,
        bridge=_bridge(conn, tenant_id, facts) if changing and facts is not None else "",
        by=row.changed_by if row is not None and row.held else "",
        next=_NEXT[stage].format(tenant=tenant_id),
    )


def _bridge(conn: Connection[TupleRow], tenant_id: str, target: VersionFacts) -> str:
    from kb_pipeline.migrate.bridge import in_words
    from kb_pipeline.store.bridges import read_bridges

    return next((in_words(row) for row in read_bridges(conn, tenant_id, source=target.version)), "")


def stage_of(actual: Actual, target: VersionFacts | None, row: MigrationRow | None) -> Stage:
    """The one word. Pure."""
    live = actual.live
    if live is None:
        return "none"
    if target is not None and live.version == target.version:
        return "soak" if live.previous_version not in (None, live.version) else "none"
    if row is not None and row.state != "running":
        return row.state
    if target is None or target.state in (None, "retired"):
        return "planned"
    if target.missing:
        return "back-fill"
    build = max(
        (one for one in actual.builds if one.version == target.version and one.state == "candidate"),
        key=lambda one: one.build_id,
        default=None,
    )
    if build is None:
        return "build"
    return {"pass": "review", "fail": "refused", None: "measure"}[build.verdict]  # type: ignore[return-value]


def _named(version: int | None, spec: EmbedderSpec) -> str:
    number = "new" if version is None else f"v{version}"
    return f"{number} {spec.provider}/{spec.model} {spec.dims} {spec.storage}"


_NEXT: dict[str, str] = {
    "none": "kb migrate --to MODEL --tenant {tenant}",
    "planned": "kb migrate --tenant {tenant}, or the sensor model_change starts it",
    "back-fill": "kb migrate pause, or abort, --tenant {tenant}",
    "build": "kb migrate --tenant {tenant} goes on; kb migrate abort --tenant {tenant} gives everything back",
    "measure": "kb migrate --tenant {tenant} goes on; kb migrate abort --tenant {tenant} gives everything back",
    "refused": "read the report (kb eval); kb migrate abort --tenant {tenant} gives everything back",
    "review": "kb promote or kb reject BUILD --tenant {tenant} (kb builds shows it)",
    "soak": "kb rollback --tenant {tenant} goes back at once",
    "paused": "kb migrate resume, or abort, --tenant {tenant}",
    "aborted": "name the live model in kb.toml, or kb migrate resume --tenant {tenant}",
    "rolled back": "kb rollback --tenant {tenant} goes forward again while the other build is kept",
}
