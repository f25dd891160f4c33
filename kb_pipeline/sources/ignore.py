"""Which paths of a folder are documents: globs to take, git-style rules to leave out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pathspec import GitIgnoreSpec

from kb_pipeline.errors import ConfigError
from kb_pipeline.sources.formats import format_of

ALWAYS = (
    ".git/ .hg/ .svn/ .kb/ .kbignore .DS_Store node_modules/ bower_components/ .venv/ venv/ __pycache__/ *.egg-info/ "
    ".tox/ .nox/ .mypy_cache/ .ruff_cache/ .pytest_cache/ .hypothesis/ .ipynb_checkpoints/ .idea/ .vscode/ .terraform/ "
    "*.min.js *.min.css *.map *.lock package-lock.json pnpm-lock.yaml ~$*"
).split()
"""Left out unless a later rule takes it back with `!`."""
BRACES = re.compile(r"\{([^{}]*,[^{}]*)\}")


@dataclass(frozen=True, slots=True)
class Selection:
    """Decides by relative POSIX path."""

    wanted: GitIgnoreSpec | None
    left_out: GitIgnoreSpec

    def ignores(self, path: str, *, folder: bool = False) -> bool:
        """Whether rules leave the path out; nothing below such a folder is looked at."""
        return self.left_out.match_file(f"{path}/" if folder else path)

    def takes(self, path: str) -> bool:
        """Whether a file of this path, not ignored, is a document: by pattern, or without any by a known format."""
        return self.wanted.match_file(path) if self.wanted is not None else format_of(path) is not None


def selection(patterns: Sequence[str], ignore: Iterable[str]) -> Selection:
    """What the configured `patterns` and `ignore` (with the lines of `.kbignore`) say. Raises `ConfigError`."""
    try:
        wanted = GitIgnoreSpec.from_lines([each for p in patterns for each in _braces(p)]) if patterns else None
        return Selection(wanted, GitIgnoreSpec.from_lines([*ALWAYS, *ignore]))
    except ValueError as error:
        raise ConfigError(f"a pattern of the source is not valid: {error}") from error


def _braces(pattern: str) -> list[str]:
    """`*.{md,rst}` as `*.md` and `*.rst`, which git's patterns cannot say."""
    match = BRACES.search(pattern)
    if match is None:
        return [pattern]
    head, tail = pattern[: match.start()], pattern[match.end() :]
    return [each for choice in match[1].split(",") for each in _braces(f"{head}{choice}{tail}")]
