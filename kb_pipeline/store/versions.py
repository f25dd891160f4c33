"""Embedding versions: their columns, and the part each tenant has in them."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, TypeVar

from psycopg import Connection, sql
from psycopg.errors import LockNotAvailable
from psycopg.rows import TupleRow
from psycopg.types.json import Jsonb

from kb_pipeline.embed.protocol import EmbedderSpec
from kb_pipeline.errors import KbError
from kb_pipeline.planner.model import VersionState
from kb_pipeline.store.contents import column

if TYPE_CHECKING:
    from kb_pipeline.store.database import Database

log = logging.getLogger(__name__)
T = TypeVar("T")

LOCK_TIMEOUT_MS = 50
"""A column change waits no longer for its lock, because every search queues behind it."""
IN_ROW_BYTES = 1100
"""Vectors of the first column up to this size stay in the table's rows; all others go to TOAST."""
PATIENT_S, PATIENT_MS = 30.0, 250
"""After so long in vain a column change waits longer for each try: on a busy machine searches take more than 50 ms."""
GIVE_UP_S = 120.0
"""How long a column change is tried before the run says that somebody holds the table."""


@dataclass(frozen=True, slots=True)
class Version:
    """One embedding version."""

    version: int
    spec: EmbedderSpec

    @property
    def storage(self) -> str:
        """Type of the column."""
        return self.spec.storage


def find_version(conn: Connection[TupleRow], spec: EmbedderSpec) -> int | None:
    """Number of this embedder's version when its column is there."""
    row = conn.execute(
        "SELECT version FROM kb.embedding_versions WHERE embedder_hash = %s AND column_state = 'present'",
        (spec.hash(),),
    ).fetchone()
    return row[0] if row else None


def read_version(conn: Connection[TupleRow], version: int) -> Version:
    """A version by its number. Raises `KbError` for one that never was."""
    row = conn.execute("SELECT embedder FROM kb.embedding_versions WHERE version = %s", (version,)).fetchone()
    if row is None:
        raise KbError(f"there is no embedding version v{version}")
    return Version(version, EmbedderSpec(**row[0]))


def present_versions(conn: Connection[TupleRow]) -> list[Version]:
    """All versions that have a column, of whichever tenants."""
    rows = conn.execute(
        "SELECT version, embedder FROM kb.embedding_versions WHERE column_state = 'present' ORDER BY version"
    )
    return [Version(version, EmbedderSpec(**embedder)) for version, embedder in rows]


def served_versions(conn: Connection[TupleRow], tenant_id: str) -> list[int]:
    """Versions a search may name now: the live one, then the one in soak. Documents need vectors of all of them."""
    row = conn.execute("SELECT version, previous_version FROM kb.live WHERE tenant_id = %s", (tenant_id,)).fetchone()
    if row is None:
        return []
    live, previous = row
    if previous is None or previous == live:
        return [live]
    kept = conn.execute(
        "SELECT FROM kb.tenant_versions JOIN kb.embedding_versions USING (version) "
        "WHERE tenant_id = %s AND version = %s AND state <> 'retired' AND column_state = 'present'",
        (tenant_id, previous),
    ).fetchone()
    return [live] if kept is None else [live, previous]


def ensure_version(db: Database, tenant_id: str, spec: EmbedderSpec) -> Version:
    """The version of this embedder, with its column, and the tenant's part in it (`backfilling` when that is new).

    Adding the column rewrites nothing and waits for its lock in small steps, under the build lock. A version whose
    column was dropped gets it back under its number: the same number always means the same embedder. Raises `KbError`
    when the table stays locked by somebody.
    """
    from kb_pipeline.store.locks import build_lock

    with db.connect("owner", autocommit=True) as conn:
        while True:
            version = find_version(conn, spec)
            if version is None:
                with build_lock(db):
                    version = find_version(conn, spec)
                    if version is None:
                        version = alter_columns(conn, lambda: _create(conn, spec))
                        log.info("embedding version v%d: %s/%s, %d dims as %s", version, *_described(spec))
            # The shared row lock excludes the transaction that drops a column to which nobody refers.
            conn.execute(
                "INSERT INTO kb.tenant_versions AS t (tenant_id, version, state) SELECT %s, version, 'backfilling' "
                "FROM (SELECT version FROM kb.embedding_versions WHERE version = %s AND column_state = 'present' "
                "FOR SHARE) v ON CONFLICT (tenant_id, version) DO UPDATE SET state = 'backfilling', "
                "changed_at = now() WHERE t.state = 'retired'",
                (tenant_id, version),
            )
            if find_version(conn, spec) == version:
                break
    return Version(version, spec)


