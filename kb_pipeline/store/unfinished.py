"""What earlier runs left to be done, for all tenants in one statement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import Connection
from psycopg.rows import TupleRow

from kb_pipeline.store.batches import OPEN
from kb_pipeline.store.locks import building


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
    """A crash left an index build: `building`, or failed or dropped and its index is still there. Not said while
    somebody builds, because it may be that one."""


def unfinished(conn: Connection[TupleRow], tenant_ids: Sequence[str]) -> dict[str, Unfinished]:
    """For each of these tenants, known or not. `conn` is the owner's."""
    busy = building(conn)
    rows = conn.execute(
        "SELECT i.id, EXISTS (SELECT FROM kb.documents d WHERE d.tenant_id = i.id), coalesce(t.unsettled, false), "
        "(SELECT count(*) FROM kb.batch_jobs j WHERE j.tenant_id = i.id AND j.state = ANY(%s)), "
        "NOT %s AND EXISTS (SELECT FROM kb.builds b WHERE b.tenant_id = i.id AND (b.state = 'building' OR "
        "b.state IN ('failed', 'dropped') AND to_regclass('kb.' || b.index_name) IS NOT NULL)) "
        "FROM unnest(%s::text[]) AS i (id) LEFT JOIN kb.tenants t ON t.tenant_id = i.id",
        (list(OPEN), busy, list(tenant_ids)),
    )
    return {row[0]: Unfinished(*row[1:]) for row in rows}
