"""Tenants that stay with their live model although the configuration names another: paused, aborted, rolled back."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kb_pipeline.config.schema import Settings
from kb_pipeline.errors import KbError

if TYPE_CHECKING:
    from kb_pipeline.store.migrations_state import Hold

log = logging.getLogger(__name__)


def held_back(
    settings: Settings, stored: dict[str, dict[str, Any]], holds: Mapping[str, Hold]
) -> tuple[Settings, dict[str, dict[str, Any]]]:
    """The settings, and the configuration of tenants that are not in the file (`stored`), with the live model in place
    of the configured one for tenants whose change of model is held.

    Everything that asks what a tenant should be starts from the settings, so this is the only place that knows of
    holds. A tenant whose configuration names yet another model than the one held goes on to that one.
    """
    if not holds:
        return settings, stored
    from kb_pipeline.embed.registry import resolve_spec
    from kb_pipeline.stages.wanted import embedder_config

    listed, unlisted = dict(settings.tenants), dict(stored)
    for tenant_id, hold in holds.items():
        own = settings.tenants.get(tenant_id, stored.get(tenant_id, {}))
        try:
            configured = settings.model_copy(update={"tenants": {tenant_id: own}}).tenant(tenant_id).embedder
            if resolve_spec(configured).hash() != hold.target_hash:
                continue
        except (KbError, ValueError) as error:  # said again, to the person, by whatever asks for this tenant
            log.debug("tenant %s: %s", tenant_id, error)
            continue
        changed = {**own, "embedder": embedder_config(configured, hold.live).model_dump()}
        (unlisted if tenant_id in stored else listed)[tenant_id] = changed
    return settings.model_copy(update={"tenants": listed}), unlisted
