"""The report as Markdown for the Dagster UI: tables, and plots as pictures with a background of their own."""

from __future__ import annotations

from evals.report.model import Plot, Report, Section, Table, Words
from evals.report.numbers import day
from evals.report.svg import data_uri


def markdown(report: Report, *, html_path: str | None = None) -> str:
    """GitHub-flavoured Markdown without HTML, since the UI shows none."""
    badge = "✓ **PASS**" if report.verdict == "pass" else "✗ **FAIL**"
    parts = [
        f"## {badge} · {_cell(report.tenant_id)} · eval run {report.eval_id}",
        f"{_text(report.subject)} ({_text(report.against)}), {day(report.created_at)}",
        "\n".join(f"**! {_text(mark)}**" for mark in report.marks),
        "\n".join(f"- {_text(reason)}" for reason in report.why),
        f"**Next:** {_coded(report.next_step)}" if report.next_step else "",
    ]
    changed = any(figure.change for figure in report.figures)
    columns = ("", "Value", "Detail", *(("Against the live build",) if changed else ()))
    rows = tuple(
        (
            f"**{_cell(figure.label)}**",
            f"**{_cell(figure.value)}**",
            _cell(figure.note),
            *((_cell(figure.change),) if changed else ()),
        )
        for figure in report.figures
    )
    parts.append(_grid(columns, rows, (1,)))
    parts.append(" ".join(_plot(plot) for plot in report.trend))
    parts += [_table(report.changes)] if report.changes else []
    parts.append(_table(report.rules))
    parts += [_section(section) for section in report.sections]
    if html_path:
        parts.append(_coded(f"The same report as a file: `{html_path}`"))
    parts.append(f"*{_text(report.footer)}*")
    return "\n\n".join(part for part in parts if part) + "\n"


def _section(section: Section) -> str:
    parts = [f"### {_text(section.title)}"]
    for block in section.blocks:
        match block:
            case Words(text):
                parts.append(_text(text))
            case Table():
                parts.append(_table(block))
            case Plot():
                parts.append(_plot(block))
    return "\n\n".join(parts)


def _plot(plot: Plot) -> str:
    words = plot.words.replace("[", "(").replace("]", ")").replace("\n", " ")
    return f"![{plot.title}. {words}]({data_uri(plot)})"


def _table(table: Table) -> str:
    rows = tuple(tuple(_cell(cell) for cell in row) for row in table.rows)
    grid = _grid(tuple(_cell(column) for column in table.columns), rows, table.numeric)
    title = f"**{_text(table.title)}**\n\n" if table.title else ""
    return title + grid + (f"\n\n{_text(table.note)}" if table.note else "")


def _grid(columns: tuple[str, ...], rows: tuple[tuple[str, ...], ...], numeric: tuple[int, ...]) -> str:
    rule = "|".join(" ---: " if place in numeric else " --- " for place in range(len(columns)))
    return "\n".join([f"| {' | '.join(columns)} |", f"|{rule}|", *(f"| {' | '.join(row)} |" for row in rows)])


_MARKS = str.maketrans({mark: f"\\{mark}" for mark in "\\`*_[]<>|"})


def _text(text: str) -> str:
    """Text from outside (ids, questions) can neither format nor become HTML."""
    return " ".join(text.split()).translate(_MARKS)


def _coded(text: str) -> str:
    """What stands between backquotes is code, in blocks of its own: the UI drops the blank before code in a line."""
    parts = text.split("`")
    blocks = [f"```\n{part}\n```" if place % 2 else _text(part.lstrip(" ;.")) for place, part in enumerate(parts)]
    return "\n\n".join(block for block in blocks if block)


def _cell(text: str) -> str:
    return " · ".join(_text(line) for line in text.split("\n") if line.strip())
