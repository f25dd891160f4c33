"""Progress of the stages on a terminal: bars where someone watches, a line every ten seconds where not."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from kb_pipeline.log_progress import LogProgress

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

    from kb_pipeline.stages.context import TaskHandle


def terminal_progress() -> RichProgress | LogProgress:
    """Bars on a terminal, plain lines on standard error elsewhere."""
    if sys.stderr.isatty():
        return RichProgress()
    return LogProgress(lambda line: print(line, file=sys.stderr, flush=True))


class RichProgress:
    """Bars on standard error, one for each task of the run; the display starts with the first task."""

    def __init__(self) -> None:
        self._bars: Bars | None = None
        self._open = 0

    def task(self, name: str, total: int | None, unit: str) -> TaskHandle:
        """A bar that advances towards `total` units (None: not known)."""
        if self._bars is None:
            self._bars = _bars()
        if self._open == 0:
            self._bars.start()
        self._open += 1
        return _Bar(self, self._bars, name, total, unit)

    def ended(self) -> None:
        """A task ended; the display rests while there is none, so that other output is not drawn over."""
        self._open -= 1
        if self._open == 0 and self._bars is not None:
            self._bars.stop()
            self._bars = None


class _Bar:
    def __init__(self, owner: RichProgress, bars: Bars, name: str, total: int | None, unit: str) -> None:
        self._owner = owner
        self._bars = bars
        self._id = bars.add_task(name, total=total, unit=unit, facts="")
        self._ended = False

    def advance(self, n: int = 1, **facts: object) -> None:
        self._bars.update(self._id, advance=n)
        if facts:
            self._bars.update(
                self._id, facts=", ".join(f"{key.replace('_', ' ')} {value}" for key, value in facts.items())
            )

    def done(self) -> None:
        if self._ended:
            return
        self._ended = True
        task = self._bars.tasks[self._bars.task_ids.index(self._id)]
        self._bars.update(self._id, total=task.completed, completed=task.completed)
        self._owner.ended()


def _bars() -> Bars:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description:<13}"),
        BarColumn(bar_width=28),
        TextColumn("{task.completed:>9,.0f} {task.fields[unit]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[facts]}"),
        console=Console(stderr=True),
    )
