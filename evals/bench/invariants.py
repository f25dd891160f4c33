"""What must be true of `kb chunks` after any run, checked against the files, not the engine's reading of them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Rows = Sequence[Mapping[str, Any]]

FRONT_MATTER = re.compile(r"\A---[ \t]*\r?\n.*?^---[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE)
HEADING = re.compile(r"[ \t]*(?:>[ \t]*)*#{1,6}(?:[ \t]|$)")
UNDERLINE = re.compile(r"[ \t]*(?:=+|-+)[ \t]*$")
WORD = re.compile(r"\w")


def read_text(path: Path) -> str:
    """A UTF-8 file as offsets count: no newline translation, no byte order mark, NUL and 0x1F are U+FFFD."""
    return re.sub("[\0\x1f]", "\ufffd", path.read_bytes().decode("utf-8-sig"))


def by_document(rows: Rows) -> dict[str, list[Mapping[str, Any]]]:
    """The rows of each document in order."""
    found: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        found[row["doc_id"]].append(row)
    return {doc_id: sorted(chunks, key=lambda row: row["ordinal"]) for doc_id, chunks in found.items()}


def violations(root: Path, rows: Rows, *, pattern: str = "*.md") -> list[str]:
    """Every broken promise as a sentence: absent files, untrue offsets, gaps in ordinals, lines in no chunk."""
    present = {path.relative_to(root).as_posix(): path for path in root.rglob(pattern) if path.is_file()}
    documents = by_document(rows)
    found = [f"{doc_id}: has chunks, but there is no such file" for doc_id in documents.keys() - present.keys()]
    for doc_id, path in sorted(present.items()):
        text = read_text(path)
        chunks = documents.get(doc_id, [])
        found += [f"{doc_id}: {problem}" for problem in _document(text, chunks)]
    return found


def _document(text: str, chunks: Rows) -> Iterable[str]:
    if [row["ordinal"] for row in chunks] != list(range(len(chunks))):
        yield f"ordinals are {[row['ordinal'] for row in chunks]}"
    covered = bytearray(len(text))
    for row in chunks:
        start, end = row["start"], row["end"]
        if text[start:end] != row["text"]:
            found = f"source[{start}:{end}] is {text[start:end]!r:.80}, text is {row['text']!r:.80}"
            yield f"chunk {row['ordinal']}: {found}"
        covered[start:end] = b"\1" * (end - start)
    for start, end in uncovered_lines(text, covered):
        yield f"characters {start} to {end} are in no chunk: {text[start:end]!r:.100}"


def uncovered_lines(text: str, covered: bytearray) -> Iterable[tuple[int, int]]:
    """Lines with a word in them that lie outside all chunks; front matter and headings (they are context) may."""
    front = FRONT_MATTER.match(text)
    at = front.end() if front else 0
    lines = text[at:].splitlines(keepends=True)
    for number, line in enumerate(lines):
        start, at = at, at + len(line)
        following = lines[number + 1] if number + 1 < len(lines) else ""
        if HEADING.match(line) or (UNDERLINE.match(following) and WORD.search(line)):
            continue
        if any(WORD.match(character) and not covered[start + offset] for offset, character in enumerate(line)):
            yield start, at


def row_versions(conn: Any, tables: Sequence[str] = ("documents", "chunks", "contents")) -> dict[str, set[str]]:
    """Identity of every row version (`tableoid`, `ctid`, `xmin`): equal before and after means nothing was written."""
    return {
        name: {
            row[0] for row in conn.execute(f"SELECT tableoid || ' ' || ctid || ' ' || xmin FROM kb.{name}").fetchall()
        }
        for name in tables
    }
