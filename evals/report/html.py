"""The report as one HTML file: no script, no network, light and dark, wide and narrow."""

from __future__ import annotations

from html import escape
from pathlib import Path

from evals.report.model import Figure, LineChart, Plot, Report, Section, Table, Words
from evals.report.numbers import day
from evals.report.svg import NARROW, SMALL, WIDE, inline


def html(report: Report) -> str:
    """The whole page."""
    passed = report.verdict == "pass"
    css = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
    title = f"{report.tenant_id}: {'passed' if passed else 'failed'}, eval run {report.eval_id}"
    badge, mark = ("good", "✓ Pass") if passed else ("bad", "✗ Fail")
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in report.why)
    first = [
        f'<header><div class="top"><span class="badge {badge}">{mark}</span><h1>{escape(report.tenant_id)}</h1></div>',
        f'<p class="sub"><strong>{escape(report.subject)}</strong>, {escape(report.against)}. ',
        f"Eval run {report.eval_id}, {day(report.created_at)}.</p></header>",
        "".join(f'<p class="mark">! {escape(mark)}</p>' for mark in report.marks),
        f'<div class="figures">{"".join(_figure(figure) for figure in report.figures)}</div>',
        f'<section class="why"><h2>Why</h2><ul>{reasons}</ul>{_next(report.next_step)}</section>',
    ]
    if report.trend:
        plots = "".join(_plot(plot) for plot in report.trend)
        first.append(f'<section><h2>Trend</h2><div class="plots small">{plots}</div></section>')
    if report.changes:
        first.append(f"<section>{_table(report.changes, heading='h2')}</section>")
    first.append(f"<section>{_table(report.rules, heading='h2')}</section>")
    body = "".join(first) + "".join(_section(section) for section in report.sections)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>{escape(title)}</title><style>{css}</style></head>'
        f"<body><main>{body}<footer>{escape(report.footer)}</footer></main></body></html>\n"
    )


def _next(step: str) -> str:
    """The sentence, with what stands between backquotes set as code."""
    parts = escape(step).split("`")
    texts = (f"<code>{part}</code>" if place % 2 else part for place, part in enumerate(parts))
    return f'<p class="next"><strong>Next:</strong> {"".join(texts)}</p>' if step else ""


def _figure(figure: Figure) -> str:
    change = f'<div class="change">{escape(figure.change)} <span>against live</span></div>' if figure.change else ""
    return (
        f'<div class="figure {figure.tone}"><div class="label">{escape(figure.label)}</div>'
        f'<div class="value">{escape(figure.value)}</div>'
        f'{change}<div class="note">{escape(figure.note)}</div></div>'
    )


def _section(section: Section) -> str:
    parts: list[str] = []
    row: list[str] = []
    for block in section.blocks:
        if isinstance(block, Plot):
            row.append(_plot(block))
            continue
        if row:
            parts.append(f'<div class="plots">{"".join(row)}</div>')
            row = []
        parts.append(f"<p>{escape(block.text)}</p>" if isinstance(block, Words) else _table(block))
    if row:
        parts.append(f'<div class="plots">{"".join(row)}</div>')
    return f"<section><h2>{escape(section.title)}</h2>{''.join(parts)}</section>"


def _plot(plot: Plot) -> str:
    words = f"<figcaption>{escape(plot.words)}</figcaption>" if plot.words else ""
    wide = SMALL if isinstance(plot.chart, LineChart) and plot.chart.small else WIDE
    return (
        f'<figure><h3>{escape(plot.title)}</h3><div class="wide">{inline(plot, wide)}</div>'
        f'<div class="narrow">{inline(plot, NARROW)}</div>{words}</figure>'
    )


def _table(table: Table, *, heading: str = "h3") -> str:
    def cell(tag: str, place: int, text: str) -> str:
        names = ["number"] * (place in table.numeric) + ["toned"] * (tag == "td" and place == table.toned)
        kind = f' class="{" ".join(names)}"' if names else ""
        lines = "<br>".join(escape(line) for line in text.split("\n"))
        name = f' data-name="{escape(table.columns[place], quote=True)}"' if tag == "td" else ""
        return f"<{tag}{kind}{name}>{lines}</{tag}>"

    head = "".join(cell("th", place, column) for place, column in enumerate(table.columns))
    rows = "".join(
        f'<tr class="{table.tones[number] if table.tones else "plain"}">'
        + "".join(cell("td", place, text) for place, text in enumerate(row))
        + "</tr>"
        for number, row in enumerate(table.rows)
    )
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    columns = "".join(f'<col style="width:{width}%">' for width in table.widths)
    title = f"<{heading}>{escape(table.title)}</{heading}>" if table.title else ""
    wordy = len(table.columns) > 3 and len(table.columns) - len(table.numeric) > 1
    names = ["stacked"] * wordy + ["fixed"] * bool(columns)  # stacked on a narrow screen; numbers are scrolled
    kind = f' class="{" ".join(names)}"' if names else ""
    return (
        f'{title}<div class="scroll"><table{kind}>{columns}'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>{note}"
    )
