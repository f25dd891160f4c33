"""Registered outputs of stages, and the rule that says which of them may still be used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, LiteralString

from psycopg import Connection
from psycopg.rows import TupleRow
from psycopg.types.json import Jsonb

from kb_pipeline.errors import StaleStage

KEEP = 3
"""Outputs that are kept for each asset of a tenant; older ones are removed with their files."""

_COLUMNS: LiteralString = "output_id, asset, url, root_id, base_manifest, rows, summary"


@dataclass(frozen=True, slots=True)
class StageOutput:
    """One complete output of one stage."""

    output_id: int
    asset: str
    url: str
    root_id: int
    """The `documents` output it descends from; itself for one of `documents`."""
    base_manifest: int
    """What was applied when that root was made."""
    rows: int
    summary: dict[str, Any]


def register(
    conn: Connection[TupleRow],
    tenant_id: str,
    *,
    asset: str,
    run_id: str,
    url: str,
    rows: int,
    summary: dict[str, Any],
    parent: StageOutput | None,
    base_manifest: int = 0,
) -> StageOutput:
    """Make a completely written output count. Without a parent it is a root, made when `base_manifest` was applied.

    What an earlier try of the same run registered at this URL is replaced.
    """
    conn.execute("DELETE FROM kb.stage_outputs WHERE tenant_id = %s AND url = %s", (tenant_id, url))
    row = conn.execute(
        "INSERT INTO kb.stage_outputs (tenant_id, asset, run_id, url, root_id, base_manifest, rows, summary) "
        "VALUES (%s, %s, %s, %s, %s, %s, %s, %s) RETURNING output_id",
        (
            tenant_id,
            asset,
            run_id,
            url,
            parent.root_id if parent else None,
            parent.base_manifest if parent else base_manifest,
            rows,
            Jsonb(summary),
        ),
    ).fetchone()
    assert row is not None
    row = conn.execute(
        "UPDATE kb.stage_outputs SET root_id = coalesce(root_id, output_id) WHERE tenant_id = %s AND output_id = %s "
        f"RETURNING {_COLUMNS}",
        (tenant_id, row[0]),
    ).fetchone()
    assert row is not None
    return StageOutput(*row)


def newest(conn: Connection[TupleRow], tenant_id: str, asset: str) -> StageOutput | None:
    """The newest output of this asset, usable or not."""
    row = conn.execute(
        f"SELECT {_COLUMNS} FROM kb.stage_outputs WHERE tenant_id = %s AND asset = %s ORDER BY output_id DESC LIMIT 1",
        (tenant_id, asset),
    ).fetchone()
    return StageOutput(*row) if row else None


def usable(conn: Connection[TupleRow], tenant_id: str, asset: str, *, follows: str | None = None) -> StageOutput:
    """The newest output of `asset`, when it follows from the tenant's present state.

    It does when nothing was applied since its root was made, or its root is what was applied last; and when no newer
    output of the asset before it (`follows`) has another root. Raises `StaleStage`, naming the asset to run first.
    """
    output = newest(conn, tenant_id, asset)
    if output is None:
        raise StaleStage(f"tenant {tenant_id!r} has no output of `{asset}` yet: run `{asset}` first")
    row = conn.execute("SELECT applied_manifest FROM kb.tenants WHERE tenant_id = %s", (tenant_id,)).fetchone()
    applied = row[0] if row else 0
    if applied not in (output.base_manifest, output.root_id):
        raise StaleStage(
            f"the newest output of `{asset}` (from `documents` output {output.root_id}) does not follow from what "
            "tenant "
            f"{tenant_id!r} holds now (manifest {applied}): run `documents` first, then the assets after it"
        )
    before = newest(conn, tenant_id, follows) if follows else None
    if before is not None and before.root_id > output.root_id:
        raise StaleStage(
            f"`{follows}` has a newer output than `{asset}` was made from (documents output {before.root_id} against "
            f"{output.root_id}): run `{asset}` first"
        )
    return output


def root_of(conn: Connection[TupleRow], tenant_id: str, output: StageOutput) -> StageOutput:
    """The `documents` output that an output descends from. Raises `StaleStage` when it is gone."""
    row = conn.execute(
        f"SELECT {_COLUMNS} FROM kb.stage_outputs WHERE tenant_id = %s AND output_id = %s", (tenant_id, output.root_id)
    ).fetchone()
    if row is None:
        raise StaleStage(f"the manifest that `{output.asset}` was made from is gone: run `documents` first")
    return StageOutput(*row)


def mark_output_applied(conn: Connection[TupleRow], tenant_id: str, output_id: int) -> None:
    """Note when an output came to be in the tables; the first time stays."""
    conn.execute(
        "UPDATE kb.stage_outputs SET applied_at = now() WHERE tenant_id = %s AND output_id = %s AND applied_at IS NULL",
        (tenant_id, output_id),
    )


def forget_old(conn: Connection[TupleRow], tenant_id: str, *, keep: int = KEEP) -> list[str]:
    """Remove all but the newest outputs of each asset; the URLs whose files may go now."""
    rows = conn.execute(
        "DELETE FROM kb.stage_outputs WHERE tenant_id = %(tenant)s AND output_id IN ("
        "SELECT output_id FROM (SELECT output_id, row_number() OVER (PARTITION BY asset ORDER BY output_id DESC) "
        "AS place "
        "FROM kb.stage_outputs WHERE tenant_id = %(tenant)s) AS placed WHERE place > %(keep)s) RETURNING url",
        {"tenant": tenant_id, "keep": keep},
    ).fetchall()
    return [row[0] for row in rows]
