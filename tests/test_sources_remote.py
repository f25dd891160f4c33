"""Sources behind a URL: the whole way of one in memory, a real web server, and what a missing extra is told as."""

from __future__ import annotations

import re
import sys
import threading
import tomllib
import uuid
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pytest
from stage_world import World, page

from kb_pipeline.config.schema import TenantConfig
from kb_pipeline.errors import ConfigError, MassDeletionRefused, SourceError
from kb_pipeline.sources.model import RefusedItem, Source, SourceItem
from kb_pipeline.sources.open import open_source
from kb_pipeline.sources.remote import EXTRAS
from kb_pipeline.stages.context import StageContext
from kb_pipeline.store.database import Database

PYPROJECT = Path(__file__).parent.parent / "pyproject.toml"
ONE = page("One", ["Apples are red and round.", "Pears are green and long."])
TWO = page("Two", ["Plums are blue and small."])


def opened(url: str) -> Source:
    return open_source(TenantConfig(tenant_id="t", source=url))


class Remote(World):
    """A tenant whose documents are at a URL of its own."""

    url = ""

    def context(self, run_id: str | None = None) -> StageContext:
        ctx = super().context(run_id)
        return replace(ctx, tenant=ctx.tenant.model_copy(update={"source": self.url}))

    def put(self, files: dict[str, str | None]) -> None:
        fs = fsspec.filesystem("memory")
        for name, text in files.items():
            path = f"/{self.url.removeprefix('memory://')}/{name}"
            fs.rm(path) if text is None else fs.pipe(path, text.encode())


@pytest.fixture
def remote(db: Database, tmp_path: Path) -> Remote:
    world = Remote(db, tmp_path, sections={"chunking": {"max_tokens": 16}})
    world.url = f"memory://docs-{uuid.uuid4().hex}"
    world.put({"one.md": ONE, "deep/er/two.md": TWO, "picture.png": "no text"})
    return world


def test_a_source_behind_a_url_is_indexed_followed_and_left_alone(remote: Remote) -> None:
    assert (remote.run().documents.new, remote.one("SELECT count(*) FROM kb.chunks")) == (2, 3)
    uris = {doc: uri for doc, uri in remote.query("SELECT doc_id, uri FROM kb.documents")}
    assert uris == {"one.md": f"{remote.url}/one.md", "deep/er/two.md": f"{remote.url}/deep/er/two.md"}
    before = remote.versions_of_rows()
    again = remote.run()
    assert (again.documents.unchanged, again.documents.read, again.embeddings.texts) == (2, 0, 0)
    assert remote.versions_of_rows() == before
    remote.put({"one.md": ONE.replace("red", "tan"), "deep/er/two.md": None, "moved.md": TWO})
    ran = remote.run()
    assert (ran.documents.changed, ran.documents.renamed, ran.embeddings.texts) == (1, 1, 1)
    remote.put({".kbignore": "moved.md\n"})
    assert remote.run().documents.deleted == 1
    remote.put({"one.md": None, "moved.md": None})
    with pytest.raises(MassDeletionRefused):
        remote.run()
    assert remote.one("SELECT count(*) FROM kb.documents") == 1
    remote.require_true_counters()


def test_a_bad_file_behind_a_url_is_quarantined_and_the_others_go_on(remote: Remote) -> None:
    remote.put({"bad.md": "---\ntitle: [broken\n---\n"})
    ran = remote.run()
    assert (ran.documents.new, ran.documents.refused, ran.embeddings.dead_letters) == (2, 1, 1)
    assert remote.query("SELECT doc_id, reason FROM kb.dead_letters") == [("bad.md", "front-matter")]


def test_every_extra_that_is_named_is_one() -> None:
    extras = tomllib.loads(PYPROJECT.read_text())["project"]["optional-dependencies"]
    assert set(EXTRAS.values()) <= set(extras)
    sources = "\n".join(path.read_text() for path in (PYPROJECT.parent / "kb_pipeline").rglob("*.py"))
    named = set(re.findall(r"kb-pipeline\[([a-z-]+)\]", sources))
    assert "office" in named and named <= set(extras)


@pytest.mark.parametrize(
    ("url", "package", "extra"),
    [
        ("s3://bucket/docs", "s3fs", "s3"),
        ("gs://bucket/docs", "gcsfs", "gs"),
        ("gcs://bucket/docs", "gcsfs", "gs"),
        ("abfs://box/docs", "adlfs", "azure"),
        ("https://example.org/docs", "aiohttp", "http"),
        ("simplecache::s3://bucket/docs.jsonl", "s3fs", "s3"),
    ],
)
def test_a_missing_extra_is_named_as_it_is_installed(
    monkeypatch: pytest.MonkeyPatch, url: str, package: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "fsspec.implementations.http", raising=False)
    for protocol in url.partition("://")[0].split("::"):
        monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, protocol, raising=False)
    with pytest.raises(ConfigError, match=rf"needs an extra package: pip install 'kb-pipeline\[{extra}\]'"):
        opened(url)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    """A folder on a web server that lists it."""
    pytest.importorskip("aiohttp", reason="the extra `http` is not installed")
    root = tmp_path / "site"
    (root / "guide").mkdir(parents=True)
    (root / "guide" / "one.md").write_text(ONE)
    (root / "two.md").write_text(TWO)
    (root / "records.jsonl").write_text('{"id": "a", "text": "one"}\n{"id": "b", "text": "two"}\n')
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(root)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_web_server_is_a_source(site: str) -> None:
    source = opened(site)
    items = {item.doc_id: item for item in source.list() if isinstance(item, SourceItem)}
    assert {"guide/one.md", "two.md"} <= set(items)
    assert not [item for item in source.list() if isinstance(item, RefusedItem)]
    document = source.read(items["guide/one.md"])
    assert (document.text, document.uri) == (ONE, f"{site}/guide/one.md")
    records = opened(f"{site}/records.jsonl")
    assert [records.read(item).text for item in records.list() if isinstance(item, SourceItem)] == ["one", "two"]
    page_alone = opened(f"{site}/two.md")
    assert [page_alone.read(item).text for item in page_alone.list() if isinstance(item, SourceItem)] == [TWO]
    with pytest.raises(SourceError):
        list(opened(f"{site}/nowhere").list())
