"""A constant load of searches from several connections, each answer held against the exact one."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kb_pipeline.store.database import Database

K = 10
CONNECTIONS = 4
APPLICATION = "bench-search"


@dataclass(frozen=True, slots=True)
class Answer:
    """One search."""

    at: float
    """`time.monotonic()` when it was due."""
    ms: float
    """From then until its answer."""
    results: int
    recall: float
    error: str = ""


@dataclass
class Load:
    """What came of all searches so far."""

    answers: list[Answer] = field(default_factory=list)
    lock_waits: list[tuple[float, float]] = field(default_factory=list)
    """(when, milliseconds) a search was seen waiting for a lock."""
    marks: dict[str, float] = field(default_factory=dict)
    """Moments that whoever makes the load wants to find again, by name."""

    def between(self, start: float, end: float) -> list[Answer]:
        """Searches that were due in this span."""
        return [one for one in list(self.answers) if start <= one.at < end]

    def worst_window(self, seconds: float = 10.0) -> float:
        """The lowest mean recall of any span this long."""
        good = sorted((one for one in self.answers if not one.error), key=lambda one: one.at)
        worst, first = 1.0, 0
        total = 0.0
        for last, one in enumerate(good):
            total += one.recall
            while one.at - good[first].at > seconds:
                total -= good[first].recall
                first += 1
            if one.at - good[0].at >= seconds:
                worst = min(worst, total / (last - first + 1))
        return worst


@contextmanager
def search_load(db: Database, tenant_id: str, vectors: Any, exact: Any, *, version: int, rate: float) -> Iterator[Load]:
    """Searches at `rate` a second while the block runs, `vectors` in turn; `exact` are the distances of their ten
    nearest."""
    load, stop = Load(), threading.Event()
    lock = threading.Lock()
    turn = iter(range(10**9))
    began = time.monotonic() + 0.2

    def serve() -> None:
        conn: Any = None
        while not stop.is_set():
            with lock:
                number = next(turn)
            due = began + number / rate
            while (early := due - time.monotonic()) > 0 and not stop.is_set():
                time.sleep(min(early, 0.1))
            query = number % len(vectors)
            try:
                conn = conn or _connected(db, tenant_id)
                distances = _search(conn, tenant_id, version, vectors[query])
            except Exception as error:
                load.answers.append(
                    Answer(due, (time.monotonic() - due) * 1000, 0, 0.0, f"{type(error).__name__}: {error}")
                )
                conn = None
                continue
            from kb_pipeline.index.exact import recall_of

            load.answers.append(
                Answer(due, (time.monotonic() - due) * 1000, len(distances), recall_of(distances, exact[query]))
            )

    threads = [threading.Thread(target=serve, daemon=True) for _ in range(CONNECTIONS)]
    threads.append(threading.Thread(target=_watch_locks, args=(db, load, stop), daemon=True))
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        stop.set()
        for thread in threads:
            thread.join(timeout=5)


def _connected(db: Database, tenant_id: str) -> Any:
    conn = db.connect("reader", tenant_id, autocommit=True)
    conn.execute("SELECT set_config('application_name', %s, false)", (APPLICATION,))
    return conn


def _search(conn: Any, tenant_id: str, version: int, vector: Any) -> list[float]:
    """As a person's search who sets nothing."""
    from kb_pipeline.search.profiles import PROFILES
    from kb_pipeline.store.search_sql import Found, search_live

    found = search_live(
        conn, tenant_id, version, vector,
        n=K, ef=None, profile="default", fallback_ef=PROFILES["default"], at_least=2 * K, conditions="[]",
    )  # fmt: skip
    if not isinstance(found, Found):
        raise RuntimeError(f"another version is live: {found.version}")
    return [1 - hit.score for hit in found.hits]


def _watch_locks(db: Database, load: Load, stop: threading.Event) -> None:
    conn: Any = None
    while not stop.wait(0.02):
        try:
            if conn is None:
                conn = db.connect("owner", autocommit=True)
                conn.execute("SELECT set_config('role', 'none', false)")
            rows = conn.execute(
                "SELECT extract(epoch FROM clock_timestamp() - query_start) * 1000 FROM pg_stat_activity "
                "WHERE application_name = %s AND wait_event_type = 'Lock'",
                (APPLICATION,),
            ).fetchall()
        except Exception:
            conn = None
            continue
        load.lock_waits += [(time.monotonic(), float(row[0])) for row in rows]


def percentile(answers: list[Answer], share: float) -> float:
    """Milliseconds of the slowest of this share; 0 without answers."""
    times = sorted(one.ms for one in answers if not one.error)
    return times[min(len(times) - 1, int(len(times) * share))] if times else 0.0
