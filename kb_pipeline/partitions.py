"""The partitions of every asset: one per tenant, kept in step with kb.toml by the `tenants` sensor and `kb`."""

from __future__ import annotations

import dagster as dg

PARTITIONS_NAME = "tenants"

TENANTS = dg.DynamicPartitionsDefinition(name=PARTITIONS_NAME)


def add_tenants(instance: dg.DagsterInstance, tenant_ids: list[str]) -> list[str]:
    """Make a partition for each tenant that has none yet; the ones that were added."""
    known = set(instance.get_dynamic_partitions(PARTITIONS_NAME))
    new = [tenant_id for tenant_id in tenant_ids if tenant_id not in known]
    if new:
        instance.add_dynamic_partitions(PARTITIONS_NAME, new)
    return new
