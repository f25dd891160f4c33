"""Spans of time as people write them: `7d`, `36h`, `90m`, `0s`."""

from __future__ import annotations

import re
from datetime import timedelta

from kb_pipeline.errors import ConfigError

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def parse_duration(text: str) -> timedelta:
    """`7d` and the like; several parts add up (`1d12h`). Raises `ConfigError`."""
    if not re.fullmatch(r"\s*(\d+\s*[smhdw]\s*)+", text):
        raise ConfigError(f"{text!r} is no span of time: write a number and s, m, h, d or w, for example 7d or 36h")
    parts = re.findall(r"(\d+)\s*([smhdw])", text)
    try:
        return sum((timedelta(**{_UNITS[unit]: int(number)}) for number, unit in parts), timedelta())
    except OverflowError as error:
        raise ConfigError(f"{text!r} is too long a span of time") from error
