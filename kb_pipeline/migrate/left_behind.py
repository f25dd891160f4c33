"""Versions whose model cannot be asked any more, while a bridge may stand in for it (`[migration] bridge`).

The run goes on without them. While such a version is live, a document that changed keeps its old form, which stays
searchable; its new texts get the new version's vectors meanwhile, and it is replaced by the first run after the switch.
While such a version is in soak, documents are replaced without its vectors: they are missing there, counted and said.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from kb_pipeline.errors import ConfigError, KbError, ProviderUnavailable
from kb_pipeline.store.contents import count_lacking

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.rows import TupleRow

    from kb_pipeline.stages.wanted import Space, Wanted

log = logging.getLogger(__name__)


class LeftBehind:
    """What one run found to be unreachable."""

    def __init__(self, wanted: Wanted, *, bridge: bool) -> None:
        self._wanted = wanted
        self._bridge = bridge
        self._versions: set[int] = set()

    def __contains__(self, space: Space) -> bool:
        return not self._versions.isdisjoint(space.numbers)

    def note(self, space: Space, error: KbError) -> bool:
        """Whether the run can do without what this error ended: it is of an older model, and a bridge is asked for."""
        older = space.spec.space() != self._wanted.desired.space()
        if not (self._bridge and older and isinstance(error, ProviderUnavailable | ConfigError)):
            return False
        self._versions.update(space.numbers)
        log.warning("%s cannot be asked, the run goes on without it: %s", space.spec.model, error)
        return True

    @property
    def live(self) -> bool:
        """Whether the live version is among them: then changed documents wait for the switch."""
        return bool(self._wanted.required) and self._wanted.required[0] in self._versions

    @property
    def any(self) -> bool:
        """Whether there are some."""
        return bool(self._versions)

    def required(self) -> list[int]:
        """Versions whose vectors a document needs before it is committed."""
        return [one for one in self._wanted.required if self.live or one not in self._versions]

    def provable(self) -> list[int]:
        """Versions that must be complete when the run ends."""
        numbers = (number for space in self._wanted.spaces for number in space.numbers)
        return [number for number in numbers if number not in self._versions]

    def missing(self, conn: Connection[TupleRow], tenant_id: str) -> int:
        """Contents in use without a vector of such a version."""
        return max((count_lacking(conn, tenant_id, [number])[0] for number in self._versions), default=0)
