"""Watches a build from a second connection and tells a person how far it is."""

from __future__ import annotations

import logging
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg

from kb_pipeline.store.index_progress import build_progress, see_other_sessions

if TYPE_CHECKING:
    from kb_pipeline.stages.context import Progress, TaskHandle
    from kb_pipeline.store.database import Database

log = logging.getLogger(__name__)

POLL_S = 0.5


@contextmanager
def watched(db: Database, pid: int, progress: Progress, name: str, rows: int) -> Generator[None]:
    """Shows `pid`'s CREATE INDEX as a task of `rows` rows while the block runs. Watching never fails a build."""
    ended = threading.Event()
    task = progress.task(name, rows, "rows")
    thread = threading.Thread(target=_watch, args=(db, pid, task, rows, ended), name="index-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(timeout=10 * POLL_S)
        task.done()


def _watch(db: Database, pid: int, task: TaskHandle, rows: int, ended: threading.Event) -> None:
    shown = 0
    try:
        if ended.wait(POLL_S):  # most builds of a test or a small tenant are over by now
            task.advance(rows)
            return
        with db.connect("owner", autocommit=True) as conn:
            see_other_sessions(conn)
            while not ended.wait(POLL_S):
                if (now := build_progress(conn, pid)) is None:
                    continue
                # After the graph is loaded the same counter serves other phases, so what was shown never goes back.
                done = max(shown, min(now.tuples_done, rows) if "loading" in now.phase else shown)
                task.advance(done - shown, phase=now.phase)
                shown = done
        task.advance(rows - shown)
    except psycopg.Error as error:
        log.warning("progress of the index build is not shown: %s", error)
