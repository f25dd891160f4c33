"""Golden sets of the tenants: registered ones by name and version, and every content that an eval run used, by hash."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from psycopg import Connection
from psycopg.rows import TupleRow, class_row
from psycopg.types.json import Jsonb


@dataclass(frozen=True, slots=True)
class GoldenRow:
    """One version of a golden set, without its questions."""

    name: str
    version: int
    sha256: str
    questions: int
    judgments: int
    synthetic: int
    registered: bool
    """False: kept because an eval run used it from a folder."""
    added_by: str
    added_at: str


_COLUMNS = (
    "name, version, sha256, questions, judgments, synthetic, registered, added_by, "
    "to_char(added_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') AS added_at"
)


def put_golden(
    conn: Connection[TupleRow],
    tenant_id: str,
    name: str,
    sha256: str,
    body: Mapping[str, Any],
    *,
    registered: bool,
    by: str,
) -> int:
    """Keeps a set and gives its version; the same content under the same name is kept once."""
    judgments = sum(len(grades) for grades in body["judgments"].values())
    row = conn.execute(
        "INSERT INTO kb.golden_sets AS g (tenant_id, name, version, sha256, body, questions, judgments, synthetic, "
        "registered, added_by) SELECT %(t)s, %(n)s, coalesce(max(version), 0) + 1, %(h)s, %(b)s, %(q)s, %(j)s, %(s)s, "
        "%(r)s, %(by)s FROM kb.golden_sets WHERE tenant_id = %(t)s AND name = %(n)s "
        "ON CONFLICT (tenant_id, name, sha256) DO UPDATE SET registered = g.registered OR excluded.registered, "
        "added_by = CASE WHEN excluded.registered THEN excluded.added_by ELSE g.added_by END, "
        "added_at = CASE WHEN excluded.registered THEN now() ELSE g.added_at END "
        "RETURNING version",
        {
            "t": tenant_id,
            "n": name,
            "h": sha256,
            "b": Jsonb(body),
            "q": len(body["questions"]),
            "j": judgments,
            "s": len(body.get("synthetic", ())),
            "r": registered,
            "by": by,
        },
    ).fetchone()
    assert row is not None, "INSERT ... RETURNING gives a row"
    return int(row[0])


def golden_rows(conn: Connection[TupleRow], tenant_id: str) -> list[GoldenRow]:
    """All versions, by name, newest first."""
    with conn.cursor(row_factory=class_row(GoldenRow)) as cursor:
        query = f"SELECT {_COLUMNS} FROM kb.golden_sets WHERE tenant_id = %s ORDER BY name, version DESC"
        return cursor.execute(query.encode(), (tenant_id,)).fetchall()


def registered_body(
    conn: Connection[TupleRow], tenant_id: str, name: str | None, version: int | None = None
) -> tuple[str, dict[str, Any]] | None:
    """(name, body) of a registered set: this version of it, else its newest; without a name the one registered last."""
    row = conn.execute(
        "SELECT name, body FROM kb.golden_sets WHERE tenant_id = %(t)s AND registered "
        "AND (%(n)s::text IS NULL OR name = %(n)s) AND (%(v)s::int IS NULL OR version = %(v)s) "
        "ORDER BY added_at DESC, version DESC LIMIT 1",
        {"t": tenant_id, "n": name, "v": version},
    ).fetchone()
    return (str(row[0]), row[1]) if row else None


def body_of(conn: Connection[TupleRow], tenant_id: str, sha256: str) -> tuple[str, dict[str, Any]] | None:
    """(name, body) of the set with this hash, registered or not."""
    row = conn.execute(
        "SELECT name, body FROM kb.golden_sets WHERE tenant_id = %s AND sha256 = %s LIMIT 1", (tenant_id, sha256)
    ).fetchone()
    return (str(row[0]), row[1]) if row else None
