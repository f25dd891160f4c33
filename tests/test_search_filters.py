"""Conditions: as people type them, and as they travel."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kb_pipeline.errors import ConfigError
from kb_pipeline.search.filters import Condition, parse_where, wire
from kb_pipeline.search.hit import Hit, folded


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        ("lang=en", Condition("lang", "eq", "en")),
        ("lang = en", Condition("lang", "eq", "en")),
        ("year>=2024", Condition("year", "ge", 2024)),
        ("year<3.5", Condition("year", "lt", 3.5)),
        ("date>2024-01-31", Condition("date", "gt", "2024-01-31")),
        ("name^=doc-", Condition("name", "prefix", "doc-")),
        ("lang in en,de", Condition("lang", "in", ("en", "de"))),
        ("lang in en, de ,", Condition("lang", "in", ("en", "de"))),
        ('title in "a, b",c', Condition("title", "in", ("a, b", "c"))),
        ("title=cats in hats", Condition("title", "eq", "cats in hats")),
        ("year=2024", Condition("year", "in", (2024, "2024"))),
        ("draft=true", Condition("draft", "in", (True, "true"))),
        ('year="2024"', Condition("year", "eq", "2024")),
        ('"a=b"=c', Condition("a=b", "eq", "c")),
        ("url=http://x/?a=b", Condition("url", "eq", "http://x/?a=b")),
        ("x=", Condition("x", "eq", "")),
    ],
)
def test_where_as_people_type_it(text: str, condition: Condition) -> None:
    assert parse_where(text) == condition


@pytest.mark.parametrize("text", ["", "lang", "=en", "in a,b"])
def test_what_is_no_condition(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_where(text)


@pytest.mark.parametrize(
    ("key", "op", "value"),
    [("a", "like", "x"), ("a", "in", "x"), ("a", "prefix", 3), ("a", "lt", True), ("a", "eq", float("nan")),
     ("", "eq", 1),
     ("a", "eq", "\x00"), ("a", "eq", "\ud800"), ("a", "in", tuple(range(1001)))],
)  # fmt: skip
def test_what_no_document_could_meet_is_refused(key: str, op: str, value: object) -> None:
    with pytest.raises(ConfigError):
        Condition(key, op, value)  # type: ignore[arg-type]


@given(st.text())
def test_any_text_is_a_condition_or_a_config_error(text: str) -> None:
    try:
        condition = parse_where(text)
    except ConfigError:
        return
    json.loads(wire([condition]))


def hit(doc: str, text: str, score: float, also: list[str]) -> Hit:
    return Hit(doc, doc, 0, 0, 1, [], text, score, {}, also)


def test_equal_texts_are_folded_into_the_best() -> None:
    hits = folded([hit("b", "x", 0.9, ["c"]), hit("d", "y", 0.8, []), hit("a", "x", 0.7, ["b", "e"])])
    assert [(one.doc_id, one.text, one.also_in) for one in hits] == [("b", "x", ["a", "c", "e"]), ("d", "y", [])]
