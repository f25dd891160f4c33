"""Folders and files as a person has them: mixed formats, odd names, links, pipes, and what must be refused."""

from __future__ import annotations

import datetime
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from kb_pipeline.config.schema import SourcesConfig, TenantConfig
from kb_pipeline.errors import ConfigError, DocumentRefused, SourceError
from kb_pipeline.sources.model import RefusedItem, Source, SourceItem
from kb_pipeline.sources.open import open_source


def opened(source: Path | str, **options: object) -> Source:
    return open_source(TenantConfig.model_validate({"tenant_id": "t", "source": str(source), **options}))


def listed(source: Source) -> tuple[dict[str, SourceItem], dict[str, RefusedItem]]:
    items: dict[str, SourceItem] = {}
    refused: dict[str, RefusedItem] = {}
    for item in source.list():
        known = refused if isinstance(item, RefusedItem) else items
        assert item.doc_id not in known
        known[item.doc_id] = item  # type: ignore[assignment]
    return items, refused


def read(source: Source, doc_id: str):
    return source.read(listed(source)[0][doc_id])


@pytest.fixture
def docs(tmp_path: Path) -> Iterator[Path]:
    root = tmp_path / "docs"
    (root / "a" / "b").mkdir(parents=True)
    for name in ("z.md", "a/one.md", "a/b/two.rst", "a/page.html", "a/code.py", "README", "a/image.png"):
        (root / name).write_text("text\n")
    yield root


def test_lists_known_formats_in_a_fixed_order(docs: Path) -> None:
    items, refused = listed(opened(docs))
    assert list(items) == ["README", "z.md", "a/code.py", "a/one.md", "a/page.html", "a/b/two.rst"]
    assert not refused
    assert items["a/one.md"].uri == str(docs / "a" / "one.md")
    assert items["a/one.md"].state == {"size": 5, "mtime_ns": (docs / "a/one.md").stat().st_mtime_ns}


def test_patterns_and_ignore_rules(docs: Path) -> None:
    assert list(listed(opened(docs, patterns=["**/*.{md,rst}"]))[0]) == ["z.md", "a/one.md", "a/b/two.rst"]
    assert list(listed(opened(docs, patterns=["*.png"]))[0]) == ["a/image.png"]
    assert "a/code.py" not in listed(opened(docs, ignore=["*.py"]))[0]
    (docs / ".kbignore").write_text("# mine\na/*\n!a/one.md\n")
    assert list(listed(opened(docs))[0]) == ["README", "z.md", "a/one.md"]
    (docs / "node_modules" / "x").mkdir(parents=True)
    (docs / "node_modules" / "x" / "y.md").write_text("no")
    (docs / ".git").mkdir()
    (docs / ".git" / "notes.md").write_text("no")
    assert ".git/notes.md" in listed(opened(docs, ignore=["!.git/"]))[0]
    assert not any("node_modules" in doc_id for doc_id in listed(opened(docs))[0])


def test_state_changes_with_the_file(docs: Path) -> None:
    source = opened(docs)
    before = listed(source)[0]["z.md"]
    assert listed(source)[0]["z.md"] == before
    (docs / "z.md").write_text("other")
    os.utime(docs / "z.md", ns=(1, 1))
    assert listed(source)[0]["z.md"].state != before.state
    assert source.read(before).state == {"size": 5, "mtime_ns": 1}, "the state of what was read"


def test_special_files_are_refused_and_never_opened(docs: Path) -> None:
    os.mkfifo(docs / "pipe.md")
    listener = socket.socket(socket.AF_UNIX)
    here = os.getcwd()
    try:
        os.chdir(docs)
        listener.bind("sock")
    finally:
        os.chdir(here)
        listener.close()
    source = opened(docs)
    _, refused = listed(source)
    assert {name: item.reason for name, item in refused.items()} == {"pipe.md": "not-a-file", "sock": "not-a-file"}
    assert "pipe" in refused["pipe.md"].detail
    with pytest.raises(DocumentRefused, match="not-a-file"):
        source.read(SourceItem("pipe.md", "x"))


def test_links_are_followed_once_and_loops_refused(docs: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "o.md").write_text("outside")
    (docs / "a" / "up").symlink_to(docs, target_is_directory=True)
    (docs / "self.md").symlink_to(docs / "self.md")
    (docs / "gone.md").symlink_to(docs / "nowhere.md")
    (docs / "alias").symlink_to(docs / "a" / "b", target_is_directory=True)
    (docs / "far").symlink_to(outside, target_is_directory=True)
    (outside / "back").symlink_to(docs, target_is_directory=True)
    (docs / "file-link.md").symlink_to(docs / "z.md")
    items, refused = listed(opened(docs))
    assert {name: item.reason for name, item in refused.items()} == {
        "a/up": "symlink-loop",
        "self.md": "symlink-loop",
        "gone.md": "unreadable",
    }
    assert {"far/o.md", "file-link.md"} <= set(items)
    assert not any(name.startswith(("alias/", "far/back/")) for name in items)


def test_names_that_cannot_be_ids(docs: Path) -> None:
    (docs / "line\nbreak.md").write_text("x")
    os.close(os.open(os.fsencode(docs) + b"/latin-\xe9.md", os.O_CREAT | os.O_WRONLY))
    items, refused = listed(opened(docs))
    assert {item.reason for item in refused.values()} == {"file-name"}
    assert set(refused) == {"line\\x0abreak.md", "latin-\\udce9.md"}
    for item in refused.values():
        (item.doc_id + item.uri + item.detail).encode()
    assert len(items) == 6


