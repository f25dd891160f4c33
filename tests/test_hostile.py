"""Bad input, bad names and two tenants: through `kb` as a person runs it."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import errors

from evals.bench.workspace import Workspace
from kb_pipeline.config.schema import Settings
from kb_pipeline.errors import ConfigError
from kb_pipeline.search.filters import parse_where
from kb_pipeline.search.hit import Hit
from kb_pipeline.search.retriever import Retriever
from kb_pipeline.store.database import Database
from kb_pipeline.store.dead_letters import DeadLetter, list_dead_letters
from kb_pipeline.store.listing import chunk_rows
from kb_pipeline.tenant import checked_tenant_id

QUARANTINED = 3
USAGE = 2

SQL = "'; DROP TABLE kb.documents; --"
NAMES = [
    SQL,
    'double " quote',
    "back\\slash",
    "percent %s %(a)s",
    "brace {0} {tenant}",
    "../../../etc/passwd",
    "/etc/passwd",
    "..",
    "$(touch pwned)",
    "emoji \U0001f600 and \u202e override",
    "x" * 700,
]
ODD_NAMES = ["line\nbreak", "tab\there", "bell\x07"]
"""Indexed or quarantined, as long as it is said which."""
TENANT_IDS = [
    SQL,
    "a'b",
    'a"b',
    "../a",
    "a/b",
    "a b",
    "A",
    "",
    "-a",
    "_a",
    "a,b",
    "a\n",
    "a" * 64,
    "\u00e4",
]


@pytest.fixture
def space(tmp_path: Path, db: Database) -> Workspace:
    """`kb` on the test's own database."""
    return Workspace(tmp_path / "work", {"KB_DSN": db.dsn})


def chunks(db: Database, tenant: str = "default", doc_id: str | None = None) -> list[dict[str, Any]]:
    """What `kb chunks` prints."""
    with db.connect("reader", tenant) as conn:
        return list(chunk_rows(conn, tenant, doc_id=doc_id))


def letters_of(db: Database, tenant: str = "default") -> list[DeadLetter]:
    """What `kb dead-letters` shows."""
    with db.connect("owner") as conn:
        return list_dead_letters(conn, tenant)


def found(retriever: Retriever, query: str, tenant: str, where: str) -> list[Hit]:
    """What `kb search QUERY --where ...` finds; nothing where the filter is refused."""
    try:
        return retriever.search(query, tenant=tenant, where=[parse_where(where)])
    except ConfigError:
        return []


def words(count: int, seed: int) -> str:
    """Text that is unlike that of another seed."""
    source = random.Random(seed)
    vocabulary = ["".join(source.choices("abcdefghijklmnopqrstuvwxyz", k=6)) for _ in range(min(count, 3000))]
    return " ".join(source.choices(vocabulary, k=count))


@contextmanager
def no_read_access(path: Path) -> Iterator[bool]:
    """Take the right to read away; yields whether that means anything (the superuser reads all)."""
    path.chmod(0)
    try:
        yield not os.access(path, os.R_OK)
    finally:
        path.chmod(0o644)


