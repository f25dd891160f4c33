"""The embedded Postgres of one data folder, shared by all processes of one user; the last one to leave stops it.

A process *is* a user of the server while it holds a shared `flock` on `pg.users`. The kernel lets go of it however the
process ends, so a killed process keeps nothing alive. The last one out gets the lock exclusively, and with it the right
to stop.
"""

from __future__ import annotations

import atexit
import fcntl
import logging
import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from kb_pipeline.errors import ConfigError
from kb_pipeline.store import cluster

log = logging.getLogger(__name__)

_handles: dict[Path, tuple[int, int]] = {}
"""Data folder -> (our process id, file descriptor with the shared lock)."""


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """What `kb db start`, `stop` and `status` report."""

    running: bool
    pid: int | None
    major: int
    """Postgres version of the data folder, or the one it would be made with."""
    kept: bool
    """`kb db start` was given: it stays when the last process leaves."""
    in_use: bool
    """Another process uses it now."""
    data: str
    """The data folder."""
    url: str
    """DSN of the engine's database, whether or not it runs."""


def embedded_dsn(home: Path, database: str = "kb") -> str:
    """DSN of a database on the embedded server of this home."""
    return f"postgresql://postgres@/{database}?host={quote(str(cluster.socket_dir(_pgdata(home))), safe='')}"


def ensure_running(home: Path) -> None:
    """Returns with the server up, and this process counted among its users until it ends.

    Starts the server when it is down, makes its data folder when there is none, recovers what a crash left.
    """
    home = home.absolute()
    if home not in _handles or _handles[home][0] != os.getpid():
        try:
            home.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(home / "pg.users", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise ConfigError(
                f"the data folder {home} cannot be used ({error.strerror}): set KB_HOME to another"
            ) from error
        fcntl.flock(descriptor, fcntl.LOCK_SH)  # waits while the last user is stopping it
        if not _handles:
            atexit.register(_leave_all)
        _handles[home] = (os.getpid(), descriptor)
    pgdata = _pgdata(home)
    major = cluster.wanted_major(pgdata)
    if cluster.is_ready(pgdata):
        return
    with _changing(home):
        if not cluster.is_ready(pgdata):
            cluster.create(pgdata, major)
            cluster.start(pgdata, major)


def leave(home: Path) -> None:
    """Gives this process's use up; stops the server when it was the last and nobody asked to keep it."""
    owner, descriptor = _handles.pop(home.absolute(), (0, -1))
    if owner != os.getpid():  # not joined, or inherited through fork: the parent's business
        return
    try:
        with _changing(home):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not _keep_file(home).exists():
                cluster.stop(_pgdata(home))
    except (BlockingIOError, FileNotFoundError):  # others use it, or the data folder has been removed
        pass
    finally:
        os.close(descriptor)


def keep_alive(home: Path) -> ServerStatus:
    """Starts the server and keeps it beyond the last process, until `stop_server`."""
    ensure_running(home)
    _keep_file(home).touch()
    return server_status(home)


def stop_server(home: Path, *, force: bool = False) -> ServerStatus:
    """Ends `keep_alive` and stops the server now if no other process uses it (else it stops with the last one).

    `force` stops it under the others too: their open transactions are rolled back.
    """
    _keep_file(home).unlink(missing_ok=True)
    if home.exists():
        with _changing(home):
            if force or not _used_by_others(home):
                cluster.stop(_pgdata(home))
    return server_status(home)


def server_status(home: Path) -> ServerStatus:
    """What is there now; starts nothing and counts as no use."""
    pgdata = _pgdata(home)
    running = cluster.is_ready(pgdata)
    in_use = False
    if home.exists():
        with _changing(home):
            in_use = _used_by_others(home)
    return ServerStatus(
        running=running,
        pid=cluster.pid(pgdata) if running else None,
        major=cluster.made_with(pgdata) or cluster.wanted_major(pgdata),
        kept=_keep_file(home).exists(),
        in_use=in_use,
        data=str(pgdata),
        url=embedded_dsn(home),
    )


def _pgdata(home: Path) -> Path:
    return home.absolute() / "pg"


def _keep_file(home: Path) -> Path:
    return home / "pg.keep"


def _used_by_others(home: Path) -> bool:
    """Under `_changing` only: our own use is given up for a moment."""
    owner, own = _handles.get(home.absolute(), (0, -1))
    try:
        probe = os.open(home / "pg.users", os.O_RDWR)
    except FileNotFoundError:
        return False
    joined = owner == os.getpid()
    try:
        if joined:  # our own shared lock would be in the way of the probe
            fcntl.flock(own, fcntl.LOCK_UN)
        fcntl.flock(probe, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(probe)
        if joined:
            fcntl.flock(own, fcntl.LOCK_SH)


@contextmanager
def _changing(home: Path) -> Generator[None]:
    """One process at a time creates, starts, stops or counts. Taken after the lock on `pg.users`, or without it."""
    descriptor = os.open(home / "pg.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _leave_all() -> None:
    for home in list(_handles):
        leave(home)
