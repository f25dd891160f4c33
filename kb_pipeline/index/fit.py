"""`ef_search = "auto"`: the smallest width that reaches the target recall, from a build's own curve. Pure."""

from __future__ import annotations

from collections.abc import Callable

WIDTHS = tuple(sorted({round(10 * 1.1**step) for step in range(48)} | {1000}))
"""10 to 1,000 in steps of a tenth: a width is missed by at most that much."""
AIM = 0.8
"""Of what the target allows to miss: the next questions are others. It costs about a quarter more width, and half more
would be waste."""
Curve = Callable[[int], float]
"""ef_search -> recall."""


def targets(target_recall: float) -> dict[str, float]:
    """Recall that each profile aims at: `default` at the target, `interactive` may miss twice as much, `offline` a
    quarter."""
    missed = 1 - target_recall
    return {"interactive": 1 - 2 * missed, "default": target_recall, "offline": 1 - missed / 4}


def smallest_width(curve: Curve, target: float) -> int:
    """The smallest of `WIDTHS` that reaches the target with what `AIM` leaves to spare, found by halving; 1,000 when
    none does."""
    low, high = 0, len(WIDTHS) - 1
    while low < high:
        middle = (low + high) // 2
        if curve(WIDTHS[middle]) >= 1 - (1 - target) * AIM:
            high = middle
        else:
            low = middle + 1
    return WIDTHS[low]
