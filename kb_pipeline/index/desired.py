"""What a tenant should be, from its configuration: the planner's first argument."""

from __future__ import annotations

from kb_pipeline.config.schema import TenantConfig
from kb_pipeline.embed.registry import resolve_spec
from kb_pipeline.index.params import exact_below_rows, resolve_params
from kb_pipeline.planner.model import Desired

MAX_NEIGHBOURS = 128
"""HNSW indexes of other tenants in a partition above which a tenant stays exact: planning a search takes about 12 us
for each index of the partition (975 ms with 82,795, hindsight #4615), and it is to stay under 2 ms, both slots full.
"""


def desired_state(config: TenantConfig) -> Desired:
    """The configuration, resolved: no network, nothing loaded. Raises `ConfigError` naming the fix."""
    spec = resolve_spec(config.embedder)
    return Desired(
        tenant_id=config.tenant_id,
        spec=spec,
        index=resolve_params(config.index, spec.dims, spec.storage),
        exact_below_rows=exact_below_rows(config.index, spec.dims),
        review=config.promotion.mode == "review",
        recall_floor=config.eval.recall_floor,
        max_neighbours=MAX_NEIGHBOURS,
    )
