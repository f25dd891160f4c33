"""HTML, notebooks and office files become Markdown; the packages source describes what is installed."""

from __future__ import annotations

import json
import sys

import pytest

from kb_pipeline.errors import ConfigError, DocumentRefused
from kb_pipeline.sources.docstrings import module_markdown
from kb_pipeline.sources.document import as_document
from kb_pipeline.sources.formats import format_of
from kb_pipeline.sources.html import html_markdown
from kb_pipeline.sources.model import SourceItem
from kb_pipeline.sources.packages import PackagesSource

PAGE = """<!doctype html><html lang="en"><head><title> The  page </title><meta name=description content="About">
<style>p { color: red }</style></head><body><nav>Menu</nav><main><h1>Hello <em>world</em></h1>
<p>First<br>line with <a href="x">a link</a> and <code>code</code>.</p> loose text
<ul><li>one<ul><li>inner</li></ul></li><li><p>two</p></li></ul><ol><li>step</li></ol>
<pre><code>x = 1
  y</code></pre><blockquote><p>said</p></blockquote>
<table><tr><th>A</th><th>B</th></tr><tr><td>1|2</td><td></td></tr></table>
<div><section><h2>Part</h2>text</section></div><script>alert(1)</script></main><footer>Foot</footer></body></html>"""


def test_html_keeps_content_and_structure() -> None:
    text, metadata = html_markdown(PAGE)
    assert metadata == {"title": "The page", "description": "About", "lang": "en"}
    assert text == (
        "# Hello world\n\nFirst\nline with a link and `code`.\n\nloose text\n\n- one\n\n  - inner\n- two\n\n1. step\n\n"
        "```\nx = 1\n  y\n```\n\n> said\n\n| A | B |\n| --- | --- |\n| 1\\|2 |  |\n\n## Part\n\ntext\n"
    )


@pytest.mark.parametrize("source", ["", " ", "<html></html>", "<!-- only -->", "<p>", "&amp;", "a < b", "<" * 50_000])
def test_odd_html_is_read_or_refused(source: str) -> None:
    try:
        html_markdown(source)
    except DocumentRefused as refused:
        assert refused.reason == "broken-html"


def test_deep_html_does_not_exhaust_the_stack() -> None:
    for tag in ("div", "b", "ul><li", "blockquote", "table><tr><td"):
        text, _ = html_markdown(f"<{tag}>" * 5_000 + "inside")
        assert len(text) < 100_000


def test_notebooks() -> None:
    cells = [
        {"cell_type": "markdown", "source": ["# T\n", "text"]},
        {"cell_type": "code", "source": "x = 1\n", "outputs": [{"text": "not this"}]},
        {"cell_type": "raw", "source": ""},
    ]
    data = json.dumps({"cells": cells, "metadata": {"kernelspec": {"language": "julia"}}}).encode()
    document = as_document("a.ipynb", "u", data, {})
    assert document.text == "# T\ntext\n\n```julia\nx = 1\n```\n"
    assert document.metadata == {"language": "julia"}
    for bad in (b"{", b"[]", b'{"cells": 3}', b'{"worksheets": []}'):
        with pytest.raises(DocumentRefused, match="broken-notebook"):
            as_document("a.ipynb", "u", bad, {})


def test_office_without_the_extra_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "markitdown", None)
    with pytest.raises(DocumentRefused, match=r"extra-missing.*kb-pipeline\[office\]"):
        as_document("a.pdf", "u", b"%PDF-1.7", {})


def test_formats_by_name() -> None:
    names = {
        "a/b.MD": "markdown",
        "x.tsx": "code:tsx",
        "README": "text",
        "Dockerfile": "code:dockerfile",
        "a.tar.gz": None,
        "noext": None,
        ".gitignore": None,
        "x.h": "code:c",
    }
    assert {name: format_of(name) for name in names} == names


def test_every_code_format_has_a_parser() -> None:
    from tree_sitter_language_pack import get_parser

    from kb_pipeline.sources.formats import BY_NAME, BY_SUFFIX

    for format_ in {*BY_SUFFIX.values(), *BY_NAME.values()}:
        if format_.startswith("code:") or format_ in ("json", "yaml"):
            get_parser(format_.removeprefix("code:"))  # type: ignore[arg-type]


def test_packages_source() -> None:
    source = PackagesSource("pytest,hypothesis")
    items = [item for item in source.list() if isinstance(item, SourceItem)]
    assert items[0].doc_id == "hypothesis/README"
    assert [item.doc_id for item in items] == [item.doc_id for item in source.list()]
    documents = [source.read(item) for item in items]
    assert documents[0].metadata["package"] == "hypothesis" and "Hypothesis" in documents[0].text
    modules = [document for document in documents if document.metadata["part"] == "module" and document.text]
    assert modules and all(document.text.startswith(f"# {document.metadata['module']}\n") for document in modules)
    with pytest.raises(ConfigError, match="no-such-package"):
        list(PackagesSource("no-such-package").list())


def test_docstrings_without_importing(tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "m.py"
    path.write_text(
        '"""Top.\n\n# not a heading\n"""\nraise SystemExit\n\n'
        'class A(B):\n    """A.\n\n    Notes\n    -----\n    Deep.\n    """\n'
        '    def m(self, x: int = 1) -> str:\n        """M."""\n    def _p(self):\n        """No."""\n'
        'async def f(): \n    """F."""\ndef undocumented(): pass\n'
    )
    assert module_markdown(path, "m") == (
        "# m\n\nTop.\n\n\\# not a heading\n\n## m.A\n\n```python\nclass A(B)\n```\n\nA.\n\n**Notes**\n\nDeep.\n\n"
        "### m.A.m\n\n"
        "```python\ndef m(self, x: int=1) -> str\n```\n\nM.\n\n## m.f\n\n```python\nasync def f()\n```\n\nF.\n"
    )
    path.write_text("def (")
    with pytest.raises(DocumentRefused, match="unreadable"):
        module_markdown(path, "m")
