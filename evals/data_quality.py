"""Expectations about chunks, vectors and indexes, checked with Great Expectations on pandas frames. No Dagster here."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pandas import DataFrame

CONTROL = r"[\x00-\x08\x0b\x0e-\x1f\x7f]"
"""Control characters that no text needs; tab, line feed, form feed (in old sources) and carriage return may stand."""
SHOWN = 10
"""Offending rows kept of each expectation."""
MIN_FOUND = 0.99
"""Share of the embedded rows that must be found through an index. HNSW itself loses some: 0.17 % with m = 8, 0.01 %
with m = 16, measured on documentation and on 100,000 sentences."""
MAX_SHIFT = 0.35
"""Share of chunks (or contents) that may belong to another kind (or language) than in the last run."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of one expectation."""

    expected: str
    """In words, with the limit."""
    passed: bool
    unexpected: int
    """Rows that break it."""
    of: int
    """Rows looked at."""
    rows: tuple[Mapping[str, str], ...] = ()
    """Some of those rows, by name and value."""


@dataclass(frozen=True, slots=True)
class Expected:
    """One expectation: the name of a Great Expectations class, its arguments, and how a person says it."""

    kind: str
    words: str
    arguments: Mapping[str, Any]
    shows: tuple[str, ...] = ()
    """Columns that show what is wrong, beside the keys."""


def chunk_findings(frame: DataFrame, *, max_tokens: int) -> list[Finding]:
    """Sizes, uniqueness, offsets, control characters, fingerprints. Columns: where (stored or staged), doc_id, ordinal,
    start, end, size (characters of the source's text, or missing), kind, tokens, body, length (characters), span (end
    minus start), fingerprint_right."""
    key = ("where", "doc_id", "ordinal")
    between = "ExpectColumnValuesToBeBetween"
    return validated(
        frame,
        key,
        [
            Expected("ExpectCompoundColumnsToBeUnique", "a document has each ordinal once", {"column_list": [*key]}),
            Expected(between, "no ordinal is below 0", {"column": "ordinal", "min_value": 0}),
            Expected(between, f"a chunk has 1 to {max_tokens:,} tokens",
                     {"column": "tokens", "min_value": 1, "max_value": max_tokens}),
            Expected(between, "no offset is below 0", {"column": "start", "min_value": 0}),
            Expected("ExpectColumnPairValuesAToBeGreaterThanB", "a chunk ends behind its start",
                     {"column_A": "end", "column_B": "start"}),
            Expected("ExpectColumnPairValuesAToBeGreaterThanB", "a chunk ends inside its source",
                     {"column_A": "size", "column_B": "end", "or_equal": True,
                      "ignore_row_if": "either_value_is_missing"}),
            Expected("ExpectColumnPairValuesToBeEqual", "a text is as long as its place in the source",
                     {"column_A": "length", "column_B": "span"}, ("start", "end")),
            Expected("ExpectColumnValuesToNotMatchRegex", "no text holds a control character",
                     {"column": "body", "regex": CONTROL}),
            Expected("ExpectColumnValuesToMatchRegex", "every chunk has a text", {"column": "body", "regex": r"\S"}),
            Expected("ExpectColumnValuesToBeInSet", "every fingerprint is that of its text",
                     {"column": "fingerprint_right", "value_set": [True]}),
        ],
    )  # fmt: skip


def shift_findings(shifts: Mapping[str, tuple[Mapping[str, int], Mapping[str, int]]]) -> list[Finding]:
    """Whether distributions (name -> last, now) are still about the same; nothing for one without a last."""
    import pandas as pd

    known = {name: pair for name, pair in shifts.items() if pair[0] and pair[1]}
    frame = pd.DataFrame([{"of": name, "shift": shift(*pair)} for name, pair in known.items()])
    if frame.empty:
        return []
    words = f"at most {MAX_SHIFT:.0%} of the chunks changed kind or language since the last run"
    arguments = {"column": "shift", "max_value": MAX_SHIFT}
    return validated(frame, ("of",), [Expected("ExpectColumnValuesToBeBetween", words, arguments)])


def shift(last: Mapping[str, int], now: Mapping[str, int]) -> float:
    """Total variation distance of two distributions: the share that moved, 0 to 1."""
    before, after = sum(last.values()), sum(now.values())
    names = {*last, *now}
    return sum(abs(last.get(name, 0) / before - now.get(name, 0) / after) for name in names) / 2


