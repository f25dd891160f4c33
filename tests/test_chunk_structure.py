"""Chunks respect what the author meant: sections, lists, code, tables, functions, elements."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kb_pipeline.chunking.chunker import chunk_document, chunker_id
from kb_pipeline.chunking.model import Chunk
from kb_pipeline.chunking.tokens import local_counter
from kb_pipeline.config.schema import ChunkingConfig
from kb_pipeline.sources.document import as_document
from kb_pipeline.sources.model import SourceDocument

PROSE = "The quick brown fox jumps over the lazy dog near the river bank. "


def chunks(
    text: str, format_: str = "markdown", title: str | None = None, *, size: int = 64, overlap: int = 0
) -> list[Chunk]:
    document = SourceDocument("d", "u", text, format_, b"", {}, title)
    config = ChunkingConfig(max_tokens=size, overlap_tokens=overlap)
    return chunk_document(document, counter=local_counter(), config=config)


def test_small_documents_are_one_chunk() -> None:
    (one,) = chunks("# A\n\nText.\n\n## B\n\n- x\n- y\n")
    assert one.text == "# A\n\nText.\n\n## B\n\n- x\n- y"
    assert (one.heading_path, one.context, one.kind) == ((), "", "mixed")


def test_empty_documents_have_no_chunks() -> None:
    assert chunks("") == chunks(" \n\t\n") == chunks("---\ntitle: x\n---\n") == []


def test_heading_paths_are_the_headings_above() -> None:
    text = f"# Top\n\n{PROSE * 3}\n\n## Left\n\n{PROSE * 5}\n\n## Right\n\n{PROSE * 3}\n"
    found = chunks(text)
    assert [(c.heading_path, c.text.split("\n")[0][:10]) for c in found] == [
        ((), "# Top"),
        (("Top",), "## Left"),
        (("Top", "Left"), "The quick "),
        (("Top",), "## Right"),
    ]
    assert found[2].context == "Top > Left"


def test_a_title_is_the_first_heading_only_where_the_text_has_none() -> None:
    body = f"## Part\n\n{PROSE * 5}"
    assert {c.heading_path[:1] for c in chunks(body, title="Title")} == {("Title",)}
    assert not any("Title" in c.context for c in chunks(f"# Own\n\n{body}", title="Title"))


def test_front_matter_is_not_chunked_and_offsets_are_of_the_whole_text() -> None:
    document = as_document("a.md", "u", b"---\ntitle: T\n---\n\nBody text.\n", {})
    (one,) = chunk_document(document, counter=local_counter(), config=ChunkingConfig())
    assert (one.start, one.end, one.text, one.heading_path) == (18, 28, "Body text.", ("T",))


def test_headings_on_a_path_are_plain_text() -> None:
    text = f"# A `code` and [link](http://x) *em* &amp; x {{#anchor}}\n\n{PROSE * 6}"
    assert chunks(text)[-1].heading_path == ("A code and link em & x",)
    assert chunks(f"Set\next\n===\n\n{PROSE * 6}")[-1].heading_path == ("Set ext",)


def test_long_headings_leave_room_for_the_body() -> None:
    text = f"# {'Long heading ' * 8}\n\n## {'Another long heading ' * 6}\n\n### Short\n\n{PROSE * 5}"
    assert chunks(text)[-1].heading_path == ("Short",)


def test_code_stays_whole_while_it_fits_and_is_cut_at_lines() -> None:
    code = "```py\n" + "value = compute(1)\n" * 6 + "```"
    found = chunks(f"{PROSE * 3}\n\n{code}\n\n{PROSE}")
    assert any(code in c.text for c in found)
    long = "```py\n" + "".join(f"value_{n} = compute({n})\n" for n in range(60)) + "```"
    pieces = chunks(f"# T\n\n{PROSE}\n\n{long}")
    lines = [line for c in pieces[1:] for line in c.text.split("\n")]
    assert len(pieces) > 5 and all(line.startswith(("value_", "```")) for line in lines)
    assert chunks("```\nnever closed\n\n# not a heading\n")[0].kind == "code"


def test_a_split_table_repeats_its_header_as_context() -> None:
    header = "| Name | Meaning |\n| --- | --- |"
    rows = "\n".join(f"| key{n} | what it means {n} |" for n in range(30))
    found = chunks(f"# T\n\nIntro.\n\n{header}\n{rows}\n\nAfter.")
    later = [c for c in found if c.text.startswith("| key")]
    assert len(later) > 3
    assert all(c.context == f"T\n{header}" and c.heading_path == ("T",) for c in later)
    assert not any(header in c.text for c in later)
    assert found[0].text.startswith("# T\n\nIntro.\n\n| Name")
    assert (found[-1].text, found[-1].context) == ("After.", "T")


def test_csv_rows_carry_the_first_row() -> None:
    text = "name,says\n" + "".join(f'n{n},"line one\nline two {n}"\n' for n in range(40))
    found = chunks(text, "csv")
    assert all(c.context == "name,says" for c in found[1:]) and found[0].text.startswith("name,says")
    assert all(c.text.count('"') % 2 == 0 for c in found)


def test_lists_are_cut_between_items_with_their_markers() -> None:
    text = "\n".join(f"{n}. Item number {n} with some words\n   - inner {n}" for n in range(1, 30))
    found = chunks(text)
    assert len(found) > 3 and all(c.kind == "list" for c in found)
    assert all(c.text.split(".")[0].strip().isdigit() for c in found)


def test_link_definitions_html_and_shortcodes_are_covered() -> None:
    text = '{{< note >}}\nHi\n{{< /note >}}\n\n<Tab x={1}>\n\nInside\n\n</Tab>\n\n[a]: http://a.example/\n[b]: /b "B"\n'
    assert chunks(text)[0].text == text.strip()


def test_sentences_and_words_stay_whole() -> None:
    found = chunks(PROSE * 30, "text")
    assert all(c.text.endswith("bank.") for c in found)
    found = chunks("word " * 500, "text")
    assert all(set(c.text.split()) == {"word"} for c in found) and all(c.tokens > 40 for c in found[:-1])


def test_a_word_over_the_limit_is_a_fragment() -> None:
    found = chunks("before " + "abcdefghij" * 60 + " after", "text")
    assert "".join(c.text for c in found).replace(" ", "") == "before" + "abcdefghij" * 60 + "after"
    assert {c.kind for c in found} >= {"fragment"}
    assert found[0].text.startswith("before") and found[-1].text.endswith("after")


def test_overlap_repeats_whole_sentences_within_a_section() -> None:
    text = f"# A\n\n{''.join(f'Sentence number {n} is here. ' for n in range(40))}\n\n# B\n\n{PROSE * 4}"
    found = chunks(text, overlap=24)
    for before, after in zip(found, found[1:], strict=False):
        if after.heading_path == ("A",) and before.heading_path == ("A",):
            assert after.start < before.end and after.text.startswith("Sentence number")
    first_of_b = next(c for c in found if c.text.startswith("# B"))
    assert first_of_b.start >= max(c.end for c in found if c.ordinal < first_of_b.ordinal)


def test_code_is_cut_at_functions_and_classes() -> None:
    source = '"""Doc."""\nimport os\n\n\n# about f\n@deco\ndef f(a):\n' + "    a += 1\n" * 7
    source += "\n\nclass Big:\n    x = 1\n\n"
    source += "".join(f"    def m{n}(self):\n" + "        self.x += 1\n" * 5 + "\n" for n in range(3))
    found = chunks(source, "code:python")
    assert [(c.text.split("\n")[0], c.heading_path) for c in found] == [
        ('"""Doc."""', ()),
        ("# about f", ()),
        ("class Big:", ()),
        ("    def m1(self):", ("Big",)),
        ("    def m2(self):", ("Big",)),
    ]
    assert found[1].kind == "function"


@pytest.mark.parametrize(
    ("language", "source", "name"),
    [
        ("typescript", "export class Cart {\n  add(x: number) {\n%s  }\n}\n", "Cart"),
        ("go", "package m\n\nfunc (c *Cart) Add(x int) {\n%s}\n", "Add"),
        ("java", "class Cart {\n  void add(int x) {\n%s  }\n}\n", "Cart"),
        ("rust", "impl Show for Cart {\n  fn add(&self) {\n%s  }\n}\n", "impl Show for Cart"),
        ("c", "static int *add(int x) {\n%s}\n", "add"),
        ("cpp", "namespace shop {\nclass Cart {\n  void add() {\n%s  }\n};\n}\n", "shop"),
        ("csharp", "namespace Shop {\n class Cart {\n  void Add() {\n%s  }\n }\n}\n", "Shop"),
        ("ruby", "class Cart\n  def add(x)\n%s  end\nend\n", "Cart"),
        ("php", "<?php\nclass Cart {\n  function add() {\n%s  }\n}\n", "Cart"),
        ("kotlin", "class Cart {\n  fun add() {\n%s  }\n}\n", "Cart"),
        ("swift", "class Cart {\n  func add() {\n%s  }\n}\n", "Cart"),
        ("scala", "object Cart {\n  def add() = {\n%s  }\n}\n", "Cart"),
    ],
)
def test_other_languages_name_what_encloses(language: str, source: str, name: str) -> None:
    found = chunks(source % ("    total = total + price\n" * 40), f"code:{language}")
    assert len(found) > 3
    inside = [c for c in found if c.text.startswith("    total")]
    assert len(inside) > 3 and {c.heading_path[0] for c in inside} == {name}


def test_json_yaml_and_xml_are_cut_at_elements() -> None:
    inner = ", ".join(f'"key{n}": "some value {n}"' for n in range(20))
    found = chunks(f'{{"first": {{{inner}}}, "second": {{{inner}}}}}', "json")
    assert {c.heading_path for c in found} >= {("first",), ("second",)}
    assert {c.kind for c in found} == {"element"}
    inner = "".join(f"    key{n}: some value {n}\n" for n in range(20))
    found = chunks(f"first:\n  a:\n{inner}second:\n  b:\n{inner}", "yaml")
    assert {c.heading_path for c in found} >= {("first", "a"), ("second", "b")}
    inner = "".join(f"<item n='{n}'>some text &amp; é {n}</item>" for n in range(20))
    found = chunks(f"<?xml version='1.0'?><root><part>{inner}</part></root>", "xml")
    assert ("root", "part") in {c.heading_path for c in found}
    assert all(c.text.startswith("<") and c.text.endswith(">") for c in found)


def test_rst_sections() -> None:
    text = f"=====\nTitle\n=====\n\n{PROSE * 3}\n\nOne\n---\n\n.. code:: python\n\n   x = 1\n\n   y = 2\n\n"
    text += f"{PROSE * 4}\n\nTwo\n---\n\n"
    found = chunks(f"{text}Deep\n~~~~\n\n{PROSE * 6}", "rst")
    assert found[0].text.startswith("=====\nTitle\n=====")
    assert {c.heading_path for c in found} == {(), ("Title",), ("Title", "One"), ("Title", "Two", "Deep")}


def test_equal_sections_in_other_files_are_equal_contents() -> None:
    section = f"## Same\n\n{PROSE * 9}\n\n- a\n- b\n"
    one, two = chunks(f"# T\n\nFirst file.\n\n{PROSE * 5}\n\n{section}"), chunks(f"# T\n\n{PROSE * 8}\n\n{section}")
    mine = {c.fingerprint for c in one if "Same" in (c.text + c.context)}
    assert mine and mine == {c.fingerprint for c in two if "Same" in (c.text + c.context)}


def test_an_edit_changes_few_contents() -> None:
    sections = [f"## Part {n}\n\n" + f"Words about part {n}. " * 20 for n in range(30)]
    before = {c.fingerprint for c in chunks("# T\n\n" + "\n\n".join(sections), size=120)}
    sections[10] += "One more sentence."
    after = {c.fingerprint for c in chunks("# T\n\n" + "\n\n".join(sections), size=120)}
    assert len(after - before) <= 2


def test_the_id_names_all_that_chunks_depend_on() -> None:
    config = ChunkingConfig(max_tokens=100, overlap_tokens=10)
    assert chunker_id(local_counter(), config) == "1:wordllama-l2:100:10"


def test_chunks_do_not_depend_on_the_process(tmp_path: Path) -> None:
    path = tmp_path / "doc.md"
    path.write_text(f"# T\n\n{PROSE * 20}\n\n## U\n\n{PROSE * 9}")
    code = (
        "import sys, pathlib\n"
        "from kb_pipeline.chunking.chunker import chunk_document\n"
        "from kb_pipeline.chunking.tokens import local_counter\n"
        "from kb_pipeline.config.schema import ChunkingConfig\n"
        "from kb_pipeline.sources.document import as_document\n"
        "d = as_document('d.md', 'u', pathlib.Path(sys.argv[1]).read_bytes(), {})\n"
        "print([c.fingerprint.hex() for c in chunk_document(d, counter=local_counter(), config=ChunkingConfig())])\n"
    )
    runs = {
        subprocess.run(
            [sys.executable, "-c", code, str(path)], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(runs) == 1
