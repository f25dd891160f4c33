"""What maintenance looks at and does in Postgres: leftovers over all tenants, dead rows, statistics."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from psycopg import Connection, sql
from psycopg.rows import TupleRow

VACUUM_ROWS = 1_000
"""Dead rows under which a table is never worth a VACUUM."""
VACUUM_PERCENT = 10
"""Dead rows, in percent of the live ones, from which it is: dead elements of an HNSW are walked through for nothing."""
ANALYZE_PERCENT = 10


@dataclass(frozen=True, slots=True)
class TableState:
    """A table of ours as the statistics see it."""

    name: str
    live: int
    dead: int
    modified: int
    """Rows changed since it was last analyzed."""
    updates: int
    hot_updates: int
    bytes: int
    """With indexes and TOAST."""

    @property
    def wants_vacuum(self) -> bool:
        """Dead rows pass the threshold."""
        return self.dead >= VACUUM_ROWS and self.dead * 100 >= self.live * VACUUM_PERCENT

    @property
    def wants_analyze(self) -> bool:
        """The planner's numbers are off."""
        return self.modified >= VACUUM_ROWS and self.modified * 100 >= self.live * ANALYZE_PERCENT


def tables(conn: Connection[TupleRow]) -> list[TableState]:
    """All tables of schema `kb` that hold rows, largest first."""
    conn.execute("SELECT pg_stat_clear_snapshot()")
    rows = conn.execute(
        "SELECT relname, n_live_tup, n_dead_tup, n_mod_since_analyze, n_tup_upd, n_tup_hot_upd, "
        "pg_total_relation_size(relid) FROM pg_stat_user_tables WHERE schemaname = 'kb' ORDER BY 7 DESC"
    )
    return [TableState(*row) for row in rows]


def vacuum(conn: Connection[TupleRow], table: str) -> None:
    """Takes the dead rows out of a table and its indexes. `conn` is the owner's, in autocommit; hold the build lock:
    beside a CREATE INDEX CONCURRENTLY it waits, and its snapshot makes the build wait."""
    conn.execute(sql.SQL("VACUUM (ANALYZE false) {}").format(sql.Identifier("kb", table)))


def analyze_table(conn: Connection[TupleRow], table: str) -> None:
    """Statistics of a table. Of contents only what helps a plan: vectors and texts would be read from TOAST."""
    columns = sql.SQL(" (tenant_id, fingerprint, orphaned_at)" if table.startswith("contents") else "")
    conn.execute(sql.SQL("ANALYZE {}{}").format(sql.Identifier("kb", table), columns))


def leaving_builds(conn: Connection[TupleRow]) -> list[tuple[str, int, str, int, float]]:
    """(tenant, build, why, bytes, seconds in its state) of builds that nothing goes to or back to: refused candidates
    and those that were passed over, of tenants with a live build; and every previous build, to be held against the soak
    of its tenant."""
    rows = conn.execute(
        "SELECT b.tenant_id, b.build_id, CASE WHEN b.state = 'previous' THEN CASE WHEN b.build_id = "
        "l.previous_build_id THEN 'soak' ELSE 'replaced' END WHEN b.build_id < l.build_id THEN 'passed over' "
        "ELSE 'refused' END, coalesce(b.bytes, 0), extract(epoch FROM clock_timestamp() - b.changed_at)::float8 "
        "FROM kb.builds b JOIN kb.live l USING (tenant_id) WHERE b.state = 'previous' OR b.state = 'candidate' AND "
        "(b.build_id < l.build_id OR (SELECT e.verdict FROM kb.eval_runs e WHERE e.tenant_id = b.tenant_id "
        "AND e.build_id = b.build_id ORDER BY e.eval_id DESC LIMIT 1) = 'fail') ORDER BY b.build_id"
    )
    return [(row[0], row[1], row[2], row[3], row[4]) for row in rows]


def tenants_with_orphans(conn: Connection[TupleRow], older_than: timedelta) -> dict[str, int]:
    """Tenant -> contents that have been orphans for longer than this."""
    rows = conn.execute(
        "SELECT tenant_id, count(*) FROM kb.contents WHERE orphaned_at < now() - %s::interval GROUP BY tenant_id",
        (older_than,),
    )
    return {tenant_id: count for tenant_id, count in rows}


def staged_urls(conn: Connection[TupleRow]) -> set[str]:
    """URLs of all registered staged outputs."""
    return {row[0] for row in conn.execute("SELECT url FROM kb.stage_outputs")}