def alter_columns(conn: Connection[TupleRow], change: Callable[[], T], *, give_up_s: float = GIVE_UP_S) -> T:
    """Carry out a column change of `kb.contents` in one transaction, tried until its lock is got. Hold the build lock.

    Each try waits 50 ms at most (after half a minute 250), then lets the searches behind it go on. Raises `KbError`
    after `give_up_s`.
    """
    began = time.monotonic()
    deadline = began + give_up_s
    while True:
        wait_ms = LOCK_TIMEOUT_MS if time.monotonic() - began < PATIENT_S else PATIENT_MS
        try:
            with conn.transaction():
                conn.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(wait_ms))
                return change()
        except LockNotAvailable as error:
            if time.monotonic() > deadline:
                raise KbError(
                    f"kb.contents was in use for {give_up_s:g} s, so its columns could not be changed: look for a long "
                    "transaction in pg_stat_activity, end it, and run again"
                ) from error
        time.sleep(random.uniform(0.05, 0.25))


def _create(conn: Connection[TupleRow], spec: EmbedderSpec) -> int:
    known = conn.execute(
        "UPDATE kb.embedding_versions SET column_state = 'present' WHERE embedder_hash = %s AND column_state = "
        "'dropped' "
        "RETURNING version",
        (spec.hash(),),
    ).fetchone()
    row = (
        known
        or conn.execute(
            "INSERT INTO kb.embedding_versions (version, embedder_hash, embedder, dims, storage) "
            "VALUES (nextval('kb.embedding_version_number'), %s, %s, %s, %s) RETURNING version",
            (spec.hash(), Jsonb(asdict(spec)), spec.dims, spec.storage),
        ).fetchone()
    )
    assert row is not None
    version: int = row[0]
    conn.execute(
        sql.SQL(
            "ALTER TABLE kb.contents ADD COLUMN {name} {type}({dims}), ALTER COLUMN {name} SET STORAGE {storage}"
        ).format(
            name=column(version),
            type=sql.SQL("halfvec" if spec.storage == "halfvec" else "vector"),
            dims=spec.dims,
            storage=sql.SQL("MAIN" if _stays_in_row(conn, spec) else "EXTERNAL"),
        )
    )
    return version


def set_tenant_version(
    conn: Connection[TupleRow],
    tenant_id: str,
    version: int,
    state: VersionState,
    *,
    only_from: VersionState | None = None,
) -> None:
    """Change the tenant's part in a version; only where it is `only_from`, when that is given."""
    conn.execute(
        "UPDATE kb.tenant_versions SET state = %(state)s, changed_at = now() "
        "WHERE tenant_id = %(tenant)s AND version = %(version)s AND state <> %(state)s "
        "AND (%(only)s::text IS NULL OR state = %(only)s)",
        {"state": state, "tenant": tenant_id, "version": version, "only": only_from},
    )


def _described(spec: EmbedderSpec) -> tuple[str, str, int, str]:
    return spec.provider, spec.model, spec.dims, spec.storage


def _stays_in_row(conn: Connection[TupleRow], spec: EmbedderSpec) -> bool:
    """Whether the vectors lie in the table itself: short ones, of the first column only.

    Exact search reads them four times faster there than out of TOAST. A second vector in the row would leave no room
    for HOT updates (migration 0003 has the figures).
    """
    if spec.dims * (2 if spec.storage == "halfvec" else 4) > IN_ROW_BYTES:
        return False
    row = conn.execute(
        "SELECT count(*) FROM pg_attribute WHERE attrelid = 'kb.contents'::regclass AND NOT attisdropped "
        "AND attname ~ '^embedding_v[0-9]+$'"
    ).fetchone()
    return row is not None and row[0] == 0
