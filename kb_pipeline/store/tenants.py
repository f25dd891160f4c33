"""Tenants: configuration and state, the counters a run keeps, and the manifest that was applied last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from psycopg import Connection
from psycopg.rows import TupleRow
from psycopg.types.json import Jsonb

from kb_pipeline.tenant import checked_tenant_id


def sync_tenants(
    conn: Connection[TupleRow], listed: Mapping[str, Mapping[str, Any]], *, pause_missing: bool = True
) -> tuple[list[str], list[str]]:
    """Bring the tenants of the file to Postgres: (new or resumed, paused) ids. `conn` is the owner's.

    A tenant that left the file is paused, never deleted; one that is back is resumed with its rows.
    `pause_missing=False` (there is no file) pauses nobody. Tenants that were given on the command line once stay as
    they are. Writes nothing when nothing changed.
    """
    ids = [checked_tenant_id(name) for name in listed]
    came = conn.execute(
        "INSERT INTO kb.tenants AS t (tenant_id, config) SELECT * FROM unnest(%s::text[], %s::jsonb[]) "
        "ON CONFLICT (tenant_id) DO UPDATE SET config = excluded.config, state = 'active' "
        "WHERE t.config IS DISTINCT FROM excluded.config OR t.state <> 'active' "
        "RETURNING tenant_id, config",
        (ids, [Jsonb({**listed[name], "listed": True}) for name in ids]),
    ).fetchall()
    left: list[TupleRow] = []
    if pause_missing:
        left = conn.execute(
            "UPDATE kb.tenants SET state = 'paused' "
            "WHERE state = 'active' AND config ? 'listed' AND tenant_id <> ALL(%s) RETURNING tenant_id",
            (ids,),
        ).fetchall()
    return sorted(row[0] for row in came), sorted(row[0] for row in left)


def unlisted_tenants(conn: Connection[TupleRow], listed: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Active tenants that never stood in a file, with what was remembered of them (their source)."""
    rows = conn.execute(
        "SELECT tenant_id, config FROM kb.tenants "
        "WHERE state = 'active' AND NOT config ? 'listed' AND tenant_id <> ALL(%s) ORDER BY tenant_id",
        (list(listed),),
    )
    return {tenant_id: config for tenant_id, config in rows}


def remember_tenant(conn: Connection[TupleRow], tenant_id: str, config: Mapping[str, Any]) -> None:
    """Keep a tenant that stands in no file, with its configuration (its source)."""
    conn.execute(
        "INSERT INTO kb.tenants AS t (tenant_id, config) VALUES (%s, %s) "
        "ON CONFLICT (tenant_id) DO UPDATE SET config = excluded.config, state = 'active' "
        "WHERE t.config IS DISTINCT FROM excluded.config OR t.state <> 'active'",
        (checked_tenant_id(tenant_id), Jsonb(dict(config))),
    )


def ensure_tenant(conn: Connection[TupleRow], tenant_id: str) -> None:
    """Make the tenant's row exist; one that is there stays as it is."""
    conn.execute(
        "INSERT INTO kb.tenants (tenant_id) VALUES (%s) ON CONFLICT DO NOTHING", (checked_tenant_id(tenant_id),)
    )


def applied_manifest(conn: Connection[TupleRow], tenant_id: str) -> int:
    """Output id of the manifest that was applied last; 0 when none was."""
    row = conn.execute("SELECT applied_manifest FROM kb.tenants WHERE tenant_id = %s", (tenant_id,)).fetchone()
    return row[0] if row else 0


def is_unsettled(conn: Connection[TupleRow], tenant_id: str) -> bool:
    """Whether a run that began to add contents has not ended, so that some of them may belong to no chunk."""
    row = conn.execute("SELECT unsettled FROM kb.tenants WHERE tenant_id = %s", (tenant_id,)).fetchone()
    return bool(row and row[0])


def mark_unsettled(conn: Connection[TupleRow], tenant_id: str) -> None:
    """Say, before the first content is added, that contents without a chunk may come to be."""
    conn.execute("UPDATE kb.tenants SET unsettled = true WHERE tenant_id = %s AND NOT unsettled", (tenant_id,))


def mark_settled(conn: Connection[TupleRow], tenant_id: str) -> None:
    """Say that every content without a chunk is marked as an orphan."""
    conn.execute("UPDATE kb.tenants SET unsettled = false WHERE tenant_id = %s AND unsettled", (tenant_id,))


def mark_applied(conn: Connection[TupleRow], tenant_id: str, root_id: int) -> None:
    """Say that this manifest, and everything that follows from it, is in the tables."""
    conn.execute(
        "UPDATE kb.tenants SET applied_manifest = %s WHERE tenant_id = %s AND applied_manifest <> %s",
        (root_id, tenant_id, root_id),
    )


def count_contents(conn: Connection[TupleRow], tenant_id: str, *, came: int, gone: int) -> None:
    """Keep the counters: so many contents came to be referred to, so many ceased to be. In the writing transaction."""
    if came or gone:
        conn.execute(
            "UPDATE kb.tenants SET contents = contents + %(came)s - %(gone)s, "
            "inserted_total = inserted_total + %(came)s, deleted_total = deleted_total + %(gone)s WHERE "
            "tenant_id = %(id)s",
            {"came": came, "gone": gone, "id": tenant_id},
        )
