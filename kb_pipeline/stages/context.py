"""What every stage is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from kb_pipeline.config.schema import Settings, TenantConfig
from kb_pipeline.staging import Staging
from kb_pipeline.store.database import Database


class TaskHandle(Protocol):
    """A piece of work under way, shown to a person."""

    def advance(self, n: int = 1, **facts: object) -> None:
        """`n` more units are done; facts (retries, cost) stand beside the numbers."""
        ...

    def done(self) -> None:
        """The work has ended, well or not."""
        ...


class Progress(Protocol):
    """Where stages report how far they are. The engine never prints."""

    def task(self, name: str, total: int | None, unit: str) -> TaskHandle:
        """A new piece of work towards `total` units (None: not known)."""
        ...


class NullProgress:
    """Shows nothing."""

    def task(self, name: str, total: int | None, unit: str) -> TaskHandle:
        """A task that shows nothing."""
        return NullTask()


class NullTask:
    """A task that shows nothing."""

    def advance(self, n: int = 1, **facts: object) -> None:
        """Ignored."""

    def done(self) -> None:
        """Ignored."""


@dataclass(frozen=True, slots=True)
class StageContext:
    """One run of one tenant."""

    settings: Settings
    tenant: TenantConfig
    db: Database
    staging: Staging
    run_id: str
    progress: Progress
    processes: int = 1
    """How many a stage may work with. More than one where it may fork: not beside the threads of a Dagster run."""

    @property
    def tenant_id(self) -> str:
        """The tenant's id, checked."""
        return self.tenant.tenant_id
