"""How sure a number is: bootstrap intervals, a paired test, and how many questions it takes to see a difference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

RESAMPLES = 10_000
SEED = 20_240_117
"""Fixed, so that the same values always give the same interval and p-value."""
_AT_ONCE = 2_000_000


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and where it would fall in 95 of 100 samples of questions like these."""

    mean: float
    low: float
    high: float
    n: int
    """Questions."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """New minus old over the same questions."""

    old: float
    new: float
    difference: Interval
    p: float
    """Two-sided paired randomisation test; below 0.05 the difference is called detected."""
    better: int
    worse: int
    equal: int
    questions_needed: int | None
    """Questions that would show a difference of the observed size with 80 % power; None where nothing differs."""

    @property
    def detected(self) -> bool:
        """The difference is larger than chance between equal builds would explain (5 % level)."""
        return self.p < 0.05


def bootstrap(values: Sequence[float] | npt.NDArray[np.float64], *, level: float = 0.95) -> Interval:
    """Percentile bootstrap over questions (Efron 1979). No values: all zero with n = 0; one value: a point."""
    sample = np.asarray(values, dtype=np.float64)
    n = sample.size
    if n == 0:
        return Interval(0.0, 0.0, 0.0, 0)
    mean = float(sample.mean())
    if n == 1 or float(np.ptp(sample)) == 0.0:
        return Interval(mean, mean, mean, n)
    rng = np.random.default_rng(SEED)
    step = max(1, _AT_ONCE // n)
    means = np.concatenate(
        [
            sample[rng.integers(0, n, size=(min(step, RESAMPLES - start), n))].mean(axis=1)
            for start in range(0, RESAMPLES, step)
        ]
    )
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean, float(low), float(high), n)


def compare(old: Sequence[float], new: Sequence[float]) -> Comparison:
    """Compares two builds question by question. The sequences are aligned; `ValueError` when their lengths differ.

    The test flips the sign of each difference at random (Fisher 1935; Smucker, Allan and Carterette 2007 recommend it
    for retrieval). It assumes nothing about the distribution, and its false alarms stay at 5 %.
    """
    before, after = np.asarray(old, dtype=np.float64), np.asarray(new, dtype=np.float64)
    if before.shape != after.shape:
        raise ValueError(f"{before.size} old values against {after.size} new ones: they must be of the same questions")
    differences = after - before
    moved = differences[differences != 0]
    spread = float(differences.std(ddof=1)) if differences.size > 1 else 0.0
    mean = float(differences.mean()) if differences.size else 0.0
    return Comparison(
        old=float(before.mean()) if before.size else 0.0,
        new=float(after.mean()) if after.size else 0.0,
        difference=bootstrap(differences),
        p=_sign_flip(moved),
        better=int((moved > 0).sum()),
        worse=int((moved < 0).sum()),
        equal=int(differences.size - moved.size),
        questions_needed=questions_needed(abs(mean), spread) if mean and spread else None,
    )


def questions_needed(difference: float, spread: float, *, power: float = 0.8, level: float = 0.95) -> int:
    """Questions a paired test needs to see `difference` when single differences have standard deviation `spread`."""
    normal = NormalDist()
    z = normal.inv_cdf((1 + level) / 2) + normal.inv_cdf(power)
    return max(2, math.ceil((z * spread / difference) ** 2))


def _sign_flip(moved: npt.NDArray[np.float64]) -> float:
    """p of the mean under random signs. Equal values change nothing under a flip, so only moved questions are drawn."""
    n = moved.size
    if n == 0:
        return 1.0
    observed = abs(float(moved.sum())) - 1e-12
    if n <= 13:  # all sign patterns: exact
        signs = ((np.arange(2**n)[:, None] >> np.arange(n)) & 1) * 2.0 - 1.0
        return float((np.abs(signs @ moved) >= observed).mean())
    rng = np.random.default_rng(SEED)
    step, extreme = max(1, _AT_ONCE // n), 0
    for start in range(0, RESAMPLES, step):
        signs = rng.integers(0, 2, size=(min(step, RESAMPLES - start), n)) * 2.0 - 1.0
        extreme += int((np.abs(signs @ moved) >= observed).sum())
    return (extreme + 1) / (RESAMPLES + 1)
