"""Scales and ticks for the plots."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps numbers to pixels."""

    low: float
    high: float
    start: float
    """Pixel of `low`."""
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The pixel of a value."""
        low, high, at = (math.log(one) if self.log else one for one in (self.low, self.high, value))
        return self.start + (at - low) / (high - low or 1.0) * (self.end - self.start)


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten within [low, high]; the ends where those are fewer than two."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [base * 10.0**power for power in powers for base in (1, 2, 5)]
    found = [value for value in found if low * 0.999 <= value <= high * 1.001]
    return found if len(found) > 1 else list(dict.fromkeys(float(f"{value:.2g}") for value in (low, high)))


def ticks(low: float, high: float, *, about: int = 5) -> list[float]:
    """Round numbers that enclose [low, high], about so many (Heckbert 1990, "Nice numbers for graph labels")."""
    span = high - low or abs(high) or 1.0
    rough = span / max(1, about)
    power = 10 ** math.floor(math.log10(rough))
    step = next(base * power for base in (1, 2, 2.5, 5, 10) if base * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(place * step, 10) for place in range(first, last + 1)]


def spread(
    values: Sequence[float], *, most: float | None = None, room: float = 0.12, least: float = 0.0, zero: bool = False
) -> tuple[float, float]:
    """A range of at least `least` that shows the values with some room; not below zero for numbers that are not, nor
    above `most`."""
    if not values:
        return 0.0, 1.0
    low, high = (min(0.0, min(values)) if zero else min(values)), max(values)
    if high - low < least:
        below = min(low, 0.0) if zero else -math.inf
        low, high = max(below, (low + high - least) / 2), (low + high + least) / 2
        if most is not None and high > most:
            low, high = most - least, most
    gap = (high - low) * room or abs(high) * 0.05 or 0.5
    bottom = max(0.0, low - gap) if low >= 0 else low - gap
    return bottom, high + gap if most is None else min(most, high + gap)


def label(value: float, step: float) -> str:
    """The tick's number with as many decimals as its step needs."""
    decimals = max(0, -math.floor(math.log10(abs(step) or 1) + 1e-9))
    if abs(value) >= 10_000:
        return f"{value / 1000:,.0f}k" if abs(value) < 1_000_000 else f"{value / 1e6:,.1f}M"
    if abs(step / 10**-decimals - round(step / 10**-decimals)) > 1e-6:
        decimals += 1
    return f"{value:,.{decimals}f}"
