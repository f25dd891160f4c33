"""Peak memory of `kb run --until embeddings`, and how it grows with a corpus ten times as large.

`python -m evals.bench.memory [--times 10]`: the Markdown of the PowerShell documentation; the larger corpus holds
further copies in which frequent words are replaced, so that their contents are new. Cold runs on knowledge bases of
their own.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from tempfile import TemporaryDirectory

from evals.bench.common import Measured, header, ratio, skip, table
from evals.bench.corpora import clone, data_folder, missing_data
from evals.bench.runs import configure
from evals.bench.workspace import workspace

FREQUENT = re.compile(
    r"\b(the|a|is|of|to|and|in|for|you|this|command|cmdlet|value|name|type|parameter|string|get|set)\b", re.IGNORECASE
)


def write_copies(tree: Path, target: Path, times: int) -> int:
    """The Markdown files `times` times, each copy with other words; bytes written."""
    written = 0
    for copy in range(times):
        for path in sorted(tree.rglob("*.md")):
            text = path.read_text(encoding="utf-8", errors="replace")
            if copy:
                text = FREQUENT.sub(lambda match, copy=copy: f"{match[0]}{copy}", text)
            to = target / f"copy{copy}" / path.relative_to(tree)
            to.parent.mkdir(parents=True, exist_ok=True)
            written += to.write_bytes(text.encode())
    return written


def cold_run(source: Path) -> tuple[Measured, int, int]:
    """The run, its chunks and its distinct contents."""
    with workspace() as space:
        configure(space, source)
        run = space.kb("run", "--until", "embeddings")
        counts = space.query("SELECT (SELECT count(*) FROM kb.chunks), (SELECT count(*) FROM kb.contents)")
        return run, counts[0][0], counts[0][1]


def main() -> None:
    """One run at each size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--smoke", action="store_true", help="the smallest corpus, three times")
    args = parser.parse_args()
    data = data_folder()
    if data is None:
        skip(missing_data())
    name, times = ("prometheus", 3) if args.smoke else ("powershell", args.times)
    header(f"Peak memory on {name}, once and {times} times")
    rows: list[tuple[object, ...]] = []
    with TemporaryDirectory() as folder:
        corpus = clone(name, Path(folder), data=data)
        tree = corpus.checkout(corpus.revisions[0])
        for size in (1, times):
            target = Path(folder) / f"times{size}"
            written = write_copies(tree, target, size)
            run, chunks, contents = cold_run(target)
            rows.append((f"{size} x", written / 1e6, chunks, contents, run.seconds, run.peak_mb))
    table(("corpus", "MB", "chunks", "contents", "seconds", "peak MB"), rows)
    small, large = (float(str(row[5])) for row in rows)
    ratio("peak memory of the larger run, MB", large, limit=400)
    ratio(f"peak memory, {times} x / 1 x", large / small, limit=1.2)


if __name__ == "__main__":
    main()
