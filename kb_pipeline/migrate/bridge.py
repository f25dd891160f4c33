"""The drift bridge: questions of the new model, turned into the old model's space while the back-fill runs.

Off by default (`[migration] bridge`). It is for an old model that its provider has switched off: nobody can make its
vectors any more, and the new ones are not all there yet. Linear maps keep most of the order (Drift-Adapter, EMNLP 2025,
arXiv 2509.23471); how much is measured on contents the map was not fitted on, and one under the floor is not used.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kb_pipeline.embed.protocol import EmbedderSpec, Vectors
from kb_pipeline.migrate import linear
from kb_pipeline.store.bridges import BridgeRow, paired_vectors, put_bridge, read_bridges, target_blocks
from kb_pipeline.store.live import read_live
from kb_pipeline.store.versions import find_version

if TYPE_CHECKING:
    from collections.abc import Iterable

    from psycopg import Connection
    from psycopg.rows import TupleRow

    from kb_pipeline.config.schema import MigrationConfig

log = logging.getLogger(__name__)

PAIRS = 5_000
"""Contents with both vectors that a map is fitted on and measured with."""
LEAST_PAIRS = 100
QUESTIONS = 300
K = 10


@dataclass(slots=True)
class Bridging:
    """Makes the bridge of one back-fill, once there are enough pairs."""

    conn: Connection[TupleRow]
    tenant_id: str
    target: EmbedderSpec
    config: MigrationConfig
    made: bool = False

    def look(self, rows: int) -> None:
        """`rows` were sent so far: makes the bridge when enough of them are stored."""
        if self.config.bridge and not self.made and rows >= PAIRS:
            self._make(least=PAIRS)

    def finish(self) -> None:
        """The back-fill is over; a small tenant's bridge is made now, and serves until the new model is live."""
        if self.config.bridge and not self.made:
            self._make(least=LEAST_PAIRS)

    def _make(self, *, least: int) -> None:
        source = find_version(self.conn, self.target)
        live = read_live(self.conn, self.tenant_id)
        if source is None or live is None or live.version == source:
            return
        known = read_bridges(self.conn, self.tenant_id, source=source)
        if known and known[0].pairs >= PAIRS * 9 // 10 - QUESTIONS:
            self.made = True
            return
        names, new, old = paired_vectors(self.conn, self.tenant_id, source, live.version, most=PAIRS)
        if len(names) < least:
            return
        row = measured(self.conn, self.tenant_id, source, live.version, self.target, names, new, old,
                       floor=self.config.bridge_floor)  # fmt: skip
        put_bridge(self.conn, self.tenant_id, row)
        self.made = True
        log.info("tenant %s: %s", self.tenant_id, in_words(row))


def measured(
    conn: Connection[TupleRow],
    tenant_id: str,
    source: int,
    target: int,
    spec: EmbedderSpec,
    names: list[bytes],
    new: Vectors,
    old: Vectors,
    *,
    floor: float,
) -> BridgeRow:
    """A map fitted on most of the pairs, and its recall@10: of the neighbours that the old vectors of the other pairs
    have by exact search, the share that their mapped new vectors find by exact search too."""
    asked = min(QUESTIONS, len(names) // 5)
    fitted = linear.fit(new[asked:], old[asked:])
    recall = recall_of(fitted(new[:asked]), old[:asked], names[:asked], target_blocks(conn, tenant_id, target))
    verdict = "pass" if recall >= floor else "fail"
    return BridgeRow(
        source, target, spec, fitted.kind, fitted.dump(), len(names) - asked, asked, recall, floor, verdict
    )


def recall_of(
    mapped: Vectors, old: Vectors, names: list[bytes], blocks: Iterable[tuple[list[bytes], Vectors]]
) -> float:
    """Mean share of the ten nearest of `old` among those of `mapped`; a content is no neighbour of its own."""
    own = {name: place for place, name in enumerate(names)}
    unit = old / np.maximum(np.linalg.norm(old, axis=1, keepdims=True), 1e-12)
    best = [_Nearest(unit), _Nearest(mapped)]
    seen = 0
    for found, vectors in blocks:
        block = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        mine = [(own[name], at) for at, name in enumerate(found) if name in own]
        for nearest in best:
            nearest.add(block, seen, mine)
        seen += len(found)
    shares = [len(set(a) & set(b)) / max(len(a), 1) for a, b in zip(best[0].places(), best[1].places(), strict=True)]
    return float(np.mean(shares)) if shares else 0.0


class _Nearest:
    def __init__(self, questions: Vectors) -> None:
        self._questions = questions
        self._scores = np.full((len(questions), K), -np.inf, np.float32)
        self._places = np.full((len(questions), K), -1, np.int64)

    def add(self, block: Vectors, start: int, own: list[tuple[int, int]]) -> None:
        scores = self._questions @ block.T
        for question, at in own:
            scores[question, at] = -np.inf
        both = np.concatenate([self._scores, scores], axis=1)
        places = np.concatenate(
            [self._places, np.broadcast_to(np.arange(start, start + len(block)), scores.shape)], axis=1
        )
        order = np.argpartition(-both, K - 1, axis=1)[:, :K]
        self._scores = np.take_along_axis(both, order, axis=1)
        self._places = np.take_along_axis(places, order, axis=1)

    def places(self) -> list[list[int]]:
        return [
            [place for place, score in zip(row, scores, strict=True) if np.isfinite(score)]
            for row, scores in zip(self._places.tolist(), self._scores.tolist(), strict=True)
        ]


def in_words(row: BridgeRow) -> str:
    """One line for a person."""
    told = (
        f"bridge from v{row.source} to v{row.target} ({row.kind}, {row.pairs:,} pairs): recall@10 {row.recall:.3f} on "
        f"{row.questions} held-out contents, at least {row.floor:g} is asked"
    )
    return f"{told}; questions of the new model are answered" if row.verdict == "pass" else f"{told}: it is not used"
