"""The smallest `ef_search` that reaches a recall, from a build's own curve. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

WIDTHS = tuple(sorted({round(10 * 1.05**step) for step in range(95)} | {1000}))
"""10 to 1,000 in steps of a twentieth: a width is missed by at most that much."""
AIM = 0.8
"""Of what the target allows to miss: the next questions are others. It costs about a quarter more width, and half more
would be waste."""
HOLD = 0.7
"""The same for a floor that no ten seconds of searching may go under: mean recall of 500 questions varies by 0.008."""
Curve = Callable[[int], tuple[float, float]]
"""ef_search -> recall, and its standard error."""


def targets(target_recall: float) -> dict[str, float]:
    """Recall that each profile aims at: `default` at the target, `interactive` may miss twice as much, `offline` a
    quarter."""
    missed = 1 - target_recall
    return {"interactive": 1 - 2 * missed, "default": target_recall, "offline": 1 - missed / 4}


def smallest_width(curve: Curve, target: float, widths: Sequence[int] = WIDTHS, *, aim: float = AIM) -> int:
    """The smallest width that reaches the target with something to spare, found by halving; the last when none does.

    To spare: what `aim` leaves of the target, or the standard error where that is more, with few questions.
    """
    low, high = 0, len(widths) - 1
    while low < high:
        middle = (low + high) // 2
        if reaches(curve(widths[middle]), target, aim=aim):
            high = middle
        else:
            low = middle + 1
    return widths[low]


def reaches(measured: tuple[float, float], target: float, *, aim: float = AIM) -> bool:
    """Whether this recall, with its standard error, is the target's and something to spare."""
    recall, error = measured
    return recall - target >= max((1 - aim) * (1 - target), error) - 1e-9


def mean_and_error(recalls: npt.NDArray[np.float64], question: npt.NDArray[np.int64]) -> tuple[float, float]:
    """Mean recall `(n,)` and its standard error; `question` `(n,)` says which ones are variants of one question, and
    so no evidence of their own."""
    counts = np.bincount(question)
    each = np.bincount(question, recalls)[counts > 0] / counts[counts > 0]
    return float(recalls.mean()), float(each.std() / len(each) ** 0.5)
