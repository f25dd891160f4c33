"""Fixtures: one embedded Postgres for the whole test run (all workers), a fresh migrated database for each test."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import hypothesis
import pytest
from databases import copied, dropped

from kb_pipeline.store import cluster
from kb_pipeline.store.database import Database, create_database, prepare
from kb_pipeline.store.server import embedded_dsn, ensure_running, leave, stop_server

SERVER_HOME = "KB_TEST_SERVER_HOME"
"""Set by the first process of the run for the xdist workers it starts."""
TEMPLATE = "kb_template"
WHOLE_PROCESSES = frozenset(
    {
        "test_batch_lane",
        "test_dagster_run",
        "test_hostile",
        "test_kill",
        "test_migrate_command",
        "test_replay",
        "test_spend_budget",
        "test_stages_kill",
        "test_tune_fit",
        "test_ui",
    }
)
"""Tests that start `kb` or a browser, or search for long: minutes that say nothing about a Postgres version."""
PATIENCE_S = 900
"""For each test that says nothing else: what takes a minute takes ten on a busy machine, and a hang still ends."""


def pytest_configure(config: pytest.Config) -> None:
    """Takes the settings of the person's own shell away, and makes the folder of the run's server."""
    corpora = Path(__file__).resolve().parents[2] / "shared" / "data"
    if corpora.is_dir():  # as the Makefile does
        os.environ.setdefault("KB_TEST_DATA", str(corpora))
    major = os.environ.pop("KB_TEST_PG_MAJOR", None) or os.environ.get("KB_PG_MAJOR") or "18"
    for name in [name for name in os.environ if name.startswith("KB_") and name not in (SERVER_HOME, "KB_TEST_DATA")]:
        del os.environ[name]
    os.environ["KB_PG_MAJOR"] = major
    # What was left open is told when the garbage collector happens to run: as an error, of any test but the right one.
    config.addinivalue_line("filterwarnings", "default::ResourceWarning")
    # The same examples in every run, in any time: `--hypothesis-profile default` looks for others.
    hypothesis.settings.register_profile(
        "kb", derandomize=True, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
    )
    hypothesis.settings.load_profile("kb")
    # The default measures latency for 2 s a build, in dozens of tests that are about something else.
    os.environ["KB_EVAL__LATENCY_SECONDS"] = "0.2"
    if not hasattr(config, "workerinput"):
        # Not under tmp_path: the server's own user could not enter it, and its path may be too long for a socket.
        os.environ[SERVER_HOME] = tempfile.mkdtemp(prefix="kb-test-")
    # Reports and staging of tests without a home of their own: not in the working directory, not in another worker's.
    os.environ["KB_HOME"] = str(Path(os.environ[SERVER_HOME]) / f"home-{os.getpid()}")


def pytest_unconfigure(config: pytest.Config) -> None:
    """The first process removes the server when the workers have left."""
    if not hasattr(config, "workerinput") and (home := os.environ.pop(SERVER_HOME, None)):
        leave(Path(home))
        if (Path(home) / "pg").exists():
            stop_server(Path(home), force=True)
        shutil.rmtree(home, ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what uses Postgres, so that `-m postgres` runs it again on the other major version.

    Whole processes are left out of that: what may differ between versions is SQL, which the other tests hold. They come
    first, the browser before all, so that no worker ends with minutes of its own.
    """
    items.sort(key=lambda item: (item.path.stem != "test_ui", item.path.stem not in WHOLE_PROCESSES))
    for item in items:
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(PATIENCE_S))
        if "server_home" in getattr(item, "fixturenames", ()) and item.path.stem not in WHOLE_PROCESSES:
            item.add_marker(pytest.mark.postgres)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """A test marked `alone` has the server for itself: a transaction in any database of it keeps pages of all others
    from being pruned, so what is counted there would depend on the other worker's tests.
    """
    if "server_home" not in getattr(item, "fixturenames", ()):
        return (yield)
    with (Path(os.environ[SERVER_HOME]) / "tests.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX if item.get_closest_marker("alone") else fcntl.LOCK_SH)
        return (yield)


def pytest_report_header() -> str:
    """Which Postgres the tests run on."""
    return f"postgres: embedded {os.environ['KB_PG_MAJOR']}"


@contextmanager
def _one_worker_at_a_time(home: Path) -> Generator[None]:
    with (home / "template.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def server_home() -> Path:
    """Home of the run's embedded server, with a migrated template database in it. Tests must not stop it."""
    home = Path(os.environ[SERVER_HOME])
    with _one_worker_at_a_time(home):
        pgdata = home / "pg"
        if not pgdata.exists():
            cluster.create(pgdata, int(os.environ["KB_PG_MAJOR"]))
            with (pgdata / "kb.conf").open("a") as conf:  # test data may be lost with the machine
                conf.write("fsync = off\nsynchronous_commit = off\nfull_page_writes = off\nshared_buffers = 128MB\n")
                # An automatic ANALYZE holds a snapshot, so updates beside it are not HOT; and it changes plans.
                conf.write("autovacuum = off\n")
        ensure_running(home)
        if not (home / "template.ready").exists():
            template = Database(embedded_dsn(home, TEMPLATE), embedded=True)
            prepare(template)
            (home / "template.ready").touch()
    return home


@pytest.fixture
def empty_database(server_home: Path) -> Generator[str]:
    """DSN of a database without anything in it."""
    name = f"t_{uuid.uuid4().hex[:16]}"
    dsn = embedded_dsn(server_home, name)
    create_database(dsn, "postgres")
    yield dsn
    dropped(server_home, name)


@pytest.fixture
def db(server_home: Path) -> Generator[Database]:
    """A fresh database with the newest schema."""
    with copied(server_home, TEMPLATE) as name:
        yield Database(embedded_dsn(server_home, name))


@pytest.fixture(autouse=True)
def _calm_embedder() -> Generator[None]:
    """What a test did to the embedder of `stage_world` ends with it."""
    yield
    if (world := sys.modules.get("stage_world")) is not None:
        world.SENT.clear()
        world.Trouble.poison = world.Trouble.unavailable_after = None


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty KB_HOME of the test's own, set in the environment."""
    folder = tmp_path / "kb"
    folder.mkdir()
    monkeypatch.setenv("KB_HOME", str(folder))
    return folder


@pytest.fixture
def kb_env(home: Path, db: Database, monkeypatch: pytest.MonkeyPatch) -> Database:
    """`home` and `db` as `kb` sees them, KB_HOME and KB_DSN: no second server starts."""
    monkeypatch.setenv("KB_DSN", db.dsn)
    return db


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Folder of the larger corpora, from KB_TEST_DATA; tests that need it are skipped without it."""
    value = os.environ.get("KB_TEST_DATA")
    if not value or not Path(value).is_dir():
        pytest.skip("KB_TEST_DATA names no folder of test corpora")
    return Path(value)
