"""What a tenant holds, in a few cheap counts."""

from __future__ import annotations

from dataclasses import dataclass

from psycopg import Connection
from psycopg.rows import TupleRow

from kb_pipeline.store.contents import count_lacking
from kb_pipeline.store.versions import served_versions


@dataclass(frozen=True, slots=True)
class TenantStatus:
    """Counts of one tenant."""

    documents: int
    chunks: int
    contents: int
    """Contents that a chunk refers to."""
    orphans: int
    """Contents that no chunk refers to any more, kept for the grace period."""
    missing_embeddings: int
    """Contents in use without a vector of a version that is served; before anything is live, of the newest one."""
    quarantined_embeddings: int
    """Of the missing: texts the provider refused."""
    dead_letters: int
    state: str
    """active or paused."""


def tenant_status(conn: Connection[TupleRow], tenant_id: str) -> TenantStatus:
    """Counts of a tenant; zeros for one that has never run."""
    row = conn.execute(
        "SELECT (SELECT count(*) FROM kb.documents WHERE tenant_id = %(id)s), "
        "(SELECT count(*) FROM kb.chunks WHERE tenant_id = %(id)s), "
        "coalesce((SELECT contents FROM kb.tenants WHERE tenant_id = %(id)s), 0), "
        "(SELECT count(*) FROM kb.contents WHERE tenant_id = %(id)s AND orphaned_at IS NOT NULL), "
        "(SELECT count(*) FROM kb.dead_letters WHERE tenant_id = %(id)s), "
        "(SELECT count(DISTINCT fingerprint) FROM kb.dead_letters "
        "WHERE tenant_id = %(id)s AND stage = 'embeddings' AND content_sha256 IS NULL), "
        "coalesce((SELECT state FROM kb.tenants WHERE tenant_id = %(id)s), 'active')",
        {"id": tenant_id},
    ).fetchone()
    assert row is not None
    documents, chunks, contents, orphans, letters, quarantined, state = row
    versions = served_versions(conn, tenant_id) or _newest(conn, tenant_id)
    missing = max((count_lacking(conn, tenant_id, [version])[0] for version in versions), default=contents)
    return TenantStatus(documents, chunks, contents, orphans, missing, min(quarantined, missing), letters, state)


def _newest(conn: Connection[TupleRow], tenant_id: str) -> list[int]:
    rows = conn.execute(
        "SELECT version FROM kb.tenant_versions JOIN kb.embedding_versions USING (version) "
        "WHERE tenant_id = %s AND state <> 'retired' AND column_state = 'present' ORDER BY version DESC LIMIT 1",
        (tenant_id,),
    )
    return [row[0] for row in rows]
