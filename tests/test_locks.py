"""Advisory locks: who waits, who is told what, and what a crash leaves (nothing)."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import psycopg
import pytest

from kb_pipeline.errors import TenantBusy
from kb_pipeline.store.database import Database
from kb_pipeline.store.locks import build_lock, tenant_lock

ADVISORY = (
    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted "
    "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)
HOLD = """
import sys
from kb_pipeline.store.database import Database
from kb_pipeline.store.locks import tenant_lock
with tenant_lock(Database(sys.argv[1]), "docs", wait_s=0):
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_a_held_lock_names_its_holder(db: Database) -> None:
    with tenant_lock(db, "docs", wait_s=0):
        with pytest.raises(
            TenantBusy, match=r"tenant 'docs' is held by .+\[\d+\] \(backend \d+, since 20\d\d-"
        ) as busy:
            with tenant_lock(db, "docs", wait_s=0):
                pass
        assert busy.value.exit_code == 75
        with tenant_lock(db, "other", wait_s=0):  # another tenant is free
            pass
    with tenant_lock(db, "docs", wait_s=0):
        pass


def test_waiting_ends_when_the_holder_is_done(db: Database) -> None:
    held, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with tenant_lock(db, "docs", wait_s=0):
            held.set()
            go_on.wait(300)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(300)
    begin = time.monotonic()
    with pytest.raises(TenantBusy), tenant_lock(db, "docs", wait_s=0.5):
        pass
    assert time.monotonic() - begin >= 0.5
    go_on.set()
    with tenant_lock(db, "docs", wait_s=None):
        pass
    thread.join()


def test_a_killed_process_holds_nothing(db: Database) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, db.dsn], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    with pytest.raises(TenantBusy), tenant_lock(db, "docs", wait_s=0):
        pass
    process.kill()
    process.communicate()
    with tenant_lock(db, "docs", wait_s=300):
        pass


def test_a_waiter_holds_no_snapshot(db: Database) -> None:
    """Else CREATE INDEX CONCURRENTLY under the lock would wait for the one who waits for the lock."""
    with db.connect("owner") as connection:
        connection.execute("CREATE TABLE kb.t AS SELECT i FROM generate_series(1, 100) i")
    waiting = threading.Thread(target=lambda: _take_and_leave(db))
    with build_lock(db, wait_s=0):
        waiting.start()
        with db.connect("owner", autocommit=True) as connection:
            while connection.execute(ADVISORY).fetchone() != (2,):  # the build's, and that somebody waits for it
                time.sleep(0.05)
            connection.execute("SET statement_timeout = '100s'")
            connection.execute("CREATE INDEX CONCURRENTLY ON kb.t (i)")
    waiting.join(100)
    assert not waiting.is_alive()


def _take_and_leave(db: Database) -> None:
    with build_lock(db):
        pass


def test_a_lost_connection_does_not_hide_how_the_work_ended(db: Database, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ValueError, match="the work's own"), tenant_lock(db, "docs", wait_s=0):
        with psycopg.connect(db.dsn, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' "
                "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            )
        raise ValueError("the work's own")
    assert "the connection that held tenant 'docs' was lost" in caplog.text


def test_locks_of_different_databases_are_apart(db: Database, empty_database: str) -> None:
    from kb_pipeline.store.database import open_database

    other = open_database(dsn=empty_database)
    with build_lock(db, wait_s=0), build_lock(other, wait_s=0):
        pass
