"""Calls of the search functions (migration 0004_search.sql), which hold the only ANN SQL. One round trip each.

`kb.tenant` is set within the statement, and only for it, and handed on by the join, so it is set before the function
checks it: a pooled connection carries no tenant from one search to the next.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from psycopg import Connection
from psycopg.rows import TupleRow

from kb_pipeline.search.hit import Hit

Vector = npt.NDArray[np.float32]

_SEARCH = (
    "SELECT s.build_id, s.found, s.version, s.doc_id, s.uri, s.ordinal, s.start_offset, s.end_offset, "
    "s.heading_path, s.body, "
    "1 - s.distance, s.metadata, s.also_in FROM set_config('kb.tenant', %s, true) t (id), "
    "kb.search(t.id, %s::int, %b, %s::int, %s::int, %s, %s::int, %s::int, %s::jsonb, %s) s"
)
_SEARCH_BUILD = (
    "SELECT s.fingerprint, s.distance FROM set_config('kb.tenant', %s, true) t (id), "
    "kb.search_build(t.id, %s::bigint, %b, %s::int, %s::int, %s::jsonb) s"
)


@dataclass(frozen=True, slots=True)
class Moved:
    """Another version is live, or none: the query vector does not fit what is served."""

    version: int | None
    embedder: dict[str, Any] | None
    """Description of the live version's embedder, so that the next question needs no look-up."""


@dataclass(frozen=True, slots=True)
class Found:
    """Results of one version, nearest first."""

    hits: list[Hit]
    more: bool
    """There may be further ones."""


def search_live(
    conn: Connection[TupleRow],
    tenant_id: str,
    version: int,
    vector: Vector,
    *,
    n: int,
    ef: int | None,
    profile: str,
    fallback_ef: int,
    at_least: int,
    conditions: str,
    lenient: bool = False,
) -> Found | Moved:
    """The n nearest of what is live, if that is `version` (or, `lenient`, one in soak). `conditions` as `filters.wire`
    writes them.

    ef_search is `ef`, else what the build has fitted for the profile, else `fallback_ef`; `at_least` and 1,000 bound
    it.
    """
    values = (tenant_id, version, vector, n, ef, profile, fallback_ef, at_least, conditions, lenient)
    with conn.cursor(binary=True) as cursor:
        rows = cursor.execute(_SEARCH, values, prepare=True).fetchall()
    if rows and rows[0][0] is None:
        return Moved(rows[0][2], rows[0][11])
    hits = [Hit(*row[3:]) for row in rows if row[3] is not None]
    return Found(hits, more=bool(rows) and rows[0][1] >= n)


def search_build(
    conn: Connection[TupleRow],
    tenant_id: str,
    build_id: int,
    vector: Vector,
    k: int,
    ef_search: int | None = None,
    conditions: str = "[]",
) -> list[tuple[bytes, float]]:
    """(fingerprint, cosine distance) of the k nearest contents of any standing build, live or not: what evaluations
    measure.

    The same ANN SQL as a search, before places are looked up and equal texts folded. `ef_search` is taken as it is;
    None: as the default profile has it.
    """
    values = (tenant_id, build_id, vector, k, ef_search, conditions)
    with conn.cursor(binary=True) as cursor:
        return [(row[0], row[1]) for row in cursor.execute(_SEARCH_BUILD, values, prepare=True)]


def live_embedder(conn: Connection[TupleRow], tenant_id: str) -> Moved:
    """The live version and its embedder, both None when nothing is live. For the first search only: later ones learn of
    a change."""
    row = conn.execute(
        "SELECT l.version, v.embedder FROM set_config('kb.tenant', %s, true) t (id), kb.live l JOIN "
        "kb.embedding_versions v "
        "USING (version) WHERE l.tenant_id = t.id",
        (tenant_id,),
    ).fetchone()
    return Moved(*row) if row else Moved(None, None)
