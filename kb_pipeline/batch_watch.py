"""Which tenants have batch jobs that ended: what the `batches` sensor asks. Collects and writes nothing."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kb_pipeline.errors import KbError

if TYPE_CHECKING:
    from kb_pipeline.session import Session

PATIENCE_S = 40.0
"""A sensor has a minute; jobs that were not asked about by then are asked about at the next look, first."""


@dataclass(slots=True)
class Watched:
    """What a look at the jobs showed."""

    open: int = 0
    ended: dict[str, list[int]] = field(default_factory=dict[str, list[int]])
    """Tenant -> jobs that ended, that a killed run left between two steps, or that may find room in the queue now."""
    errors: dict[str, str] = field(default_factory=dict[str, str])


def ended_jobs(session: Session) -> Watched:
    """Ask the provider about every submitted job of the tenants that are known here."""
    from kb_pipeline.embed.batch_api import ENDED, BatchApi
    from kb_pipeline.stages.wanted import embedder_config
    from kb_pipeline.store.batches import NO_ROOM, all_open_jobs

    found = Watched()
    give_up = time.monotonic() + PATIENCE_S
    with session.db.connect("owner", autocommit=True) as conn:
        jobs = all_open_jobs(conn, session.tenant_ids())
    found.open = len(jobs)
    under_way: set[str] = set()
    queued: dict[str, list[int]] = {}
    for tenant_id, job in jobs:
        if job.state == "uploaded" and job.provider_state == NO_ROOM:
            queued.setdefault(tenant_id, []).append(job.job_id)
            continue
        if tenant_id in found.errors or time.monotonic() > give_up:
            under_way.add(tenant_id)
            continue
        try:
            config = embedder_config(session.tenant(tenant_id).embedder, job.spec)
            with closing(BatchApi(config, job.spec.model)) as api:
                over = job.state != "submitted" or api.poll(str(job.batch_id)).status in ENDED
        except KbError as error:
            found.errors[tenant_id] = str(error)
            continue
        if over:
            found.ended.setdefault(tenant_id, []).append(job.job_id)
        else:
            under_way.add(tenant_id)
    for tenant_id, waiting in queued.items():  # while a job is under way there is no more room than there was
        if tenant_id not in under_way:
            found.ended.setdefault(tenant_id, []).append(waiting[0])
    return found
