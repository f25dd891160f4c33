"""How evals search a build: a small callable, so that every measurement runs the SQL that users are served with."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float32]

Searcher = Callable[[Vector, int, int | None], list[bytes]]
"""(question vector, k, ef_search or None for the default profile) -> fingerprints, best first."""
OpenSearcher = Callable[[], AbstractContextManager[Searcher]]
"""Gives a searcher with a connection of its own: each caller of the load test has one."""