def vector_findings(frame: DataFrame, *, dims: int, unit: bool) -> list[Finding]:
    """Dims, finite, unit norm, no near-constant vectors, few duplicates. Columns: version, fingerprint, dims, finite,
    norm, spread (1 for a vector like noise, 0 for a constant one), digest."""
    between = "ExpectColumnValuesToBeBetween"
    expected = [
        Expected("ExpectColumnValuesToBeInSet", f"a vector has {dims:,} dims", {"column": "dims", "value_set": [dims]}),
        Expected("ExpectColumnValuesToBeInSet", "every component is a finite number",
                 {"column": "finite", "value_set": [True]}),
        Expected(between, "no vector is near-constant", {"column": "spread", "min_value": 0.05}),
    ]  # fmt: skip
    if len(frame):  # of nothing there is no proportion
        unique = "ExpectColumnProportionOfUniqueValuesToBeBetween"
        words = "at most 10 % of the vectors repeat another one"
        expected.append(Expected(unique, words, {"column": "digest", "min_value": 0.9}))
    if unit:
        arguments = {"column": "norm", "min_value": 0.99, "max_value": 1.01}
        expected.append(Expected(between, "a vector has length 1 (within 0.01)", arguments))
    return validated(frame, ("version", "fingerprint"), expected)


def index_findings(frame: DataFrame) -> list[Finding]:
    """Every index is there, valid and used, and finds what is embedded. Columns: build_id, state, exists, valid, used,
    rows_embedded, looked_for, found, how, not_found."""
    yes = "ExpectColumnValuesToBeInSet"
    return validated(
        frame,
        ("build_id", "state"),
        [
            Expected(yes, "every build has its index", {"column": "exists", "value_set": [True]}),
            Expected(yes, "no index is INVALID", {"column": "valid", "value_set": [True]}),
            Expected(yes, "a search uses the index", {"column": "used", "value_set": [True]}),
            Expected("ExpectColumnValuesToBeBetween",
                     f"the index holds what is embedded: at least {MIN_FOUND:.1%} of the rows looked for are found",
                     {"column": "found_share", "min_value": MIN_FOUND},
                     ("rows_embedded", "looked_for", "found", "how", "not_found")),
        ],
    )  # fmt: skip


def validated(frame: DataFrame, keys: Sequence[str], expected: Sequence[Expected]) -> list[Finding]:
    """The expectations' outcome on a frame. Imports Great Expectations: seconds the first time in a process."""
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")  # it is asked at import, and would call home
    import warnings

    with warnings.catch_warnings():  # its own, of modules that Python will drop
        warnings.simplefilter("ignore")
        import great_expectations as gx
        from great_expectations.core.expectation_suite import ExpectationSuite

    context: Any = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False, "metric_calculations": False}
    batch: Any = (
        context.data_sources.add_pandas("frames")
        .add_dataframe_asset("frame")
        .add_batch_definition_whole_dataframe("all")
        .get_batch({"dataframe": frame.reset_index(drop=True)})
    )
    classes: Any = gx.expectations
    suite: Any = ExpectationSuite("rules", [getattr(classes, one.kind)(**one.arguments) for one in expected])
    outcome: Any = batch.validate(suite, result_format={"result_format": "COMPLETE"})
    by_kind = {_identity(one.expectation_config): one for one in outcome.results}
    return [
        _finding(frame, keys, one, by_kind[_identity(suite.expectations[place].configuration)])
        for place, one in enumerate(expected)
    ]


def _identity(configuration: Any) -> str:
    kwargs = {name: value for name, value in configuration.kwargs.items() if name != "batch_id"}
    return f"{configuration.type} {sorted(kwargs.items(), key=lambda pair: pair[0])}"


def _finding(frame: DataFrame, keys: Sequence[str], expected: Expected, outcome: Any) -> Finding:
    if outcome.exception_info.get("raised_exception", False):
        raise ValueError(f"{expected.words}: {outcome.exception_info.get('exception_message')}")
    found: Mapping[str, Any] = outcome.result
    passed = bool(outcome.success)
    places: list[int] = list(found.get("unexpected_index_list") or [])
    asked = [expected.arguments[name] for name in ("column", "column_A", "column_B") if name in expected.arguments]
    columns = list(dict.fromkeys([*keys, *asked, *expected.shows]))
    table, pattern = frame.reset_index(drop=True), str(expected.arguments.get("regex", ""))
    rows = tuple({name: _short(table.loc[place, name], pattern) for name in columns} for place in places[:SHOWN])
    count = int(found.get("unexpected_count") or (0 if passed else 1))
    return Finding(expected.words, passed, count, len(frame), () if passed else rows)


def _short(value: object, pattern: str) -> str:
    """At most 120 characters; of a long text those about the first match of the pattern."""
    found = re.search(pattern, value) if pattern and isinstance(value, str) else None
    if found and isinstance(value, str) and len(value) > 100:
        value = value[max(0, found.start() - 40) : found.end() + 40]
    text = repr(value) if isinstance(value, str) and not value.isprintable() else str(value)
    return text if len(text) <= 120 else text[:119] + "…"