def test_missing_places_say_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="nowhere"):
        opened(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"tenants\.t\.source"):
        open_source(TenantConfig(tenant_id="t"))
    with pytest.raises(ConfigError, match=r"kb-pipeline\[s3\]"):
        opened("s3://bucket/docs")
    with pytest.raises(ConfigError, match="nosuch"):
        opened("nosuch://x")
    folder = tmp_path / "leaves"
    folder.mkdir()
    (folder / "a.md").write_text("x")
    source = opened(folder)
    item = next(iter(listed(source)[0].values()))
    (folder / "a.md").unlink()
    with pytest.raises(DocumentRefused, match="vanished"):
        source.read(item)
    folder.rmdir()
    with pytest.raises(SourceError, match="gone"):
        source.read(item)
    with pytest.raises(SourceError, match="cannot be read"):
        list(source.list())


def test_one_file_and_file_urls(docs: Path) -> None:
    assert list(listed(opened(docs / "z.md"))[0]) == ["z.md"]
    source = opened(f"file://{docs}/a/one.md")
    assert read(source, "one.md").text == "text\n"


def test_memory_url_is_listed_and_read() -> None:
    import fsspec

    fs = fsspec.filesystem("memory")
    fs.pipe({"/kb-test/x/a.md": b"---\ntitle: A\n---\n# Hi\n", "/kb-test/x/.git/b.md": b"no", "/kb-test/c.png": b"no"})
    source = opened("memory://kb-test")
    items, refused = listed(source)
    assert list(items) == ["x/a.md"] and not refused
    document = source.read(items["x/a.md"])
    assert document.title == "A" and document.uri == "memory://kb-test/x/a.md"
    with pytest.raises(SourceError):
        list(opened("memory://kb-nothing").list())
    fs.pipe("/kb-test/rec.jsonl", b'{"id": 1, "text": "one"}\n')
    assert read(opened("memory://kb-test/rec.jsonl"), "1").text == "one"


def test_large_files_are_refused(docs: Path) -> None:
    (docs / "big.md").write_bytes(b"x" * 20_000)
    source = opened(docs, sources=SourcesConfig(max_file_mb=0.01).model_dump())
    _, refused = listed(source)
    assert refused["big.md"].reason == "too-large" and "max_file_mb" in refused["big.md"].detail


def test_encodings(tmp_path: Path) -> None:
    texts = {
        "plain.md": "Grüße".encode(),
        "bom.md": b"\xef\xbb\xbf" + "Grüße".encode(),
        "le.md": "\ufeffGrüße".encode("utf-16-le"),
        "be.md": "\ufeffGrüße".encode("utf-16-be"),
        "wide.md": "\ufeffGrüße".encode("utf-32-le"),
    }
    for name, data in texts.items():
        (tmp_path / name).write_bytes(data)
    source = opened(tmp_path)
    assert {read(source, name).text for name in texts} == {"Grüße"}
    (tmp_path / "nul.md").write_bytes(b"a\0b" + b"x" * 100)
    assert read(source, "nul.md").text.startswith("a\ufffdb")
    (tmp_path / "latin.md").write_bytes(b"ok\nna\xefve")
    with pytest.raises(DocumentRefused, match=r"invalid-utf8.*0xef at offset 5 \(line 2\)"):
        read(source, "latin.md")
    for name, data in {"bin.md": bytes(range(256)) * 40, "nuls.txt": b"\0" * 500, "bin2.txt": b"\0\1" * 5000}.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DocumentRefused, match="binary"):
            read(source, name)
    (tmp_path / "page.html").write_bytes(b'<meta charset="iso-8859-1"><p>na\xefve')
    assert read(source, "page.html").text == "naïve\n"
    (tmp_path / "empty.md").write_bytes(b"")
    assert read(source, "empty.md").text == ""


def test_front_matter(tmp_path: Path) -> None:
    (tmp_path / "y.md").write_text("---\ntitle: ' A B '\ndate: 2026-01-02\ntags: [x, 1, .nan]\nn: {k: 2.5}\n---\nBody")
    (tmp_path / "t.md").write_text('+++\ntitle = "T"\nwhen = 2026-01-02T03:04:05Z\n+++\nBody')
    (tmp_path / "reserved.md").write_text("---\naliases:\n  - %\n  - foreach\nat: @me\ntitle: ForEach\n---\nBody")
    (tmp_path / "rules.md").write_text("---\n\nSome text between rules\n\n---\nBody")
    (tmp_path / "broken.md").write_text("---\ntitle: [open\n---\nBody")
    (tmp_path / "list.md").write_text("---\n- a\n---\nBody")
    source = opened(tmp_path)
    yaml_document = read(source, "y.md")
    assert yaml_document.title == "A B"
    assert yaml_document.metadata == {"title": " A B ", "date": "2026-01-02", "tags": ["x", 1, None], "n": {"k": 2.5}}
    assert datetime.date.fromisoformat(yaml_document.metadata["date"])
    assert read(source, "t.md").metadata["when"].startswith("2026-01-02T03:04:05")
    assert read(source, "reserved.md").metadata == {"aliases": ["%", "foreach"], "at": "@me", "title": "ForEach"}
    assert read(source, "rules.md").metadata == {}
    for name in ("broken.md", "list.md"):
        with pytest.raises(DocumentRefused, match="front-matter"):
            read(source, name)
