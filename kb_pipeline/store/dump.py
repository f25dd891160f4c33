"""Copies of the engine's schema with `pg_dump` and `pg_restore` of the bundled Postgres."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

from kb_pipeline.errors import KbError
from kb_pipeline.home import kb_home
from kb_pipeline.store.binaries import bin_dir
from kb_pipeline.store.cluster import DEFAULT_MAJOR, wanted_major

if TYPE_CHECKING:
    from kb_pipeline.store.database import Database

_BEFORE = b"""
BEGIN;
SELECT '[1]'::vector; -- loads pgvector: functions of ours set its parameters
SET ROLE kb_owner;
DO $$
DECLARE
    statement text;
BEGIN
    FOR statement IN
        SELECT format('DROP ROUTINE %s CASCADE', oid::regprocedure) FROM pg_proc WHERE pronamespace = 'kb'::regnamespace
        UNION ALL
        SELECT format('DROP TABLE %s CASCADE', oid::regclass) FROM pg_class
        WHERE relnamespace = 'kb'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition
    LOOP
        EXECUTE statement;
    END LOOP;
    FOR statement IN
        SELECT format('DROP SEQUENCE %s', oid::regclass) FROM pg_class
        WHERE relnamespace = 'kb'::regnamespace AND relkind = 'S'
    LOOP
        EXECUTE statement;
    END LOOP;
END $$;
"""
"""What `pg_restore --clean` cannot do: it drops the keys of partitions one by one, which Postgres refuses."""
_UNKNOWN_BEFORE_17 = b"SET transaction_timeout = 0;\n"


def dump(database: Database, file: Path) -> None:
    """Write schema `kb` to `file` in one snapshot. Written beside and renamed: the file is complete or not there."""
    beside = file.with_name(file.name + ".part")
    # The owner's policy shows every row, but pg_dump switches row security off by default, and is refused then.
    as_owner = ("--role=kb_owner", "--enable-row-security")
    target = f"--dbname={database.dsn}"
    command = [_program(database, "pg_dump"), target, "--format=custom", "--compress=1", "--schema=kb", *as_owner]
    try:
        _refuse("pg_dump", subprocess.run([*command, f"--file={beside}"], stderr=subprocess.PIPE, check=False))
        beside.replace(file)
    finally:
        beside.unlink(missing_ok=True)


def restore_dump(database: Database, file: Path) -> None:
    """Replace schema `kb` by the dump's, in one transaction: all is from the file then, or nothing changed."""
    from kb_pipeline.store.database import prepare

    restore = _program(database, "pg_restore")
    listed = subprocess.run([restore, "--list", str(file)], capture_output=True, check=False)
    _refuse("pg_restore", listed)
    psql = [_program(database, "psql"), f"--dbname={database.dsn}", "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1"]
    with tempfile.NamedTemporaryFile(suffix=".toc") as wanted, tempfile.TemporaryFile() as words:
        # Without the schema itself: whoever may create it is not always who restores.
        wanted.writelines(line for line in listed.stdout.splitlines(keepends=True) if b" SCHEMA - kb " not in line)
        wanted.flush()
        script = [restore, f"--use-list={wanted.name}", "--file=-", str(file)]
        with (
            subprocess.Popen(psql, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=words) as writer,
            subprocess.Popen(script, stdout=subprocess.PIPE, stderr=words) as reader,
        ):
            assert reader.stdout is not None and writer.stdin is not None
            with suppress(BrokenPipeError):
                _pass_on(reader.stdout, writer.stdin)
                if reader.wait() == 0:  # else psql meets the end of its input, and nothing has changed
                    writer.stdin.write(b"\nCOMMIT;\n")
                writer.stdin.close()
        if reader.returncode or writer.returncode:
            words.seek(0)
            raise KbError(f"nothing was restored: {words.read().decode(errors='replace').strip()[:600]}")
    prepare(database)


def _pass_on(source: IO[bytes], target: IO[bytes]) -> None:
    target.write(_BEFORE)
    target.write(source.read(4096).replace(_UNKNOWN_BEFORE_17, b""))
    shutil.copyfileobj(source, target, 1 << 20)


def _program(database: Database, name: str) -> str:
    major = wanted_major(kb_home() / "pg") if database.embedded else DEFAULT_MAJOR
    return str(bin_dir(major) / name)


def _refuse(program: str, done: subprocess.CompletedProcess[bytes]) -> None:
    if done.returncode:
        raise KbError(f"{program} failed: {done.stderr.decode(errors='replace').strip()[:600]}")
