"""What can be wrong with a database, each finding with why it matters and the command that mends it."""

from __future__ import annotations

from dataclasses import dataclass

from psycopg import Connection
from psycopg.rows import TupleRow

from kb_pipeline.store.index_ddl import INDEX_PREFIX


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing a person should know."""

    check: str
    """Short stable name, for scripts."""
    ok: bool
    finding: str
    """What was found."""
    why: str = ""
    """Why it matters; empty when all is well."""
    fix: str = ""
    """The command that mends it."""
    tenant_id: str | None = None


def server_versions(conn: Connection[TupleRow]) -> Finding:
    """Postgres and pgvector; both were checked when the database was opened."""
    row = conn.execute(
        "SELECT current_setting('server_version'), extversion FROM pg_extension WHERE extname = 'vector'"
    ).fetchone()
    postgres, pgvector = row or ("unknown", "missing")
    return Finding("versions", True, f"Postgres {postgres}, pgvector {pgvector}")


def removed_contents(conn: Connection[TupleRow]) -> int:
    """Contents that documents of any tenant ceased to refer to, ever. `conn` is the owner's."""
    row = conn.execute("SELECT coalesce(sum(deleted_total), 0)::bigint FROM kb.tenants").fetchone()
    return row[0] if row else 0


def index_faults(conn: Connection[TupleRow]) -> list[Finding]:
    """Indexes that are INVALID or belong to no build, and builds whose index is gone. Empty while a build runs."""
    indexes: dict[str, bool] = dict(
        conn.execute(
            "SELECT c.relname, i.indisvalid FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
            "WHERE c.relnamespace = 'kb'::regnamespace AND starts_with(c.relname, %s)",
            (INDEX_PREFIX,),
        ).fetchall()
    )
    builds = {
        f"{INDEX_PREFIX}{build_id}": (tenant_id, state)
        for build_id, tenant_id, state in conn.execute(
            "SELECT build_id, tenant_id, state FROM kb.builds"
            " WHERE method = 'hnsw' AND state IN ('building', 'candidate', 'live', 'previous')"
        )
    }
    mend = "`kb run` repairs it before it does anything else"
    found = [
        Finding(
            "indexes",
            False,
            f"index {name} is left over from a build that did not end",
            "it costs every insert and is never searched",
            mend,
        )
        for name in indexes
        if name not in builds
    ]
    for name, (tenant_id, state) in builds.items():
        if state == "building":
            continue
        if name not in indexes:
            found.append(
                Finding(
                    "indexes",
                    False,
                    f"{state} build {name} has no index",
                    "searches scan every row",
                    "`kb rebuild`",
                    tenant_id,
                )
            )
        elif not indexes[name]:
            found.append(
                Finding(
                    "indexes",
                    False,
                    f"the index of {state} build {name} is INVALID",
                    "searches do not use it",
                    mend,
                    tenant_id,
                )
            )
    return found


def orphan_urls(conn: Connection[TupleRow]) -> set[str]:
    """URLs of registered staged outputs; a folder that is none of them is left over."""
    return {row[0] for row in conn.execute("SELECT url FROM kb.stage_outputs")}


def connections(conn: Connection[TupleRow]) -> Finding:
    """How many connections are used, of how many."""
    row = conn.execute(
        "SELECT sum(numbackends), current_setting('max_connections')::int FROM pg_stat_database"  # all roles see it
    ).fetchone()
    used, limit = row or (0, 1)
    if used < 0.9 * limit:
        return Finding("connections", True, f"{used} of {limit} connections used")
    return Finding(
        "connections",
        False,
        f"{used} of {limit} connections used",
        "the next run may be refused",
        "raise max_connections, or put a pooler before the searches",
    )
