"""The tenant of 100,000 contents that several benchmarks share: sentences of real documentation through `kb run`.

`KB_BENCH_LARGE` names a folder to keep it in, so that it is made once for several benchmarks (`python -m evals.bench`
does that).
"""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from evals.bench.common import Measured, skip
from evals.bench.corpora import clone, data_folder, missing_data
from evals.bench.workspace import Workspace, workspace

KEPT = "KB_BENCH_LARGE"
TENANT = "default"
SEED = 7
SHORTEST, LONGEST = 40, 400
SENTENCE = re.compile(r"(?<=[.!?])\s+|\n\s*\n|\n(?=[-*#|>0-9])")


@contextmanager
def large_tenant(count: int) -> Iterator[tuple[Workspace, Measured | None]]:
    """A workspace whose tenant `default` holds `count` contents, live, and the run that made it (None: made before)."""
    data = data_folder()
    if data is None:
        skip(missing_data())
    named = os.environ.get(KEPT)
    keep = Path(named) / str(count) if named else None
    with workspace(keep=keep) as space:
        made = space.folder / "made"
        run = None
        if not made.exists():
            with TemporaryDirectory() as folder:
                write_records(space.folder / "records.jsonl", count, Path(folder), data)
            space.configure(f'[tenants.{TENANT}]\nsource = "{space.folder / "records.jsonl"}"\n')
            run = space.kb("run")
            made.touch()
        yield space, run


def write_records(path: Path, count: int, scratch: Path, data: Path) -> None:
    """`count` distinct sentences as JSON Lines; the same ones every time."""
    sentences = sorted(dict.fromkeys(text for source in texts(scratch, data) for text in cut(source)))
    if len(sentences) < count:
        raise SystemExit(f"the test data holds {len(sentences):,} distinct sentences, {count:,} are needed")
    chosen = random.Random(SEED).sample(sentences, count)
    with path.open("w", encoding="utf-8") as out:
        for number, text in enumerate(chosen):
            out.write(
                json.dumps(
                    {"id": f"s{number:06}", "text": text, "metadata": {"third": number % 3, "tenth": number % 10}}
                )
                + "\n"
            )


def texts(scratch: Path, data: Path) -> Iterator[str]:
    """Every document of the corpora."""
    for name in ("powershell", "opentelemetry", "prometheus"):
        corpus = clone(name, scratch, data=data)
        for path in sorted(corpus.checkout(corpus.revisions[-1]).rglob("*.md")):
            yield path.read_text(encoding="utf-8", errors="replace")
    for corpus_file in sorted((data / "beir").glob("*/corpus.jsonl")):
        for line in corpus_file.read_text(encoding="utf-8").split("\n"):
            if line:
                yield json.loads(line)["text"]


def cut(text: str) -> Iterator[str]:
    """Sentences and lines, long ones in pieces."""
    for part in SENTENCE.split(text):
        words = " ".join(part.split())
        while len(words) >= SHORTEST:
            end = len(words) if len(words) <= LONGEST else words.rfind(" ", 0, LONGEST)
            end = end if end > 0 else LONGEST
            yield words[:end]
            words = words[end:].lstrip()


def questions(count: int) -> list[str]:
    """Questions that people asked of the BEIR collections, the same ones every time."""
    data = data_folder()
    if data is None:
        skip(missing_data())
    asked = [
        json.loads(line)["text"]
        for file in sorted((data / "beir").glob("*/queries.jsonl"))
        for line in file.read_text(encoding="utf-8").split("\n")
        if line
    ]
    return random.Random(SEED).sample(sorted(set(asked)), count)
