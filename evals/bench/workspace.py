"""A knowledge base of its own for a benchmark: temporary `KB_HOME`, server up, `kb` as whole processes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from evals.bench.common import Measured, measure

KB = [sys.executable, "-c", "from kb_pipeline.cli.app import run; run()"]
"""What the `kb` script runs, in this interpreter."""


class Workspace:
    """`kb` in a folder of its own; `settings` are environment variables. A benchmark gets one from `workspace()`."""

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.home.mkdir(parents=True, exist_ok=True)
        # No setting of the caller may change what is measured.
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("KB_", "DAGSTER_"))}
        own = {"KB_HOME": str(self.home), "NO_COLOR": "1", "COLUMNS": "200"}
        self.env: Mapping[str, str] = {**kept, **own, **(settings or {})}

    def configure(self, toml: str) -> None:
        """Write kb.toml, which every command from now on reads."""
        (self.folder / "kb.toml").write_text(toml, encoding="utf-8")

    def kb(
        self, *arguments: str | Path, accept: Sequence[int] = (0,), env: Mapping[str, str] | None = None
    ) -> Measured:
        """One `kb` command, measured as a whole process."""
        return measure([*KB, *arguments], env={**self.env, **(env or {})}, cwd=self.folder, accept=accept)

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """A `kb` command that goes on beside this process; what it says goes to a file named after it."""
        with (self.folder / f"{arguments[0]}.log").open("ab") as log:
            return subprocess.Popen([*KB, *arguments], env=dict(self.env), cwd=self.folder, stdout=log, stderr=log)

    def json(self, *arguments: str | Path, accept: Sequence[int] = (0,)) -> Any:
        """What a `kb ... --json` command answers."""
        return json.loads(self.kb(*arguments, "--json", accept=accept).stdout)

    def chunks(self, *arguments: str) -> list[dict[str, Any]]:
        """All of `kb chunks`."""
        # Not splitlines(): a text may hold U+2028 and other line ends that JSON does not escape.
        return [json.loads(line) for line in self.kb("chunks", *arguments).stdout.split("\n") if line]

    def dsn(self) -> str:
        """The engine's database."""
        return self.kb("db", "url").stdout.strip()

    def query(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Rows of a statement as the server's superuser."""
        import psycopg

        with psycopg.connect(self.dsn(), autocommit=True) as conn:
            return conn.execute(sql.encode(), values or None).fetchall()

    def texts_embedded(self) -> int:
        """Texts that were ever given to an embedder in this knowledge base."""
        return int(self.query("SELECT coalesce(sum(texts), 0) FROM kb.spend")[0][0])


@contextmanager
def workspace(*, keep: Path | None = None) -> Iterator[Workspace]:
    """A workspace with the embedded server up; removed at the end, unless its folder is given in `keep`."""
    folder = keep or Path(tempfile.mkdtemp(prefix="kb-bench-"))
    # The embedded server may run as a user of its own when the caller is root: it must be able to reach its folder.
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    space = Workspace(folder)
    space.kb("db", "start")
    try:
        yield space
    finally:
        subprocess.run([*KB, "db", "stop"], env=dict(space.env), cwd=folder, capture_output=True, check=False)
        if keep is None:
            shutil.rmtree(folder, ignore_errors=True)
