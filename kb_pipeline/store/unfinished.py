"""What earlier runs left to be done, for all tenants in one statement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import Connection
from psycopg.rows import TupleRow

from kb_pipeline.store.batches import OPEN


@dataclass(frozen=True, slots=True)
class Unfinished:
    """Of one tenant."""

    documents: bool = False
    """It has indexed documents."""
    unsettled: bool = False
    """A run that began to add contents has not ended."""
    batch_jobs: int = 0
    """At the provider, or not yet collected."""
    builds: bool = False
    """An index build is `building`, or the index of one that failed or was dropped still exists: without a run under
    way, a crash left it."""


def unfinished(conn: Connection[TupleRow], tenant_ids: Sequence[str]) -> dict[str, Unfinished]:
    """For each of these tenants, known or not. `conn` is the owner's."""
    rows = conn.execute(
        "SELECT i.id, EXISTS (SELECT FROM kb.documents d WHERE d.tenant_id = i.id), coalesce(t.unsettled, false), "
        "(SELECT count(*) FROM kb.batch_jobs j WHERE j.tenant_id = i.id AND j.state = ANY(%s)), "
        "EXISTS (SELECT FROM kb.builds b WHERE b.tenant_id = i.id AND (b.state = 'building' OR "
        "b.state IN ('failed', 'dropped') AND to_regclass('kb.' || b.index_name) IS NOT NULL)) "
        "FROM unnest(%s::text[]) AS i (id) LEFT JOIN kb.tenants t ON t.tenant_id = i.id",
        (list(OPEN), list(tenant_ids)),
    )
    return {row[0]: Unfinished(*row[1:]) for row in rows}
