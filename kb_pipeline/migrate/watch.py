"""What goes on around a back-fill: its rate, its progress, and a person who says stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from kb_pipeline.embed.lane import Pending
from kb_pipeline.embed.protocol import EmbedderSpec
from kb_pipeline.errors import MigrationHeld, TenantBusy
from kb_pipeline.store.locks import awaited
from kb_pipeline.store.migrations_state import begin_migration, note_progress

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.rows import TupleRow

LOOK_EVERY_S = 1.0


def watched(
    conn: Connection[TupleRow],
    tenant_id: str,
    target: EmbedderSpec,
    texts: Iterator[Pending],
    *,
    total: int,
    per_minute: float | None = None,
    look: Callable[[int], None] | None = None,
) -> Iterator[Pending]:
    """The same texts, at most `per_minute` of them a minute; once a second the state is looked at and written down, and
    `look` is told how many were handed out.

    Raises `MigrationHeld` when a person paused or aborted the change of model, `TenantBusy` when another run waits for
    the tenant: it takes over, with the source as it is by then. What is in flight is delivered first.
    """
    first = next(texts, None)
    if first is None:
        return
    begin_migration(conn, tenant_id, target, total=total)
    started = looked = time.monotonic()
    done = 0
    pending: Pending | None = first
    while pending is not None:
        now = time.monotonic()
        if now - looked >= LOOK_EVERY_S or done == 0:
            looked = now
            if look is not None:
                look(done)
            _look(conn, tenant_id, target, done, total, now - started)
        yield pending
        done += 1
        if per_minute is not None:
            while (early := started + done * 60 / per_minute - time.monotonic()) > 0:
                time.sleep(min(early, LOOK_EVERY_S))
                if early > LOOK_EVERY_S:
                    _look(conn, tenant_id, target, done, total, time.monotonic() - started)
        pending = next(texts, None)
    seconds = time.monotonic() - started
    note_progress(conn, tenant_id, done=done, total=total, per_second=done / seconds if seconds else 0.0)


def _look(
    conn: Connection[TupleRow], tenant_id: str, target: EmbedderSpec, done: int, total: int, seconds: float
) -> None:
    state = note_progress(conn, tenant_id, done=done, total=total, per_second=done / seconds if seconds else 0.0)
    if state not in (None, "running"):
        raise MigrationHeld(
            f"the change of tenant {tenant_id!r} to {target.provider}/{target.model} was {state} by a person: "
            "what is embedded is kept, what is live stays; `kb migrate resume` goes on"
        )
    if awaited(conn, tenant_id):
        raise TenantBusy(
            f"the back-fill of tenant {tenant_id!r} gave way to another command that waits for the tenant; "
            "run again: it goes on where it was"
        )
