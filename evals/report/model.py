"""What a report is made of: figures, tables, plots and words. One value of this, drawn in three forms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Tone = Literal["good", "bad", "warn", "plain"]
Style = Literal["main", "other", "third"]
"""main: the build under test. other: the live build beside it, or the second of several. third: the third."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One headline number."""

    label: str
    value: str
    """With its unit."""
    note: str = ""
    """Interval, limit or what it is compared with."""
    change: str = ""
    """Arrow and difference against the live build; empty without one."""
    tone: Tone = "plain"


@dataclass(frozen=True, slots=True)
class Words:
    """A paragraph."""

    text: str


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text. Column names carry the unit."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: tuple[int, ...] = ()
    """Columns that are set to the right."""
    note: str = ""
    tones: tuple[Tone, ...] = ()
    """One per row, or none."""
    toned: int = 1
    """The column that the tone colours."""
    widths: tuple[int, ...] = ()
    """Per cent of the width, one per column, or none: as the texts need."""


@dataclass(frozen=True, slots=True)
class Line:
    """Points joined in their order."""

    name: str
    points: tuple[tuple[float, float], ...]
    style: Style = "main"
    labels: tuple[str, ...] = ()
    """One per point, or none; "" shows nothing."""
    crossed: tuple[int, ...] = ()
    """Places of points that are drawn as a cross (runs that failed)."""


@dataclass(frozen=True, slots=True)
class LineChart:
    """Lines over a number."""

    x_name: str
    y_name: str
    lines: tuple[Line, ...]
    limit: tuple[float, str] | None = None
    """A horizontal line and what it means."""
    x_texts: tuple[tuple[float, str], ...] = ()
    """Ticks that are words (dates, run numbers) in place of numbers."""
    y_most: float | None = None
    """Nothing can be above this (recall: 1)."""
    least_span: float = 0.0
    """The scale covers at least this much, so that noise does not look like a change."""
    zero: bool = False
    """The scale begins at zero."""
    small: bool = False
    """One of several in a row."""
    log: bool = False
    """The x scale is logarithmic; all x are above zero."""


@dataclass(frozen=True, slots=True)
class Bars:
    """Upright bars: one per group and series."""

    x_name: str
    y_name: str
    groups: tuple[str, ...]
    series: tuple[tuple[str, Style, tuple[float, ...]], ...]
    values: bool = False
    """Write the number on each bar."""
    thin: bool = False
    """A histogram: bars touch, only some groups are named."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """Lying bars with a name each, largest first."""

    x_name: str
    y_name: str
    items: tuple[tuple[str, float], ...]


Chart = LineChart | Bars | Ranks


@dataclass(frozen=True, slots=True)
class Plot:
    """A chart with its title and, in words, what it shows (also its text for a screen reader)."""

    title: str
    chart: Chart
    words: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """A part below the first screen."""

    title: str
    blocks: tuple[Words | Table | Plot, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """All of a report. The first screen is everything before `sections`."""

    tenant_id: str
    eval_id: int
    created_at: str
    verdict: Literal["pass", "fail"]
    subject: str
    """Which build was measured, in words."""
    against: str
    """Which live build it is compared with, or that there is none."""
    why: tuple[str, ...]
    figures: tuple[Figure, ...]
    rules: Table
    changes: Table | None
    trend: tuple[Plot, ...]
    sections: tuple[Section, ...]
    footer: str
    next_step: str = ""
    """What happens now, and what a person can do."""
    marks: tuple[str, ...] = ()
    """What a reader must know before the numbers: builds that went live against their verdict."""
