"""Numbers as people read them, each with its unit."""

from __future__ import annotations

from evals.statistics import Interval


def count(value: float, one: str = "", many: str | None = None) -> str:
    """`12,345 chunks`; `1 chunk`."""
    unit = one if value == 1 else (many if many is not None else f"{one}s" if one else "")
    return f"{value:,.0f} {unit}".strip()


def milliseconds(value: float) -> str:
    """`0.83 ms`, `12.4 ms`, `1,204 ms`."""
    return f"{value:,.2f} ms" if value < 10 else f"{value:,.1f} ms" if value < 100 else f"{value:,.0f} ms"


def seconds(value: float) -> str:
    """`0.42 s`, `12.3 s`, `3 min 05 s`."""
    if value >= 100:
        return f"{int(value) // 60} min {int(value) % 60:02d} s"
    return f"{value:.2f} s" if value < 10 else f"{value:.1f} s"


def size(value: float) -> str:
    """`812 kB`, `79.1 MB`, with powers of 1,000."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:,.0f} {unit}" if value >= 100 or unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:,.1f} TB"


def share(value: float) -> str:
    """`99.2 %`; never rounded up to 100 %."""
    if value == 1 or value == 0:
        return f"{value:.0%}".replace("%", "\u00a0%")
    return f"{min(value, 0.9999) * 100:.{2 if value > 0.999 or value < 0.01 else 1}f}\u00a0%"


def dollars(value: float) -> str:
    """`$0.0123` for cents, `$12.30` above a dollar, `$0` for nothing."""
    return "$0" if value == 0 else f"${value:,.2f}" if value >= 1 else f"${value:.4f}"


def interval(value: Interval, *, signed: bool = False) -> str:
    """`0.962 (0.951 to 0.972)`."""
    show = signed_3 if signed else ratio
    if value.n <= 1 or value.low == value.high:
        return show(value.mean)
    return f"{show(value.mean)} ({show(value.low)} to {show(value.high)})"


def signed_3(value: float) -> str:
    """`+0.012`, `-0.004`, and `0.000` for what rounds to nothing."""
    text = f"{value:+.3f}"
    return "0.000" if text[1:] == "0.000" else text


def ratio(value: float) -> str:
    """`0.962`; four places where three would round it up to 1."""
    return f"{min(value, 0.9999):.4f}" if 0.9995 <= value < 1 else f"{value:.3f}"


def arrow(difference: float, *, nothing: float = 0.0) -> str:
    """▲, ▼ or = where the difference is no larger than `nothing`."""
    return "=" if abs(difference) <= nothing else "▲" if difference > 0 else "▼"


def day(moment: str) -> str:
    """`2026-02-08 13:05 UTC` of an ISO moment."""
    return f"{moment[:10]} {moment[11:16]} UTC"
