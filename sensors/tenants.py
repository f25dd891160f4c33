"""The sensor that keeps partitions and `kb.tenants` in step with the configuration."""

import dagster as dg

from kb_pipeline.partitions import PARTITIONS_NAME, TENANTS
from kb_pipeline.session import open_session


@dg.sensor(
    name="tenants",
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    asset_selection=None,
    job_name=None,
)
def tenants_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Adds a partition for each tenant that is new in kb.toml; one that left the file is paused, never deleted."""
    tenant_ids = open_session().tenant_ids()
    known = set(context.instance.get_dynamic_partitions(PARTITIONS_NAME))
    new = [tenant_id for tenant_id in tenant_ids if tenant_id not in known]
    if not new:
        return dg.SkipReason(f"{len(tenant_ids)} tenants, all of them have their partition")
    return dg.SensorResult(dynamic_partitions_requests=[TENANTS.build_add_request(new)])
