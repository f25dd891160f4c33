"""The corpora of the benchmarks: weekly revisions in git bundles, under `KB_TEST_DATA` (default: ../shared/data)."""

from __future__ import annotations

import csv
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from evals.bench.common import REPOSITORY


@dataclass(frozen=True, slots=True)
class Revision:
    """One weekly state of a corpus."""

    week: str
    commit: str
    files: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Corpus:
    """A working tree that can stand at any of its weekly revisions."""

    name: str
    tree: Path
    revisions: tuple[Revision, ...]

    def checkout(self, revision: Revision) -> Path:
        """Bring the tree to a revision; unchanged files are not touched. The folder."""
        _git("-C", str(self.tree), "checkout", "--quiet", "--force", "--detach", revision.commit)
        return self.tree


def data_folder() -> Path | None:
    """Where the test data is, or None."""
    named = os.environ.get("KB_TEST_DATA")
    folder = Path(named).expanduser() if named else REPOSITORY.parent / "shared" / "data"
    return folder.resolve() if folder.is_dir() else None


def missing_data() -> str:
    """Why a benchmark or test on real data is skipped."""
    return "no test data: set KB_TEST_DATA to the folder that holds docs/*.bundle and beir/*"


def clone(name: str, folder: Path, *, data: Path) -> Corpus:
    """Unpack `powershell`, `opentelemetry` or `prometheus` into `folder/name`."""
    source = data / "docs" / f"{name}-docs"
    tree = folder / name
    if not tree.exists():
        _git("clone", "--quiet", str(source / f"{name}-docs.bundle"), str(tree))
    with (source / "CHURN.tsv").open(encoding="utf-8", newline="") as lines:
        # The table has the commit ids of the original repository; a bundle is cut down to the documentation.
        revisions = tuple(
            Revision(row["rev"], _commit_at(tree, row["commit_date"]), int(row["md_files"]), int(row["bytes"]))
            for row in csv.DictReader(lines, delimiter="\t")
        )
    return Corpus(name, tree, revisions)


def _commit_at(tree: Path, date: str) -> str:
    return _git("-C", str(tree), "rev-list", "-1", f"--before={date}", "origin/HEAD")


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout.strip()
