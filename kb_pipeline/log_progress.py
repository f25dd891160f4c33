"""Progress as log lines: one every ten seconds, which Dagster shows in the run's log."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

EVERY_S = 10.0


class LogProgress:
    """Writes a line for each task every ten seconds, and one at its end when it took that long."""

    def __init__(self, say: Callable[[str], None] | None = None, *, every_s: float = EVERY_S) -> None:
        self._say = say or _log
        self._every_s = every_s

    def task(self, name: str, total: int | None, unit: str) -> LogTask:
        """A task that advances towards `total` units (None: not known)."""
        return LogTask(name, total, unit, self._say, self._every_s)


def _log(line: str) -> None:
    log.info("%s", line)


class LogTask:
    """One task; not safe for use by several threads at once, like the stages that advance it."""

    def __init__(self, name: str, total: int | None, unit: str, say: Callable[[str], None], every_s: float) -> None:
        self._name = name
        self._total = total
        self._unit = unit
        self._say = say
        self._every_s = every_s
        self._done = 0
        self._facts: dict[str, object] = {}
        self._started = self._said = time.monotonic()

    def advance(self, n: int = 1, **facts: object) -> None:
        """`n` more units are done; facts (rate limits, retries) stand behind the numbers."""
        self._done += n
        if facts:  # what is not said any more does not hold any more: a breaker that closed, a wait that is over
            self._facts = facts
        now = time.monotonic()
        if now - self._said >= self._every_s:
            self._said = now
            self._say(self.line(now))

    def done(self) -> None:
        """The task has ended; said only when it took long enough to have been announced."""
        now = time.monotonic()
        if now - self._started >= self._every_s:
            self._say(self.line(now) + ", done")

    def line(self, now: float) -> str:
        """Name, amount, rate, time left and facts in one line."""
        seconds = max(now - self._started, 1e-6)
        rate = self._done / seconds
        parts = [f"{self._name}: {self._done:,}" + (f" of {self._total:,}" if self._total else "") + f" {self._unit}"]
        parts.append(f"{rate:,.0f}/s")
        if self._total and rate and self._done < self._total:
            parts.append(f"{(self._total - self._done) / rate:,.0f} s left")
        parts += [f"{key.replace('_', ' ')} {value}" for key, value in self._facts.items()]
        return ", ".join(parts)
