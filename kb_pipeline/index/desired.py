"""What a tenant should be, from its configuration: the planner's first argument."""

from __future__ import annotations

from kb_pipeline.config.schema import TenantConfig
from kb_pipeline.embed.registry import resolve_spec
from kb_pipeline.index.params import exact_below_rows, resolve_params
from kb_pipeline.planner.model import Desired


def desired_state(config: TenantConfig) -> Desired:
    """The configuration, resolved: no network, nothing loaded. Raises `ConfigError` naming the fix."""
    spec = resolve_spec(config.embedder)
    return Desired(
        tenant_id=config.tenant_id,
        spec=spec,
        index=resolve_params(config.index, spec.dims, spec.storage),
        exact_below_rows=exact_below_rows(config.index, spec.dims),
        review=config.promotion.mode == "review",
    )
