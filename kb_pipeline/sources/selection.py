"""Which paths of a folder are documents: glob patterns, git-style ignore rules, known formats."""

from __future__ import annotations

from collections.abc import Sequence

import pathspec

from kb_pipeline.sources.formats import format_of

ALWAYS_IGNORED = (
    ".git/", ".hg/", ".svn/", ".venv/", "venv/", "node_modules/", "__pycache__/", ".tox/", ".nox/", ".mypy_cache/",
    ".pytest_cache/", ".ruff_cache/", ".idea/", ".kb/", ".DS_Store", ".kbignore", "*~", "*.swp",
)  # fmt: skip
IGNORE_FILE = ".kbignore"


class Selection:
    """What of a folder is taken. Paths are POSIX and relative to its root."""

    def __init__(self, patterns: Sequence[str], ignore: Sequence[str]) -> None:
        self._wanted = pathspec.PathSpec.from_lines("gitwildmatch", patterns) if patterns else None
        self._ignored = pathspec.PathSpec.from_lines("gitwildmatch", [*ALWAYS_IGNORED, *ignore])

    def format_of(self, path: str) -> str | None:
        """The format to read a file in, None when it is not taken. What a pattern asks for by name is text at least."""
        if self._ignored.match_file(path):
            return None
        known = format_of(path)
        if self._wanted is None:
            return known
        return (known or "text") if self._wanted.match_file(path) else None

    def wants(self, path: str) -> bool:
        """Whether something that is not a regular file would be taken by its name."""
        return not self._ignored.match_file(path) and (self._wanted is None or self._wanted.match_file(path))

    def enters(self, folder: str) -> bool:
        """Whether a folder is looked into."""
        return not self._ignored.match_file(folder + "/")

