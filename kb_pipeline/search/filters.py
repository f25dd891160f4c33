"""Conditions on document metadata: typed, and only ever bound."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from kb_pipeline.errors import ConfigError

Op = Literal["eq", "in", "lt", "le", "gt", "ge", "prefix"]
Scalar = str | int | float | bool | None
MAX_CONDITIONS = 64
MAX_VALUES = 1_000


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition; a search takes documents that meet all of theirs.

    `eq` and `in` compare type and value, and find a value in a list too (`tags = ["a", "b"]`). Ranges compare numbers
    with numbers and texts with texts, byte by byte (dates as ISO 8601 are right so). `prefix` is of texts. Raises
    `ConfigError`.
    """

    key: str
    """A key of the metadata's top level."""
    op: Op
    value: Scalar | Sequence[Scalar]
    """A list or tuple for `in`, else one value."""

    def __post_init__(self) -> None:
        """Checks what can be checked without a document."""
        if self.op not in get_args(Op):
            raise ConfigError(f"condition on {self.key!r}: {self.op!r} is none of {', '.join(get_args(Op))}")
        if not isinstance(self.key, str) or not self.key:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigError("a condition needs the name of a metadata key")
        values = self.values()
        if len(values) > MAX_VALUES:
            raise ConfigError(f"condition on {self.key!r}: {len(values)} values, {MAX_VALUES} are allowed")
        for value in values:
            if not isinstance(value, Scalar):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise ConfigError(f"condition on {self.key!r}: {value!r} is no text, number, true, false or null")
            if isinstance(value, float) and not math.isfinite(value):
                raise ConfigError(f"condition on {self.key!r}: {value} is not a number that JSON has")
            _storable(self.key, value)
        _storable(self.key, self.key)
        if self.op == "prefix" and not isinstance(self.value, str):
            raise ConfigError(f"condition on {self.key!r}: a prefix is a text, not {self.value!r}")
        ranged = self.op in ("lt", "le", "gt", "ge")
        if ranged and (isinstance(self.value, bool) or not isinstance(self.value, str | int | float)):
            raise ConfigError(f"condition on {self.key!r}: {self.op} needs a number or a text, not {self.value!r}")

    def values(self) -> list[Scalar]:
        """The value, or the values of `in`."""
        if self.op == "in":
            if isinstance(self.value, str) or not isinstance(self.value, Sequence):
                raise ConfigError(f"condition on {self.key!r}: `in` needs a list of values, not {self.value!r}")
            return list(self.value)
        return [self.value]  # type: ignore[list-item]

    def wire(self) -> dict[str, Any]:
        """As kb.search_filter reads it."""
        if self.op in ("eq", "in"):
            return {
                "op": "contains",
                "of": [each for value in self.values() for each in ({self.key: value}, {self.key: [value]})],
            }
        return {"op": self.op, "key": self.key, "value": self.value}


def wire(conditions: Sequence[Condition]) -> str:
    """Conditions as the JSON that travels, bound, to kb.search. Raises `ConfigError`."""
    if len(conditions) > MAX_CONDITIONS:
        raise ConfigError(f"{len(conditions)} conditions, {MAX_CONDITIONS} are allowed")
    return json.dumps([condition.wire() for condition in conditions]) if conditions else "[]"


_WHERE = re.compile(
    r'\s*(?P<key>"(?:[^"\\]|\\.)*"|.+?)\s*(?P<op>\^=|>=|<=|==|=|>|<|\s+in\s)\s*(?P<value>.*)', re.DOTALL
)
_OPS: dict[str, Op] = {"=": "eq", "==": "eq", "^=": "prefix", ">=": "ge", "<=": "le", ">": "gt", "<": "lt", "in": "in"}
_LIST_ITEM = re.compile(r'\s*("(?:[^"\\]|\\.)*"|[^,]*)\s*(?:,|$)', re.DOTALL)


def parse_where(text: str) -> Condition:
    """A condition as people type it: `key=value`, `key>=3`, `key^=prefix`, `key in a,b`.

    A bare number, `true`, `false` or `null` means both that value and the text of the same spelling, for `=` and `in`;
    in double quotes a value is text only. A key in double quotes may hold anything. Raises `ConfigError`.
    """
    match = _WHERE.fullmatch(text)
    if match is None:
        raise ConfigError(f"--where {text!r}: write key=value, key>=3, key^=prefix or 'key in a,b'")
    op = _OPS[match["op"].strip()]
    key = _unquoted(match["key"])
    raw = match["value"].strip()
    if op == "in":
        pieces = [item.group(1).strip() for item in _LIST_ITEM.finditer(raw) if item.group(1).strip()]
        return Condition(key, "in", tuple(value for piece in pieces for value in _meanings(piece)))
    if op == "eq":
        meanings = _meanings(raw)
        return Condition(key, "eq", meanings[0]) if len(meanings) == 1 else Condition(key, "in", meanings)
    if op == "prefix":
        return Condition(key, op, _unquoted(raw))
    value = _meanings(raw)[0]
    return Condition(key, op, raw if value is None or isinstance(value, bool) else value)


def _meanings(text: str) -> tuple[Scalar, ...]:
    if text.startswith('"'):
        return (_unquoted(text),)
    try:
        value = json.loads(text, parse_constant=str)
    except (ValueError, RecursionError):
        return (text,)
    if isinstance(value, float) and not math.isfinite(value):
        return (text,)
    return (value, text) if value is None or isinstance(value, bool | int | float) else (text,)


def _unquoted(text: str) -> str:
    if len(text) >= 2 and text[0] == text[-1] == '"':
        try:
            value = json.loads(text)
        except ValueError:
            return text
        if isinstance(value, str):
            return value
    return text


def _storable(key: str, value: Scalar) -> None:
    if isinstance(value, str) and ("\x00" in value or not _is_utf8(value)):
        raise ConfigError(f"condition on {key!r}: the text holds a NUL or half a surrogate pair, which no document has")


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
