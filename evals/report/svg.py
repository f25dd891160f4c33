"""Charts as SVG. Colours are classes: a page brings them for light and dark, a picture carries its own."""

from __future__ import annotations

from base64 import b64encode
from html import escape

from evals.report.axes import Scale, label, log_ticks, spread, ticks
from evals.report.model import Bars, Chart, Line, LineChart, Plot, Ranks

WIDE, NARROW, SMALL = 560, 340, 280
"""Pixels: a column of a wide page, a telephone, one of four in a row. Letters are 12 px in each."""
LETTER = 6.6
"""Width of a letter at 12 px, on the safe side."""

_OWN_COLOURS = """
.bg{fill:#fff;stroke:#d8dee4}.ink{fill:#1f2328}.muted{fill:#57606a}.grid{stroke:#e4e8ec}.axis{stroke:#8c959f}
.main{stroke:#0b62d6;fill:#0b62d6}.other{stroke:#c2570c;fill:#c2570c}.third{stroke:#7440a8;fill:#7440a8}.limit{stroke:#b3261e}.limit-ink{fill:#b3261e}.hollow{fill:#fff}
"""
_SHAPES = """
text{font:12px system-ui,-apple-system,'Segoe UI',Roboto,sans-serif}.axis,.grid,.limit{stroke-width:1;fill:none}
.line{fill:none;stroke-width:2}.limit{stroke-dasharray:5 4}.bar{stroke:none}.title{font-weight:600;font-size:13px}
"""


def inline(plot: Plot, width: int) -> str:
    """The chart for a page that brings the colours (`html.py`)."""
    body, height = _chart(plot.chart, width)
    return _svg(body, width, height, f"{plot.title}. {plot.words}")


def data_uri(plot: Plot) -> str:
    """The chart as a picture with a background of its own, title included: reads the same on light and dark pages."""
    width = SMALL + 24 if isinstance(plot.chart, LineChart) and plot.chart.small else 640
    body, height = _chart(plot.chart, width - 24)
    frame = (
        f"<style>{_SHAPES}{_OWN_COLOURS}</style>"
        f'<rect class="bg" x=".5" y=".5" width="{width - 1}" height="{height + 43}" rx="6"/>'
        f'<text class="ink title" x="14" y="24">{escape(plot.title)}</text><g transform="translate(12 34)">{body}</g>'
    )
    picture = _svg(frame, width, height + 44, f"{plot.title}. {plot.words}")
    return "data:image/svg+xml;base64," + b64encode(picture.encode()).decode()


def _svg(body: str, width: int, height: int, words: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        f' role="img" aria-label="{escape(words, quote=True)}">{body}</svg>'
    )


def _chart(chart: Chart, width: int) -> tuple[str, int]:
    match chart:
        case LineChart():
            return _lines(chart, width)
        case Bars():
            return _bars(chart, width)
        case Ranks():
            return _ranks(chart, width)


