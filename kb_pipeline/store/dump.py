"""Copies of the engine's schema with `pg_dump` and `pg_restore` of the bundled Postgres."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kb_pipeline.errors import KbError
from kb_pipeline.home import kb_home
from kb_pipeline.store.binaries import bin_dir
from kb_pipeline.store.cluster import DEFAULT_MAJOR, wanted_major

if TYPE_CHECKING:
    from kb_pipeline.store.database import Database


def dump(database: Database, file: Path) -> None:
    """Write schema `kb` to `file` in one snapshot. Written beside and renamed: the file is complete or not there."""
    beside = file.with_name(file.name + ".part")
    try:
        _call(
            database, "pg_dump", "--format=custom", "--compress=zstd:3", f"--file={beside}", "--schema=kb", *_AS_OWNER
        )
        beside.replace(file)
    finally:
        beside.unlink(missing_ok=True)


def restore_dump(database: Database, file: Path) -> None:
    """Replace schema `kb` by the dump's, in one transaction: all is from the file then, or nothing changed."""
    from kb_pipeline.store.database import prepare

    _call(
        database,
        "pg_restore",
        "--clean",
        "--if-exists",
        "--single-transaction",
        "--exit-on-error",
        "--role=kb_owner",
        "--no-owner",
        str(file),
    )
    prepare(database)


# The owner's policy shows every row, but pg_dump switches row security off by default, and is refused then.
_AS_OWNER = ("--role=kb_owner", "--enable-row-security", "--no-owner")


def _call(database: Database, program: str, *arguments: str) -> None:
    major = wanted_major(kb_home() / "pg") if database.embedded else DEFAULT_MAJOR
    command: Sequence[str] = (str(bin_dir(major) / program), f"--dbname={database.dsn}", *arguments)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        words = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise KbError(f"{program} failed: " + "; ".join(words[:4]))
