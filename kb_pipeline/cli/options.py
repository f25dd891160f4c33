"""Options that mean the same in every command, and how results are printed."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

Config = Annotated[
    str | None, typer.Option("--config", metavar="FILE", help="kb.toml to read; else KB_CONFIG, else ./kb.toml.")
]
Tenant = Annotated[
    str | None,
    typer.Option("--tenant", "-t", metavar="NAME", help="Tenant; where it can be left out: all, or the only one."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do it without asking.")]
NoWait = Annotated[bool, typer.Option("--no-wait", help="End with exit code 75 when another run holds the tenant.")]


def print_json(value: Any) -> None:
    """The value as JSON on standard output; times become ISO 8601."""
    print(json.dumps(value, indent=2, ensure_ascii=False, default=_plain))


def print_table(rows: Sequence[Mapping[str, Any]], *, empty: str) -> None:
    """Rows as a table in columns; `empty` when there are none."""
    if not rows:
        print(empty)
        return
    from rich.console import Console
    from rich.table import Table

    shown = Table(box=None, pad_edge=False, header_style="bold")
    for name, value in rows[0].items():
        shown.add_column(name.replace("_", " "), justify="right" if isinstance(value, int | float) else "left")
    for row in rows:
        shown.add_row(*(text_of(value) for value in row.values()))
    Console(width=None if sys.stdout.isatty() else 160).print(shown)


def text_of(value: Any) -> str:
    """A value for people."""
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:,.4g}"
        case _:
            return str(value)


def note(line: str) -> None:
    """A line for the person, on standard error, so that standard output stays clean for scripts."""
    print(line, file=sys.stderr)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
