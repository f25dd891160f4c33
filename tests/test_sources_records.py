"""JSON Lines and Parquet of records: good ones are read one at a time, bad ones refused one by one."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kb_pipeline.config.schema import TenantConfig
from kb_pipeline.errors import DocumentRefused, SourceError
from kb_pipeline.sources.model import RefusedItem, Source, SourceItem
from kb_pipeline.sources.open import open_source


def opened(path: Path) -> Source:
    return open_source(TenantConfig(tenant_id="t", source=str(path)))


def split(source: Source) -> tuple[list[SourceItem], list[RefusedItem]]:
    found = list(source.list())
    return [i for i in found if isinstance(i, SourceItem)], [i for i in found if isinstance(i, RefusedItem)]


def plain(item: SourceItem) -> SourceItem:
    """The item as another process gets it: without the place."""
    return SourceItem(item.doc_id, item.uri, dict(item.state))


def test_json_lines_of_all_sorts(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    lines = [
        b'\xef\xbb\xbf{"id": "a", "text": "one", "title": " T ", "metadata": {"k": 1}, "url": "u", "none": null}',
        b'{"_id": 7, "text": ""}',
        b"",
        b'{"id": "a", "text": "again"}',
        b'{"id": "cut", "text": "no end',
        b'{"id": "latin", "text": "na\xefve"}',
        b"[1, 2]",
        b'{"text": "no id"}',
        b'{"id": true, "text": "x"}',
        b'{"id": "no text"}',
        b'{"id": "", "text": "x"}',
        b'{"id": "ctl\\u0000", "text": "x"}',
        b'{"id": "\\ud800", "text": "x"}',
        b'{"id": "sur", "text": "a\\ud800b\\u0000c"}',
        b"[" * 100_000,
        b'{"id": "last", "text": "no newline"}',
    ]
    path.write_bytes(b"\r\n".join(lines))
    source = opened(path)
    items, refused = split(source)
    assert [item.doc_id for item in items] == ["a", "7", "sur", "last"]
    assert [item.reason for item in refused] == [
        "duplicate-id",
        "broken-json",
        "invalid-utf8",
        "broken-record",
        "no-id",
        "no-id",
        "no-text",
        "record-id",
        "record-id",
        "record-id",
        "broken-json",
    ]
    assert refused[0].doc_id == "(line 4)" and refused[0].uri == f"{path}#line-4"
    assert len({item.doc_id for item in refused}) == len(refused)
    for item in refused:
        (item.doc_id + item.uri + item.detail).encode()
    first = source.read(items[0])
    assert (first.text, first.title, first.metadata) == ("one", "T", {"url": "u", "k": 1})
    assert source.read(items[2]).text == "a\ufffdb\ufffdc"
    assert source.read(items[1]).text == ""


def test_records_are_found_without_their_place_in_any_order(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text("".join(json.dumps({"id": f"r{n}", "text": f"text {n}"}) + "\n" for n in range(300)))
    items, _ = split(opened(path))
    shuffled = random.Random(3).sample(items, 40)
    for order in (items, shuffled):
        source = opened(path)
        assert [source.read(plain(item)).text for item in order] == [f"text {item.doc_id[1:]}" for item in order]


def test_state_is_of_the_line_alone(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text('{"id": "a", "text": "one"}\n{"id": "b", "text": "two"}\n')
    (a, b), _ = split(opened(path))
    path.write_text('{"id": "new", "text": "zero"}\n{"id": "a", "text": "one"}\n{"id": "b", "text": "2"}\n')
    source = opened(path)
    (_, a2, b2), _ = split(source)
    assert a.state == a2.state and b.state != b2.state
    assert source.read(b).text == "2", "an item listed before the edit reads what is there now"
    path.write_text('{"id": "a", "text": "one"}\n')
    with pytest.raises(DocumentRefused, match="vanished"):
        opened(path).read(b)


def test_the_hash_is_of_text_and_title_not_metadata(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"

    def digest(**record: object) -> bytes:
        path.write_text(json.dumps({"id": "a", "text": "one", **record}))
        source = opened(path)
        return source.read(split(source)[0][0]).content_sha256

    assert digest() == digest(metadata={"x": 1}) != digest(title="T")


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "r.parquet"
    n = 1_200
    table = pa.table(
        {
            "_id": [*(f"r{i}" for i in range(n)), "r0", None],
            "text": [*(f"text {i}" for i in range(n)), "again", "x"],
            "title": ["T", *[None] * (n + 1)],
            "metadata": [{"k": i} for i in range(n + 2)],
            "lang": ["en"] * (n + 2),
        }
    )
    pq.write_table(table, path, row_group_size=500)
    source = opened(path)
    items, refused = split(source)
    assert len(items) == n and [item.reason for item in refused] == ["duplicate-id", "no-id"]
    first = source.read(plain(items[0]))
    assert (first.text, first.title, first.metadata) == ("text 0", "T", {"lang": "en", "k": 0})
    assert [source.read(plain(items[i])).text for i in (5, 1100, 3)] == ["text 5", "text 1100", "text 3"]
    pq.write_table(table.rename_columns(["x", "text", "title", "metadata", "lang"]), path)
    with pytest.raises(SourceError, match="`id`"):
        list(opened(path).list())
    path.write_bytes(b"no parquet")
    with pytest.raises(SourceError, match="Parquet"):
        list(opened(path).list())
    with pytest.raises(SourceError):
        list(open_source(TenantConfig(tenant_id="t", source=str(tmp_path / "absent.jsonl"))).list())


def test_beir_corpora_are_sources(test_data: Path) -> None:
    for name in ("cranfield", "anthropic-docs"):
        path = test_data / "beir" / name / "corpus.jsonl"
        source = opened(path)
        items, refused = split(source)
        assert not refused and len(items) == len(path.read_text().strip().split("\n"))
        assert source.read(items[0]).text


def test_a_record_without_text_is_its_title(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(
        '{"_id": "1", "title": " Extraction of Roots ", "text": " \\n"}\n{"_id": "2", "title": "", "text": ""}\n'
    )
    source = opened(path)
    first, second = (source.read(item) for item in split(source)[0])
    assert (first.text, first.title) == ("Extraction of Roots", None) and second.text == ""
