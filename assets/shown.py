"""Stage summaries as typed metadata for the Dagster UI."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any

import dagster as dg

Shown = dict[str, dg.MetadataValue[Any]]


def shown(summary: Any, *, without: Sequence[str] = ()) -> Shown:
    """Every field of a summary with the metadata type that fits its value; fields in `without` are shown otherwise."""
    facts: Mapping[str, Any] = asdict(summary) if is_dataclass(summary) and not isinstance(summary, type) else summary
    return {name: value_of(value) for name, value in facts.items() if name not in without and value is not None}


def value_of(value: Any) -> dg.MetadataValue[Any]:
    """A number stays one (the UI plots it over time); lists and tables become JSON."""
    match value:
        case bool():
            return dg.MetadataValue.bool(value)
        case int():
            return dg.MetadataValue.int(value)
        case float():
            return dg.MetadataValue.float(round(value, 6))
        case str():
            return dg.MetadataValue.text(value)
        case Mapping():
            return dg.MetadataValue.json({str(key): item for key, item in value.items()})  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        case _:
            return dg.MetadataValue.json(list(value))


def table(rows: Sequence[Mapping[str, Any]]) -> dg.MetadataValue[Any]:
    """Rows as a table; cells are scalars only (what the UI can show), everything else becomes text."""
    records = [dg.TableRecord({key: cell(item) for key, item in row.items()}) for row in rows]
    columns = [dg.TableColumn(name, type=_type(rows, name)) for name in (rows[0] if rows else {})]
    return dg.MetadataValue.table(records, schema=dg.TableSchema(columns))


def picture(title: str, *, x: str, y: str, counts: Mapping[str, int]) -> dg.MetadataValue[Any]:
    """Counts by group as a bar chart: the UI shows pictures inside Markdown from `data:` addresses."""
    if not counts:
        return dg.MetadataValue.md(f"{title}: none")
    from evals.report.model import Bars, Plot
    from evals.report.svg import data_uri

    bars = Bars(x, y, tuple(counts), ((y, "main", tuple(float(count) for count in counts.values())),))
    return dg.MetadataValue.md(f"![{title}]({data_uri(Plot(title, bars))})")


def cell(value: Any) -> str | int | float | bool | None:
    """A scalar as it is; a long text is cut, a list is joined."""
    if isinstance(value, list | tuple):
        value = " > ".join(str(item) for item in value)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(value, bool | int | float) or value is None:
        return value
    text = str(value)
    return text if len(text) <= 400 else text[:399] + "…"


def _type(rows: Sequence[Mapping[str, Any]], name: str) -> str:
    value = rows[0][name]
    if isinstance(value, bool):
        return "bool"
    return "int" if isinstance(value, int) else "float" if isinstance(value, float) else "string"
