"""Front matter at the top of a Markdown file: YAML between `---` lines or TOML between `+++` lines."""

from __future__ import annotations

import datetime
import json
import math
import re
import tomllib
from collections.abc import Mapping
from typing import Any, cast

import yaml

from kb_pipeline.errors import DocumentRefused

FENCED = re.compile(r"\ufeff?(---|\+\+\+)[ \t]*\r?\n(.*?)^\1[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE)
Loader: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml where PyYAML was built with it: ten times faster."""
LONGEST = 200_000
"""Characters of front matter that are read; a longer block between rules is text."""


def body_start(text: str) -> int:
    """Offset of the first character after the front matter; 0 without one."""
    match = _match(text)
    return match.end() if match else 0


def read_front_matter(text: str) -> dict[str, Any]:
    """The front matter as JSON values; empty without one. Raises `DocumentRefused` when it cannot be parsed."""
    match = _match(text)
    if match is None:
        return {}
    fence, block = match[1], match[2]
    try:
        parsed: Any = tomllib.loads(block) if fence == "+++" else _yaml(block)
    except (yaml.YAMLError, tomllib.TOMLDecodeError, ValueError, RecursionError) as error:
        line = " ".join(str(error).split())[:300]
        raise DocumentRefused("front-matter", f"the front matter is not valid: {line}") from error
    if parsed is None:
        return {}
    if not isinstance(parsed, Mapping):
        raise DocumentRefused("front-matter", f"the front matter is a {type(parsed).__name__}, not a table of keys")
    return cast("dict[str, Any]", json_value(parsed))


RESERVED = re.compile(r"""^(\s*(?:- +)?(?:[\w .-]+: +)?)([%@`][^"\r\n]*?)(\s*)$""", re.MULTILINE)
"""A plain value that begins with a character YAML reserves; many documents have it (PowerShell's alias `%`)."""


def _yaml(block: str) -> Any:
    try:
        return yaml.load(block, Loader)  # noqa: S506
    except yaml.YAMLError:
        quoted = RESERVED.sub(r'\1"\2"\3', block)
        if quoted == block:
            raise
        return yaml.load(quoted, Loader)  # noqa: S506


def json_value(value: Any, depth: int = 0) -> Any:
    """The value with JSON types only: dates as ISO text, other things as text, no NUL, no NaN."""
    if depth > 30:
        raise DocumentRefused("front-matter", "the metadata is nested more than 30 levels deep")
    match value:
        case None | bool() | int():
            return value
        case float():
            return value if math.isfinite(value) else None
        case str():
            return clean_text(value)
        case datetime.datetime() | datetime.date() | datetime.time():
            return value.isoformat()
        case Mapping():
            pairs = cast("Mapping[Any, Any]", value).items()
            return {clean_text(str(key)): json_value(item, depth + 1) for key, item in pairs}
        case list() | tuple() | set():
            return [json_value(item, depth + 1) for item in cast("list[Any]", value)]
        case _:
            return clean_text(str(value))


FORBIDDEN = re.compile("[\x00\x1f\ud800-\udfff]")


def clean_text(text: str) -> str:
    """The text with what Postgres or the fingerprint cannot hold (NUL, unit separator, lone surrogates) as U+FFFD."""
    return FORBIDDEN.sub("\ufffd", text)


def title_of(metadata: Mapping[str, Any]) -> str | None:
    """The `title` when it is text that says something."""
    title = metadata.get("title")
    return title.strip() or None if isinstance(title, str) else None


def canonical_json(value: Any) -> bytes:
    """One spelling of a JSON value, for hashing."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


def _match(text: str) -> re.Match[str] | None:
    if not text.startswith(("---", "+++", "\ufeff---", "\ufeff+++")):
        return None
    match = FENCED.match(text, 0, min(len(text), LONGEST))
    return match if match and (match[1] == "+++" or _looks_like_keys(match[2])) else None


def _looks_like_keys(block: str) -> bool:
    """Whether a block between two `---` lines is front matter at all, not text between two horizontal rules."""
    if not block.strip():
        return True
    first = next(line for line in block.split("\n") if line.strip())
    return re.match(r"""\s*#|["']?[^\s:"'#][^:]*["']?\s*:(\s|$)|\s*\{|\s*-\s|\s*&|\s*!""", first) is not None
