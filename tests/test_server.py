"""The embedded server as several processes share it, and as a crash leaves it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from kb_pipeline.errors import ConfigError
from kb_pipeline.store import cluster, server
from kb_pipeline.store.database import dagster_dsn, open_database

pytestmark = pytest.mark.postgres

OPEN = (
    "from pathlib import Path; import sys; from kb_pipeline.store.database import open_database; db = open_database(); "
)
WAIT = OPEN + "print('open', flush=True); sys.stdin.readline()"


@pytest.fixture
def short_home(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """KB_HOME of a server of the test's own, not under tmp_path: the server's user must be able to reach it."""
    import shutil
    import tempfile

    home = Path(tempfile.mkdtemp(prefix="kb-srv-"))
    monkeypatch.setenv("KB_HOME", str(home))
    yield home
    server.leave(home)
    if (home / "pg").exists():
        server.stop_server(home, force=True)
    shutil.rmtree(home, ignore_errors=True)


def start(code: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def opened(process: subprocess.Popen[str]) -> subprocess.Popen[str]:
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    return process


def finish(process: subprocess.Popen[str]) -> None:
    process.communicate("\n", timeout=600)
    assert process.returncode == 0


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate(timeout=600)


def test_shared_by_processes_and_stopped_by_the_last(short_home: Path) -> None:
    first, second = start(WAIT), start(WAIT)  # both find no data folder
    opened(first), opened(second)
    status = server.server_status(short_home)
    assert status.running and status.in_use and not status.kept
    finish(first)
    assert server.server_status(short_home).running
    finish(second)
    status = server.server_status(short_home)
    assert not status.running and not status.in_use and status.pid is None


def test_a_killed_process_keeps_nothing_alive(short_home: Path) -> None:
    killed, other = opened(start(WAIT)), opened(start(WAIT))
    kill(killed)
    assert server.server_status(short_home).running
    finish(other)
    assert not server.server_status(short_home).running


def test_a_server_left_by_a_killed_process_is_taken_over(short_home: Path) -> None:
    kill(opened(start(WAIT)))
    left = server.server_status(short_home)
    assert left.running and not left.in_use
    finish(opened(start(WAIT)))
    assert not server.server_status(short_home).running


def status_of(pid: int) -> str:
    try:
        return psutil.Process(pid).status()
    except psutil.NoSuchProcess:
        return psutil.STATUS_DEAD


def test_recovers_from_a_killed_server(short_home: Path) -> None:
    database = open_database()
    with database.connect("owner") as connection:
        connection.execute("INSERT INTO kb.tenants (tenant_id) VALUES ('kept')")
    postmaster = server.server_status(short_home).pid
    assert postmaster is not None
    os.kill(postmaster, signal.SIGKILL)
    while psutil.pid_exists(postmaster) and status_of(postmaster) != psutil.STATUS_ZOMBIE:
        time.sleep(0.05)
    assert (short_home / "pg" / "postmaster.pid").exists()
    with open_database().connect("owner") as connection:
        assert connection.execute("SELECT tenant_id FROM kb.tenants").fetchall() == [("kept",)]


@pytest.mark.parametrize("command", [["sleep", "60"], ["true"]], ids=["running", "ended, and not waited for"])
def test_stale_lock_files_that_name_another_program(short_home: Path, command: list[str]) -> None:
    finish(opened(start(WAIT)))
    bystander = subprocess.Popen(command, **({"user": "pgserver"} if os.geteuid() == 0 else {}))
    if command == ["true"]:
        os.waitid(os.P_PID, bystander.pid, os.WEXITED | os.WNOWAIT)
    try:
        pgdata = short_home / "pg"
        lines = [
            str(bystander.pid),
            str(pgdata),
            "1700000000",
            "5432",
            str(pgdata),
            "",
            "  1234567         1",
            "ready   ",
        ]
        (pgdata / "postmaster.pid").write_text("\n".join(lines) + "\n")
        (cluster.socket_dir(pgdata) / ".s.PGSQL.5432.lock").write_text("\n".join(lines) + "\n")
        with open_database().connect("owner") as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        assert command == ["true"] or bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_keep_alive_outlives_the_processes_until_stopped(short_home: Path) -> None:
    kept = start(
        "from kb_pipeline.store.server import keep_alive; from kb_pipeline.home import kb_home; keep_alive(kb_home())"
    )
    finish(kept)
    status = server.server_status(short_home)
    assert status.running and status.kept and not status.in_use
    user = opened(start(WAIT))
    after = server.stop_server(short_home)
    assert after.running and after.in_use and not after.kept, "another process uses it: it stops with that one"
    finish(user)
    assert not server.server_status(short_home).running


def test_stop_by_force(short_home: Path) -> None:
    user = opened(start(WAIT))
    assert not server.stop_server(short_home, force=True).running
    finish(user)


def test_opening_a_running_server_is_hardly_more_than_connecting(short_home: Path) -> None:
    holder = opened(start(WAIT))
    dsn = open_database().dsn

    def quickest(action: Callable[[], object]) -> float:
        times: list[float] = []
        for _ in range(20):
            begin = time.perf_counter()
            action()
            times.append(time.perf_counter() - begin)
        return min(times)

    # 1.3 times here. Looking at the server's programs or at the migrations one by one would be 20 times.
    assert quickest(open_database) < 5 * quickest(lambda: psycopg.connect(dsn).close())
    finish(holder)


def test_a_path_too_long_for_a_socket(short_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = short_home / ("d" * 60) / ("e" * 60)
    try:
        with open_database(deep).connect("owner") as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        assert cluster.socket_dir(deep / "pg").stat().st_mode & 0o077 == 0
    finally:
        server.leave(deep)
    assert not server.server_status(deep).running


def test_durable_settings(short_home: Path) -> None:
    with open_database().connect("owner") as connection:

        def setting(name: str) -> str:
            row = connection.execute("SELECT current_setting(%s)", (name,)).fetchone()
            assert row is not None
            return row[0]

        assert [setting(name) for name in ("fsync", "full_page_writes", "synchronous_commit")] == ["on", "on", "on"]
        assert setting("max_locks_per_transaction") == "256"
        assert setting("listen_addresses") == ""
        assert setting("server_encoding") == "UTF8"
        assert connection.execute("SELECT lower('ÄÉ'), 'Z' < 'a', to_tsvector('simple', 'ÄÉ')::text").fetchone() == (
            "äé", True, "'äé':1",
        )  # fmt: skip
        assert connection.info.server_version // 10_000 == int(os.environ["KB_PG_MAJOR"])


def test_a_folder_of_another_major_is_refused(short_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (short_home / "pg").mkdir()
    (short_home / "pg" / "PG_VERSION").write_text("16\n")
    monkeypatch.setenv("KB_PG_MAJOR", "18")
    with pytest.raises(ConfigError, match="made by Postgres 16"):
        open_database()
    monkeypatch.setenv("KB_PG_MAJOR", "17")
    with pytest.raises(ConfigError, match=r"\[16, 18\]"):
        open_database()


def test_a_foreign_folder_is_left_alone(short_home: Path) -> None:
    (short_home / "pg").mkdir()
    (short_home / "pg" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="did not make it"):
        open_database()
    assert (short_home / "pg" / "notes.txt").read_text() == "mine"


def test_dagster_has_a_database_of_its_own(short_home: Path) -> None:
    sqlalchemy = pytest.importorskip("sqlalchemy")
    database = open_database()
    url = dagster_dsn(database)
    assert url == dagster_dsn(database)
    engine = sqlalchemy.create_engine(url)
    with engine.connect() as connection:
        assert connection.execute(sqlalchemy.text("SELECT current_database()")).scalar() == "dagster"
    engine.dispose()


def test_status_of_nothing_starts_nothing(tmp_path: Path) -> None:
    status = server.server_status(tmp_path / "none")
    assert not status.running and not status.in_use
    assert not (tmp_path / "none").exists()
    assert not server.stop_server(tmp_path / "none").running


def test_no_connection_without_a_server(short_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KB_DSN", f"postgresql://nobody@/kb?host={short_home}")
    with pytest.raises(ConfigError, match="cannot connect to the Postgres that KB_DSN names"):
        open_database()
    for bad, said in (("postgresql://localhost", "names no database"), ("nonsense", "no Postgres DSN")):
        monkeypatch.setenv("KB_DSN", bad)
        with pytest.raises(ConfigError, match=said):
            open_database()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(f"postgresql://nobody@/kb?host={short_home}")
