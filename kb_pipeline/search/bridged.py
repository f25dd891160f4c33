"""Questions that only a new model can embed, while the old one's column is served (migrate/bridge.py)."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from kb_pipeline.embed.protocol import Embedded, Embedder, EmbedderSpec
from kb_pipeline.migrate.linear import LinearMap, load
from kb_pipeline.store.bridges import BridgeRow, read_bridges
from kb_pipeline.store.search_sql import Vector

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from psycopg import Connection
    from psycopg.rows import TupleRow

    from kb_pipeline.chunking.model import TokenCounter

TRY_AGAIN_S = 60.0
"""How long the old model is taken to be away before it is asked again."""
LOOK_AGAIN_S = 5.0
"""How long a missing bridge is taken to be missing."""


@dataclass(frozen=True, slots=True)
class Away:
    """An embedder that cannot even be made."""

    spec: EmbedderSpec
    error: Exception

    @property
    def counter(self) -> TokenCounter:
        """Raises the error."""
        raise self.error

    def embed_documents(self, texts: Sequence[str]) -> Embedded:
        """Raises the error."""
        raise self.error

    def embed_queries(self, texts: Sequence[str]) -> Embedded:
        """Raises the error."""
        raise self.error


@dataclass(slots=True)
class Bridge:
    """A map that passed its gate, with what makes the vectors that go in."""

    source: int
    target: int
    map: LinearMap
    spec: EmbedderSpec
    embedder: Embedder | None = None

    def question(self, query: str, make: Callable[[EmbedderSpec], Embedder]) -> Vector:
        """The question as the target's vector, `(dims,) float32`."""
        if self.embedder is None:
            self.embedder = make(self.spec)
        return self.mapped(self.embedder.embed_queries([query]).vectors[0])

    def mapped(self, vector: Vector) -> Vector:
        """A vector of the source in the target's space."""
        unit = vector / max(float(np.linalg.norm(vector)), 1e-12)
        return self.map(unit[None, :].astype(np.float32))[0]


@dataclass(slots=True)
class Bridges:
    """The bridges of all tenants as they were last read. Safe for use by several threads: entries are replaced."""

    _known: dict[tuple[str, int | None], tuple[float, Bridge | None]] = field(
        default_factory=lambda: dict[tuple[str, int | None], tuple[float, Bridge | None]]()
    )
    _away: dict[tuple[str, int], float] = field(default_factory=dict[tuple[str, int], float])

    def away(self, tenant: str, version: int) -> bool:
        """Whether the embedder of this version failed a short while ago."""
        return time.monotonic() < self._away.get((tenant, version), 0.0)

    def failed(self, tenant: str, version: int) -> None:
        """The embedder of this version failed just now."""
        self._away[tenant, version] = time.monotonic() + TRY_AGAIN_S

    def find(
        self,
        connect: Callable[[], AbstractContextManager[Connection[TupleRow]]],
        tenant: str,
        *,
        target: int,
        source: int | None = None,
    ) -> Bridge | None:
        """The bridge to the live version `target` (from `source`, where that is given) that passed its gate."""
        at, bridge = self._known.get((tenant, source), (0.0, None))
        if bridge is not None and bridge.target == target:
            return bridge
        if bridge is None and time.monotonic() < at:
            return None
        rows: list[BridgeRow]
        with connect() as conn:
            rows = read_bridges(conn, tenant, source=source)
        row = next((row for row in rows if row.target == target and row.verdict == "pass"), None)
        found = None if row is None else Bridge(row.source, row.target, load(row.kind, row.map), row.spec)
        self._known[tenant, source] = (time.monotonic() + LOOK_AGAIN_S, found)
        return found
