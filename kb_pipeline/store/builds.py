"""The table of builds: `building -> candidate -> live -> previous -> dropped`, or `failed`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from psycopg import Connection
from psycopg.rows import TupleRow, class_row
from psycopg.types.json import Jsonb

from kb_pipeline.planner.model import IndexParams
from kb_pipeline.store.contents import column
from kb_pipeline.store.index_ddl import index_name

STANDING = ("building", "candidate", "live", "previous")
"""States of a build that takes its slot."""


@dataclass(frozen=True, slots=True)
class BuildRow:
    """One row of `kb.builds`."""

    build_id: int
    tenant_id: str
    version: int
    method: str
    slot: str | None
    params: dict[str, Any]
    state: str
    rows_at_build: int
    index_name: str | None
    since_s: float
    """Seconds since its state last changed, by the server's clock."""


_SELECT = (
    "SELECT build_id, tenant_id, version, method, slot, params, state, rows_at_build, index_name, "
    "extract(epoch FROM clock_timestamp() - changed_at)::float8 AS since_s FROM kb.builds "
)


def standing_builds(conn: Connection[TupleRow], tenant_id: str) -> list[BuildRow]:
    """The tenant's builds that still exist, oldest first."""
    with conn.cursor(row_factory=class_row(BuildRow)) as cursor:
        return cursor.execute(
            _SELECT + "WHERE tenant_id = %s AND state = ANY(%s) ORDER BY build_id", (tenant_id, list(STANDING))
        ).fetchall()


def read_build(conn: Connection[TupleRow], tenant_id: str, build_id: int) -> BuildRow | None:
    """One build of the tenant, in whatever state."""
    with conn.cursor(row_factory=class_row(BuildRow)) as cursor:
        return cursor.execute(_SELECT + "WHERE tenant_id = %s AND build_id = %s", (tenant_id, build_id)).fetchone()


def rows_with_vector(conn: Connection[TupleRow], tenant_id: str, version: int) -> tuple[int, int]:
    """(contents in use with a vector of the version, all rows with one: what an index takes)."""
    from psycopg import sql

    row = conn.execute(
        sql.SQL(
            "SELECT count(*) FILTER (WHERE orphaned_at IS NULL), count(*) FROM kb.contents WHERE tenant_id = "
            "%s AND {} IS NOT NULL"
        ).format(column(version)),
        (tenant_id,),
    ).fetchone()
    return (row[0], row[1]) if row else (0, 0)


def add_build(
    conn: Connection[TupleRow],
    tenant_id: str,
    *,
    version: int,
    slot: str | None,
    params: IndexParams | None,
    rows: int,
    state: str,
    run_id: str,
    detail: Mapping[str, Any],
) -> int:
    """A new build (`hnsw` with a slot and parameters, else `exact`), with the tenant's totals as they are now; its
    number."""
    with conn.transaction():
        row = conn.execute(
            "INSERT INTO kb.builds (tenant_id, version, method, slot, params, rows_at_build, "
            "inserted_at_build, deleted_at_build, "
            "state, run_id, detail) SELECT tenant_id, %s, %s, %s, %s, %s, inserted_total, deleted_total, %s, %s, %s "
            "FROM kb.tenants WHERE tenant_id = %s RETURNING build_id",
            (
                version,
                "exact" if slot is None else "hnsw",
                slot,
                Jsonb(asdict(params) if params else {}),
                rows,
                state,
                run_id,
                Jsonb(dict(detail)),
                tenant_id,
            ),
        ).fetchone()
        assert row is not None, "the tenant has a row"
        build_id = int(row[0])
        if slot is not None:
            conn.execute("UPDATE kb.builds SET index_name = %s WHERE build_id = %s", (index_name(build_id), build_id))
    return build_id


def finish_build(
    conn: Connection[TupleRow], build_id: int, *, seconds: float, detail: Mapping[str, Any]
) -> tuple[str, int]:
    """`building` becomes `candidate` if its index is valid, else nothing changes: (new state, bytes of the index)."""
    row = conn.execute(
        "UPDATE kb.builds b SET state = 'candidate', changed_at = now(), seconds = %s, bytes = "
        "pg_relation_size(i.indexrelid), "
        "detail = b.detail || %s FROM pg_index i WHERE b.build_id = %s AND b.state = 'building' AND i.indisvalid "
        "AND i.indexrelid = to_regclass('kb.' || quote_ident(b.index_name)) RETURNING b.state, b.bytes",
        (seconds, Jsonb(dict(detail)), build_id),
    ).fetchone()
    return (row[0], row[1]) if row else ("building", 0)