def test_a_folder_full_of_trouble(space: Workspace, tmp_path: Path, db: Database) -> None:
    """Every good document is indexed, every bad one has a dead letter with its reason, exit code 3 and a summary."""
    docs = tmp_path / "docs"
    (docs / "deep").mkdir(parents=True)
    good = {
        "plain.md": b"# Plain\n\nA paragraph about gardens.\n",
        "deep/other.txt": b"Another paragraph, about rivers.\n",
        "nul.md": b"# Nul\n\nbefore\x00after the zero byte\n\n" + words(300, 5).encode(),
        "utf16.md": "\ufeff# Sixteen\n\nA paragraph in UTF-16.\n".encode("utf-16-le"),
        "bom.md": b"\xef\xbb\xbf# Marked\n\nA paragraph behind a byte order mark.\n",
        "word.txt": b"w" * 2_000_000,
        "line.txt": words(5_000_000 // 7, 1).encode(),
        "fence.md": b"# Open\n\n```python\nprint('never closed')\n\n" + b"x = 1\n" * 50,
        "crlf.md": b"# Ends\r\n\r\nA paragraph with other line ends.\r\n",
        "nested.json": (b"[" * 5000) + (b"]" * 5000),
    }
    bad = {"latin.md": b"# Latin\n\nna\xefve caf\xe9, not UTF-8\n\xff\xfe\xfa"}
    either = {
        "empty.md": b"",
        "short-nul.md": b"before\x00after",
        "binary.md": bytes(range(256)) * 20,
        "blank.md": b"  \n\n\t\n",
        "front.md": b"---\ntitle: [unclosed\n  - : :\n---\n\nA body below broken front matter.\n",
        "broken.json": b'{"a": [1, 2',
        "broken.xml": b"<a><b>text</a>",
    }
    for name, content in {**good, **bad, **either}.items():
        (docs / name).write_bytes(content)
    os.mkfifo(docs / "pipe.md")
    bad["pipe.md"] = b""
    (docs / "deep" / "loop").symlink_to(docs, target_is_directory=True)
    (docs / "self.md").symlink_to(docs / "self.md")
    locked = docs / "locked.md"
    locked.write_text("# Locked\n\nNobody may read this.\n")
    space.configure(f'[tenants.default]\nsource = "{docs}"\n')
    with no_read_access(locked) as unreadable:
        run = space.kb("run", "--until", "embeddings", accept=[QUARANTINED])
        (bad if unreadable else good)["locked.md"] = b""
    letters = {row["doc_id"]: row for row in space.json("dead-letters", "list")}
    indexed = {row["doc_id"] for row in chunks(db)}
    assert set(good) - {"nested.json"} <= indexed
    assert set(bad) <= set(letters)
    assert not indexed & set(letters)
    assert not any(doc_id.startswith("deep/loop") for doc_id in indexed), "a symlink loop was followed"
    known = {row[0] for row in space.query("SELECT doc_id FROM kb.documents")}
    for name in either | {"nested.json": b""}:
        assert (name in known) != (name in letters), f"{name} is lost, or in both places"
    assert all(row["reason"] and row["detail"] for row in letters.values())
    said = run.stdout + run.stderr
    assert str(len(letters)) in said and "dead-letters" in said


def test_long_word_and_long_line_keep_their_text(space: Workspace, tmp_path: Path, db: Database) -> None:
    """What is cut into many chunks is still the source, character by character."""
    docs = tmp_path / "docs"
    docs.mkdir()
    texts = {"word.txt": "w" * 200_000, "line.txt": words(30_000, 2)}
    for name, text in texts.items():
        (docs / name).write_text(text)
    space.kb("run", "--source", docs, "--until", "embeddings")
    rows = chunks(db)
    for name, text in texts.items():
        mine = sorted((row for row in rows if row["doc_id"] == name), key=lambda row: row["ordinal"])
        assert all(text[row["start"] : row["end"]] == row["text"] for row in mine)
        joined = "".join(row["text"].replace(" ", "") for row in mine)
        assert joined == text.replace(" ", "")


def test_records_with_trouble(space: Workspace, tmp_path: Path, db: Database) -> None:
    """A JSON Lines file: broken lines, missing fields and repeated ids are refused one by one."""
    lines: list[str] = [json.dumps({"id": f"good-{n}", "text": f"Record {n} says {words(20, n)}."}) for n in range(20)]
    lines[3:3] = ['{"id": "cut", "text": "no end', "not json at all", "[1, 2]", "null", ""]
    lines.append(json.dumps({"id": "good-0", "text": "The same id again."}))
    lines.append(json.dumps({"id": "textless"}))
    lines.append(json.dumps({"text": "A record without an id."}))
    lines.append(
        json.dumps(
            {
                "id": "odd",
                "text": "Metadata with \ud800 and zero \u0000 in it.",
                "metadata": {"k\u0000": "v\ud800\u0000"},
            }
        )
    )
    lines.append(json.dumps({"id": {"not": "a string"}, "text": "An object as id."}))
    source = tmp_path / "records.jsonl"
    source.write_text("\n".join(lines) + "\n")
    space.kb("run", "--source", source, "--until", "embeddings", accept=[QUARANTINED])
    indexed = {row["doc_id"] for row in chunks(db)}
    letters = letters_of(db)
    assert {f"good-{n}" for n in range(1, 20)} | {"odd"} <= indexed
    assert len(letters) >= 6, letters
    assert all(letter.reason and letter.detail for letter in letters)
    # The first of two records with one id counts, or neither; never the second one silently.
    assert any("good-0" in letter.doc_id + letter.detail for letter in letters)


def test_names_made_of_sql_quotes_and_paths(space: Workspace, tmp_path: Path, db: Database) -> None:
    """Record ids, filter keys and values are data: they come back as they are, and nothing is touched beside them."""
    source = tmp_path / "records.jsonl"
    texts = {name: f"Text number {n}: {words(30, 100 + n)}" for n, name in enumerate(NAMES)}
    rows = [{"id": name, "text": text, "metadata": {name: name}} for name, text in texts.items()]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    space.kb("run", "--source", source)
    assert {row["doc_id"] for row in chunks(db)} == set(NAMES)
    beside = {path for path in tmp_path.rglob("*") if "home" not in path.parts}
    with Retriever(db, Settings()) as retriever:
        for name, text in texts.items():
            assert {row["doc_id"] for row in chunks(db, doc_id=name)} == {name}
            assert retriever.search(text, tenant="default", k=1)[0].doc_id == name
            assert {hit.doc_id for hit in found(retriever, text, "default", f"{name}={name}")} <= {name}
        for key in [SQL, "x') OR true --", "metadata' ? 'a", "a" * 5000, "%s", "{0}"]:
            assert found(retriever, "text", "default", f"{key}=1") == []
            assert found(retriever, "text", "default", f"third={key}") == []
    done = space.kb("search", "text", "--where", f"{SQL}=1", "--json", accept=[0, USAGE])
    assert done.returncode == USAGE or json.loads(done.stdout) == []
    space.kb("purge", SQL, "--yes")
    assert {row["doc_id"] for row in chunks(db)} == set(NAMES) - {SQL}
    assert {path for path in tmp_path.rglob("*") if "home" not in path.parts} == beside


def test_file_names_made_of_sql_and_quotes(space: Workspace, tmp_path: Path, db: Database) -> None:
    """The same with files."""
    docs = tmp_path / "docs"
    names = [f"{name[:60]}.md" for name in [*NAMES, *ODD_NAMES] if "/" not in name and name != ".."]
    docs.mkdir()
    for number, name in enumerate(names):
        (docs / name).write_text(f"# Title\n\nText number {number}: {words(30, number)}\n")
    space.kb("run", "--source", docs, "--until", "embeddings", accept=[0, QUARANTINED])
    indexed = {row["doc_id"] for row in chunks(db)}
    assert indexed >= {name for name in names if name.removesuffix(".md") not in ODD_NAMES}
    assert len(indexed) + len(letters_of(db)) == len(names)


@pytest.mark.parametrize("tenant_id", TENANT_IDS)
def test_tenant_ids_that_break_the_rule(tenant_id: str) -> None:
    """Refused before anything is done with them."""
    with pytest.raises(ConfigError):
        checked_tenant_id(tenant_id)


@pytest.mark.parametrize("tenant_id", [SQL, "../a"])
def test_kb_refuses_a_hostile_tenant_id(space: Workspace, tmp_path: Path, tenant_id: str) -> None:
    """A usage error, and nothing was made."""
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "a.md").write_text("# A\n\nText.\n")
    done = space.kb("run", "--tenant", tenant_id, "--source", docs, accept=[USAGE])
    assert "not valid" in done.stderr
    assert space.query("SELECT count(*) FROM kb.documents") == [(0,)]
    assert space.query("SELECT count(*) FROM kb.tenants") == [(0,)]


