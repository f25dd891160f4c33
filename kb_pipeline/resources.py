"""The Dagster resource: a thin shell around a `Session` that holds the tenant's lock while a run lasts."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import Any

import dagster as dg
from pydantic import PrivateAttr

from kb_pipeline.errors import KbError
from kb_pipeline.processes import behind_searches
from kb_pipeline.session import Session, current_session
from kb_pipeline.stages.context import StageContext
from kb_pipeline.store.locks import tenant_lock

PARTITION_TAG = "dagster/partition"
WAITS_FOR = "waits_for"
"""Metadata of the observation with which a run ends well though it is not through: batch jobs are at the provider."""


class KnowledgeBase(dg.ConfigurableResource):  # pyright: ignore[reportMissingTypeArgument]
    """The knowledge base as the configuration describes it. One run of a tenant at a time: others wait for the lock."""

    _session: Session = PrivateAttr()

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Generator[KnowledgeBase]:
        """Open the database and take the tenant's lock, unless `kb run` holds it already."""
        tenant_id = context.run.tags.get(PARTITION_TAG) if context.run else None
        with ExitStack() as stack:
            self._session = current_session()
            stack.enter_context(behind_searches())
            if tenant_id is not None and tenant_id not in self._session.locked:
                stack.enter_context(tenant_lock(self._session.db, tenant_id, wait_s=None))
            yield self

    @property
    def session(self) -> Session:
        """The opened engine."""
        return self._session

    def ahead(self, asset: str) -> Any:
        """The summary of a stage that `kb run` began in another process, waited for; None when it is to be run here."""
        ahead = self._session.ahead
        return ahead.summary(asset) if ahead is not None and asset in ahead.stages else None

    def stage(self, context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext) -> StageContext:
        """What the engine's stages need to work for this partition's tenant in this run."""
        return self._session.stage(tenant_of(context), context.run.run_id)


def tenant_of(context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext) -> str:
    """The tenant this run is about."""
    return context.run.tags[PARTITION_TAG]


@contextmanager
def plain_failures() -> Generator[None]:
    """An engine error as a Dagster failure with its one message, so that people read that and not a traceback."""
    try:
        yield
    except KbError as error:
        raise dg.Failure(
            description=str(error), metadata={"error": type(error).__name__}, allow_retries=False
        ) from error
