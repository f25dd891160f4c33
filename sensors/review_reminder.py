"""The sensor that reports candidates which wait for a person for too long."""

from datetime import timedelta

import dagster as dg

from kb_pipeline.config.durations import parse_duration
from kb_pipeline.session import open_session
from kb_pipeline.store.reviews import Waiting, waiting_builds


@dg.sensor(
    name="review_reminder",
    description="Reports builds that passed and wait for a decision longer than `[promotion] remind_after`.",
    minimum_interval_seconds=3600,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def review_reminder_sensor(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """Never starts a run: it says in its tick, and as a warning in its log, which build of which tenant waits."""
    session = open_session()
    listed = set(session.tenant_ids())
    with session.db.connect("owner") as conn:
        found = [one for one in waiting_builds(conn) if one.tenant_id in listed]
    promotions = {one.tenant_id: session.tenant(one.tenant_id).promotion for one in found}
    late = [
        one
        for one in found
        if promotions[one.tenant_id].mode == "review"
        and timedelta(hours=one.hours) >= parse_duration(promotions[one.tenant_id].remind_after)
    ]
    for one in late:
        context.log.warning(words(one))
    if late:
        return dg.SkipReason(
            "; ".join(words(one) for one in late[:10]) + (f"; {len(late) - 10} more" * (len(late) > 10))
        )
    return dg.SkipReason("no build waits too long for a decision")


def words(waiting: Waiting) -> str:
    """One waiting build, in a sentence."""
    return (
        f"tenant {waiting.tenant_id}: build {waiting.build_id} passed in eval run {waiting.eval_id} and waits for a "
        f"decision since {waiting.since} ({waiting.hours:,.0f} hours)"
    )