def _lines(chart: LineChart, width: int) -> tuple[str, int]:
    points = [point for line in chart.lines for point in line.points]
    limits = [chart.limit[0]] if chart.limit else []
    values = [y for _, y in points] + limits
    low, high = spread(values, most=chart.y_most, least=chart.least_span, zero=chart.zero)
    rows = ticks(low, high, about=3 if chart.small else 4)
    bottom, top = rows[0], rows[-1] if chart.y_most is None else min(rows[-1], chart.y_most)
    step = rows[1] - rows[0] if len(rows) > 1 else 1.0
    left = 26 + max(len(label(row, step)) for row in rows) * LETTER
    legend = [(line.name, line.style) for line in chart.lines] if len(chart.lines) > 1 else []
    roof, floor = 12 + 20 * bool(legend), 126 if chart.small else 214
    y = Scale(bottom, top, floor, roof)
    if chart.x_texts:
        places = [place for place, _ in chart.x_texts]
        x = Scale(min(places) - 0.3, max(places) + 0.3, left, width - 14)
        marks = _spaced([(x(place), text) for place, text in chart.x_texts])
    elif chart.log:
        x = Scale(min(a for a, _ in points), max(a for a, _ in points), left + 14, width - 28, log=True)
        marks = _spaced([(x(value), f"{value:g}") for value in log_ticks(x.low, x.high)])
    else:
        columns = ticks(*spread([value for value, _ in points]), about=5 if width > 400 else 4)
        x = Scale(columns[0], columns[-1], left, width - 18)
        gap = columns[1] - columns[0] if len(columns) > 1 else 1.0
        marks = [(x(value), label(value, gap)) for value in columns]
    body = [_frame(chart.x_name, chart.y_name, width, left, roof, floor), _legend(legend, left)]
    for row in rows:
        if bottom <= row <= top:
            body.append(_row(left, width - 14, y(row), label(row, step)))
    body += [
        f'<text class="muted" x="{place:.1f}" y="{floor + 17}" text-anchor="middle">{text}</text>'
        for place, text in marks
    ]
    if chart.limit:
        at = y(chart.limit[0])
        above = at - 5 if at - roof > 16 else at + 14
        body.append(f'<line class="limit" x1="{left:.1f}" x2="{width - 14}" y1="{at:.1f}" y2="{at:.1f}"/>')
        body.append(_text(width - 16, above, chart.limit[1], kind="limit-ink", anchor="end"))
    taken: list[tuple[float, float, float, float]] = []
    for line in chart.lines:
        body.append(_line(line, x, y, taken, width, (22.0 if legend else 0.0, floor)))
    return "".join(body), floor + 42


def _line(
    line: Line,
    x: Scale,
    y: Scale,
    taken: list[tuple[float, float, float, float]],
    width: int,
    free: tuple[float, float],
) -> str:
    path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in line.points)
    dash = {"main": "", "other": ' stroke-dasharray="6 3"', "third": ' stroke-dasharray="2 3"'}[line.style]
    parts = [f'<polyline class="line {line.style}" style="fill:none" points="{path}"{dash}/>']
    for place, (a, b) in enumerate(line.points):
        px, py = x(a), y(b)
        if place in line.crossed:
            parts.append(
                f'<path class="limit" style="fill:none;stroke-dasharray:none;stroke-width:2.5" '
                f'd="M{px - 4:.1f} {py - 4:.1f}l8 8m0 -8l-8 8"/>'
            )
        elif line.style == "main":
            parts.append(f'<circle class="main" cx="{px:.1f}" cy="{py:.1f}" r="3.5"/>')
        else:
            parts.append(
                f'<rect class="hollow {line.style}" stroke-width="2" style="fill:var(--card,#fff)" '
                f'x="{px - 3.5:.1f}" y="{py - 3.5:.1f}" width="7" height="7"/>'
            )
        text = line.labels[place] if line.labels else ""
        if not text:
            continue
        half = len(text) * LETTER / 2
        middle = min(max(px, x.start + half), width - 4 - half)
        for down in (18, -9) if line.style == "main" else (-9, 18):
            box = (middle - half, py + down - 11, middle + half, py + down + 3)
            if box[3] < free[1] and box[1] > free[0] and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                parts.append(
                    f'<text class="ink" x="{middle:.1f}" y="{py + down:.1f}" text-anchor="middle">{escape(text)}</text>'
                )
                break
    return "".join(parts)


def _bars(chart: Bars, width: int) -> tuple[str, int]:
    highest = max([value for _, _, values in chart.series for value in values] or [1.0]) or 1.0
    rows = ticks(0.0, highest * (1.1 if chart.values else 1.0), about=4)
    step = rows[1] - rows[0] if len(rows) > 1 else 1.0
    left = 26 + max(len(label(row, step)) for row in rows) * LETTER
    legend = [(name, style) for name, style, _ in chart.series] if len(chart.series) > 1 else []
    roof, floor = 12 + 20 * bool(legend), 214
    y = Scale(0.0, rows[-1], floor, roof)
    body = [_frame(chart.x_name, chart.y_name, width, left, roof, floor), _legend(legend, left)]
    body += [_row(left, width - 14, y(row), label(row, step)) for row in rows]
    slot = (width - 14 - left) / max(1, len(chart.groups))
    wide = slot * (0.9 if chart.thin else 0.72) / max(1, len(chart.series))
    wide = min(wide, 54)
    names: list[tuple[float, str]] = []
    for place, group in enumerate(chart.groups):
        middle = left + slot * (place + 0.5)
        names.append((middle, group))
        for number, (_, style, values) in enumerate(chart.series):
            at = middle + (number - len(chart.series) / 2) * wide
            top = y(values[place])
            body.append(
                f'<rect class="bar {style}" x="{at:.1f}" y="{top:.1f}" '
                f'width="{max(1.0, wide - 1.5):.1f}" height="{max(0.0, floor - top):.1f}"/>'
            )
            if chart.values:
                body.append(_text(at + wide / 2, top - 4, f"{values[place]:.{2 if highest < 10 else 1}f}", kind="ink"))
    shown = _spaced(names)
    body += [
        f'<text class="muted" x="{at:.1f}" y="{floor + 17}" text-anchor="middle">{escape(text)}</text>'
        for at, text in shown
    ]
    return "".join(body), floor + 42