def test_two_tenants_with_the_same_documents(space: Workspace, tmp_path: Path, db: Database) -> None:
    """Neither sees a row of the other, by command, by role, or after the other purges what both hold."""
    docs = tmp_path / "docs"
    docs.mkdir()
    for number in range(5):
        (docs / f"{number}.md").write_text(f"# Title {number}\n\nShared text number {number}: {words(40, number)}\n")
    space.configure(f'[tenants.red]\nsource = "{docs}"\n[tenants.blue]\nsource = "{docs}"\n')
    for tenant in ("red", "blue"):
        space.kb("run", "--tenant", tenant)
    red, blue = chunks(db, "red"), chunks(db, "blue")
    assert len(red) == len(blue) and red
    for table in ("documents", "chunks", "contents"):
        for role in ("reader", "writer"):
            with db.connect(role, "red") as conn:
                seen = conn.execute(f"SELECT DISTINCT tenant_id FROM kb.{table}".encode()).fetchall()
                assert seen == [("red",)], (table, role)
            with db.connect(role) as conn:
                assert conn.execute(f"SELECT count(*) FROM kb.{table}".encode()).fetchone() == (0,), (table, role)
    with db.connect("writer", "red") as conn, pytest.raises(errors.InsufficientPrivilege):
        conn.execute("UPDATE kb.documents SET tenant_id = 'blue'")
    for number in range(8):
        with db.connect("reader", "red") as conn, pytest.raises(errors.InsufficientPrivilege):
            conn.execute(f"SELECT 1 FROM kb.contents_p{number}".encode())
    space.kb("purge", "0.md", "--tenant", "red", "--yes")
    assert chunks(db, "blue") == blue
    with Retriever(db, Settings()) as retriever:
        assert retriever.search(words(40, 0), tenant="blue", k=1)[0].doc_id == "0.md"
        assert all(not hit.also_in for hit in retriever.search(words(40, 0), tenant="blue", k=5))
        assert "0.md" not in {hit.doc_id for hit in retriever.search(words(40, 0), tenant="red", k=10)}


def test_a_writer_cannot_write_for_another_tenant(db: Database) -> None:
    """Row-level security refuses the row, not only hides it."""
    with db.connect("owner") as conn:
        conn.execute("INSERT INTO kb.tenants (tenant_id) VALUES ('red'), ('blue')")
    insert = (
        "INSERT INTO kb.documents (tenant_id, doc_id, uri, content_sha256, format, chunker)"
        " VALUES ('blue', 'a', 'a', '\\x00', 'text', '1')"
    )
    with db.connect("writer", "red") as conn, pytest.raises(psycopg.errors.InsufficientPrivilege):
        conn.execute(insert)
