"""The sensor that keeps partitions and `kb.tenants` in step with the configuration."""

import dagster as dg

from kb_pipeline.partitions import PARTITIONS_NAME, TENANTS
from kb_pipeline.session import open_session
from kb_pipeline.store.overview import tenant_rows


@dg.sensor(
    name="tenants",
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    asset_selection=None,
    job_name=None,
)
def tenants_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Adds a partition for each new tenant of kb.toml, removes those of dropped ones; who left the file is paused."""
    session = open_session()
    with session.db.connect("owner") as conn:
        existing = {row["tenant"] for row in tenant_rows(conn)}
    known = set(context.instance.get_dynamic_partitions(PARTITIONS_NAME))
    new = [tenant_id for tenant_id in session.tenant_ids() if tenant_id not in known]
    dropped = sorted(known - existing)
    if not new and not dropped:
        return dg.SkipReason(f"{len(known)} tenants, each has its partition")
    requests = [TENANTS.build_add_request(new)] if new else []
    requests += [TENANTS.build_delete_request(dropped)] if dropped else []
    return dg.SensorResult(dynamic_partitions_requests=requests)