def _ranks(chart: Ranks, width: int) -> tuple[str, int]:
    left = 24 + min(130, max([len(name) for name, _ in chart.items] or [1]) * LETTER)
    highest = max([value for _, value in chart.items] or [1.0]) or 1.0
    columns = ticks(0.0, highest, about=4 if width > 400 else 3)
    x = Scale(0.0, columns[-1], left, width - 52)
    step = columns[1] - columns[0] if len(columns) > 1 else 1.0
    floor = 8 + 22 * max(1, len(chart.items))
    body = [_frame(chart.x_name, chart.y_name, width, left, 4, floor)]
    for column in columns:
        body.append(f'<line class="grid" x1="{x(column):.1f}" x2="{x(column):.1f}" y1="4" y2="{floor}"/>')
        body.append(_text(x(column), floor + 17, label(column, step)))
    for place, (name, value) in enumerate(chart.items):
        top = 8 + place * 22
        short = name if len(name) * LETTER <= 130 else name[: int(130 / LETTER) - 1] + "…"
        body.append(f'<text class="ink" x="{left - 6:.1f}" y="{top + 12}" text-anchor="end">{escape(short)}</text>')
        body.append(
            f'<rect class="bar main" x="{left:.1f}" y="{top}" width="{max(1.0, x(value) - left):.1f}" height="15"/>'
        )
        body.append(f'<text class="ink" x="{x(value) + 5:.1f}" y="{top + 12}">{value:,.0f}</text>')
    return "".join(body), floor + 42


def _frame(x_name: str, y_name: str, width: int, left: float, roof: float, floor: float) -> str:
    middle = (roof + floor) / 2
    return (
        f'<line class="axis" x1="{left:.1f}" x2="{width - 14}" y1="{floor}" y2="{floor}"/>'
        f"{_text((left + width - 14) / 2, floor + 36, x_name)}"
        f'<g transform="translate(11 {middle:.1f}) rotate(-90)">{_text(0, 0, y_name)}</g>'
    )


def _text(x: float, y: float, text: str, *, kind: str = "muted", anchor: str = "middle") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _row(left: float, right: float, at: float, text: str) -> str:
    return (
        f'<line class="grid" x1="{left:.1f}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"/>'
        f'<text class="muted" x="{left - 6:.1f}" y="{at + 4:.1f}" text-anchor="end">{text}</text>'
    )


def _legend(entries: list[tuple[str, str]], left: float) -> str:
    parts: list[str] = []
    for name, style in entries:
        parts.append(f'<rect class="bar {style}" x="{left:.1f}" y="3" width="11" height="11" rx="2"/>')
        parts.append(f'<text class="ink" x="{left + 16:.1f}" y="13">{escape(name)}</text>')
        left += 34 + len(name) * LETTER
    return "".join(parts)


def _spaced(marks: list[tuple[float, str]]) -> list[tuple[float, str]]:
    """The marks that fit beside each other, the first one always."""
    shown: list[tuple[float, str]] = []
    for place, text in marks:
        if not shown or place - shown[-1][0] > (len(text) + len(shown[-1][1])) * LETTER / 2 + 6:
            shown.append((place, text))
    return shown


def _overlap(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
