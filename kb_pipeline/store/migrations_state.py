"""Changes of the embedding model: which are under way, which a person held back."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal

from psycopg import Connection
from psycopg.rows import TupleRow, class_row
from psycopg.types.json import Jsonb

from kb_pipeline.embed.protocol import EmbedderSpec

MigrationState = Literal["running", "paused", "aborted", "rolled back"]


@dataclass(frozen=True, slots=True)
class MigrationRow:
    """One row of `kb.migrations`."""

    tenant_id: str
    target_hash: bytes
    target: dict[str, Any]
    state: MigrationState
    changed_by: str
    changed_at: datetime
    rows_done: int
    rows_total: int
    rows_per_second: float
    progress_at: datetime | None

    @property
    def held(self) -> bool:
        """The tenant stays with the live model although another is configured."""
        return self.state != "running"


@dataclass(frozen=True, slots=True)
class Hold:
    """A tenant that stays with its live model."""

    target_hash: bytes
    live: EmbedderSpec


def read_migration(conn: Connection[TupleRow], tenant_id: str) -> MigrationRow | None:
    """The tenant's newest change of model, whatever became of it."""
    with conn.cursor(row_factory=class_row(MigrationRow)) as cursor:
        return cursor.execute(
            "SELECT tenant_id, target_hash, target, state, changed_by, changed_at, rows_done, rows_total, "
            "rows_per_second, progress_at FROM kb.migrations WHERE tenant_id = %s",
            (tenant_id,),
        ).fetchone()


def read_holds(conn: Connection[TupleRow]) -> dict[str, Hold]:
    """Tenants that a person keeps with their live model. One statement for all of them; `conn` is the owner's."""
    rows = conn.execute(
        "SELECT m.tenant_id, m.target_hash, v.embedder FROM kb.migrations m JOIN kb.live l USING (tenant_id) "
        "JOIN kb.embedding_versions v ON v.version = l.version "
        "WHERE m.state <> 'running' AND v.embedder_hash <> m.target_hash"
    ).fetchall()
    return {tenant: Hold(target, EmbedderSpec(**live)) for tenant, target, live in rows}


def put_migration(
    conn: Connection[TupleRow], tenant_id: str, target: EmbedderSpec, state: MigrationState, *, by: str = ""
) -> None:
    """Write down what is to become of the change to this embedder; another one's row is replaced."""
    conn.execute(
        "INSERT INTO kb.migrations AS m (tenant_id, target_hash, target, state, changed_by) "
        "VALUES (%(t)s, %(hash)s, %(target)s, %(state)s, %(by)s) ON CONFLICT (tenant_id) DO UPDATE SET "
        "state = excluded.state, changed_by = excluded.changed_by, changed_at = now(), target = excluded.target, "
        "started_at = CASE WHEN m.target_hash = excluded.target_hash THEN m.started_at ELSE now() END, "
        "rows_done = CASE WHEN m.target_hash = excluded.target_hash THEN m.rows_done ELSE 0 END, "
        "rows_total = CASE WHEN m.target_hash = excluded.target_hash THEN m.rows_total ELSE 0 END, "
        "target_hash = excluded.target_hash",
        {"t": tenant_id, "hash": target.hash(), "target": Jsonb(asdict(target)), "state": state, "by": by},
    )


def begin_migration(conn: Connection[TupleRow], tenant_id: str, target: EmbedderSpec, *, total: int) -> None:
    """A run back-fills this embedder's version now; what a person said of it meanwhile stays."""
    with conn.transaction():
        row = conn.execute(
            "SELECT FROM kb.migrations WHERE tenant_id = %s AND target_hash = %s", (tenant_id, target.hash())
        ).fetchone()
        if row is None:
            put_migration(conn, tenant_id, target, "running")
            ask_again(conn, tenant_id, target)
    note_progress(conn, tenant_id, done=0, total=total, per_second=0.0)


def note_progress(
    conn: Connection[TupleRow], tenant_id: str, *, done: int, total: int, per_second: float
) -> MigrationState | None:
    """Where the back-fill stands, for `kb migrate status`; answers what a person said of it meanwhile."""
    row = conn.execute(
        "UPDATE kb.migrations SET rows_done = %s, rows_total = %s, rows_per_second = %s, progress_at = now() "
        "WHERE tenant_id = %s RETURNING state",
        (done, total, per_second, tenant_id),
    ).fetchone()
    return row[0] if row else None


def settle_switch(
    conn: Connection[TupleRow], tenant_id: str, before: int | None, now: int, *, back: bool, by: str
) -> None:
    """Another version went live: going back holds the tenant there, so that the next run does not go forward again by
    itself; a version that goes live is held no longer. In the transaction of the switch."""
    if before is None or before == now:
        return
    released = conn.execute(
        "UPDATE kb.migrations m SET state = 'running', changed_at = now(), changed_by = %s "
        "FROM kb.embedding_versions v WHERE m.tenant_id = %s AND v.version = %s AND v.embedder_hash = m.target_hash "
        "AND m.state <> 'running'",
        (by, tenant_id, now),
    ).rowcount
    if back and not released:
        row = conn.execute("SELECT embedder FROM kb.embedding_versions WHERE version = %s", (before,)).fetchone()
        if row is not None:
            put_migration(conn, tenant_id, EmbedderSpec(**row[0]), "rolled back", by=by)


def spent_on(conn: Connection[TupleRow], tenant_id: str, model: str) -> float:
    """Dollars the tenant spent on a model since its change of model began."""
    row = conn.execute(
        "SELECT coalesce(sum(s.usd), 0)::float8 FROM kb.spend s JOIN kb.migrations m USING (tenant_id) "
        "WHERE s.tenant_id = %s AND s.model = %s AND s.day >= m.started_at::date",
        (tenant_id, model),
    ).fetchone()
    return row[0] if row else 0.0


def ask_again(conn: Connection[TupleRow], tenant_id: str, target: EmbedderSpec) -> None:
    """What was built for this embedder and dropped is no answer any more: the planner builds and measures anew."""
    conn.execute(
        "UPDATE kb.builds b SET detail = b.detail || '{\"asked_again\": true}' FROM kb.embedding_versions v "
        "WHERE b.tenant_id = %s AND v.embedder_hash = %s AND b.version = v.version AND b.state = 'dropped'",
        (tenant_id, target.hash()),
    )
