"""The free embedder that every peer is given: wordllama, 256 dimensions, offline, unit length. Counts what it embeds.

The peers run in virtual environments of their own, so this file and its neighbours import nothing of the engine.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

PIECE_CHARACTERS = 1200
"""Size of a piece; no overlap, the same for every peer."""


class CountingEmbedder:
    """wordllama loaded on first use; `texts` is how many texts were embedded."""

    def __init__(self) -> None:
        self.texts = 0
        self._model: Any = None

    def embed(self, texts: list[str]) -> Any:
        """`(n, 256) float32`, rows of unit length."""
        if self._model is None:
            from wordllama import WordLlama

            spec = find_spec("wordllama")
            assert spec is not None and spec.origin is not None
            folder = Path(spec.origin).parent
            self._model = WordLlama.load(cache_dir=folder, disable_download=True)
        self.texts += len(texts)
        return self._model.embed(texts, norm=True)


def markdown_files(root: Path) -> list[Path]:
    """Every `*.md` below the folder, in a fixed order."""
    return sorted(path for path in root.rglob("*.md") if path.is_file())