def fail_build(conn: Connection[TupleRow], build_id: int, error: str) -> None:
    """`building` becomes `failed`, with the reason."""
    conn.execute(
        "UPDATE kb.builds SET state = 'failed', changed_at = now(), detail = detail || "
        "jsonb_build_object('error', %s::text) "
        "WHERE build_id = %s AND state = 'building'",
        (error, build_id),
    )


def mark_dropped(conn: Connection[TupleRow], tenant_id: str, build_id: int) -> bool:
    """A candidate or previous build becomes `dropped`, and what pointed at it lets go; whether it did. One transaction.

    With the last build of a version in soak the version is `retired`: nobody can search it, so nothing fills it any
    more.
    """
    with conn.transaction():
        row = conn.execute(
            "UPDATE kb.builds SET state = 'dropped', changed_at = now() "
            "WHERE tenant_id = %s AND build_id = %s AND state IN ('candidate', 'previous') RETURNING version",
            (tenant_id, build_id),
        ).fetchone()
        if row is None:
            return False
        released = conn.execute(
            "UPDATE kb.live SET previous_build_id = NULL, previous_version = NULL WHERE tenant_id = %s AND "
            "previous_build_id = %s",
            (tenant_id, build_id),
        ).rowcount
        if released:
            conn.execute(
                "UPDATE kb.tenant_versions t SET state = 'retired', changed_at = now() WHERE tenant_id = %(t)s "
                "AND version = %(v)s "
                "AND state = 'previous' AND NOT EXISTS (SELECT FROM kb.live l WHERE l.tenant_id = %(t)s AND "
                "l.version = %(v)s)",
                {"t": tenant_id, "v": row[0]},
            )
        return True


@dataclass(frozen=True, slots=True)
class Fitted:
    """What a build's ef_search was fitted to."""

    recall: float
    auto: bool
    """Not: nothing was said, so the usual widths were raised if need be."""


def keep_fitted(
    conn: Connection[TupleRow], tenant_id: str, build_id: int, ef_search: Mapping[str, int], to: Fitted
) -> None:
    """Keeps ef_search by profile with a build (none: the usual ones), and what it was fitted to: `kb.search` takes it
    where neither the request nor the configuration says another."""
    conn.execute(
        "UPDATE kb.builds SET params = params - 'ef_search' || %s::jsonb, detail = detail || "
        "jsonb_build_object('fitted_to', %s::float8, 'fitted_auto', %s::bool) WHERE tenant_id = %s AND build_id = %s",
        (Jsonb({"ef_search": dict(ef_search)} if ef_search else {}), to.recall, to.auto, tenant_id, build_id),
    )


def read_fitted(conn: Connection[TupleRow], tenant_id: str, build_id: int) -> Fitted | None:
    """What the build's ef_search was fitted to; None when that was not done."""
    row = conn.execute(
        "SELECT (detail ->> 'fitted_to')::float8, coalesce((detail ->> 'fitted_auto')::bool, true) FROM kb.builds "
        "WHERE tenant_id = %s AND build_id = %s AND detail ? 'fitted_to'",
        (tenant_id, build_id),
    ).fetchone()
    return Fitted(*row) if row else None


def note_refusal(conn: Connection[TupleRow], tenant_id: str, build_id: int, eval_id: int) -> bool:
    """Writes down that a person was told of this eval run's refusal; False when that was done before."""
    return (
        conn.execute(
            "UPDATE kb.builds SET detail = detail || jsonb_build_object('refusal_told', %(e)s::bigint) WHERE tenant_id "
            "= %(t)s AND build_id = %(b)s AND (detail ->> 'refusal_told')::bigint IS DISTINCT FROM %(e)s",
            {"t": tenant_id, "b": build_id, "e": eval_id},
        ).rowcount
        > 0
    )


def unfinished_builds(conn: Connection[TupleRow]) -> list[tuple[int, str]]:
    """(number, tenant) of builds of all tenants that are `building`."""
    rows = conn.execute("SELECT build_id, tenant_id FROM kb.builds WHERE state = 'building' ORDER BY build_id")
    return [(build_id, tenant_id) for build_id, tenant_id in rows]


def standing_index_names(conn: Connection[TupleRow]) -> set[str]:
    """Names of the indexes that builds of any tenant still have a claim to."""
    rows = conn.execute(
        "SELECT index_name FROM kb.builds WHERE index_name IS NOT NULL AND state = ANY(%s)", (list(STANDING),)
    )
    return {name for (name,) in rows}
