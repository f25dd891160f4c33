"""The chunker's throughput against the tokenizer alone over the same texts.

`python -m evals.bench.chunker [--corpus NAME]`: all Markdown of the base revision, in this process, one thread of
ours; documents are read before. The tokenizer alone counts each whole document once: what no chunker that keeps a
token limit can go without.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from evals.bench.common import header, median_ratio, pairs, ratio, skip, table
from evals.bench.corpora import clone, data_folder, missing_data

ROUNDS = 5


def timed(work: Callable[[], object]) -> Callable[[], float]:
    """The same work, giving its seconds."""

    def run() -> float:
        started = perf_counter()
        work()
        return perf_counter() - started

    return run


def main() -> None:
    """Chunk and count in turns."""
    from kb_pipeline.sources.open import open_source

    from kb_pipeline.chunking.chunker import chunk_document
    from kb_pipeline.chunking.tokens import local_counter
    from kb_pipeline.config.schema import ChunkingConfig, TenantConfig
    from kb_pipeline.sources.model import RefusedItem

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", default="powershell", choices=["powershell", "opentelemetry", "prometheus"])
    parser.add_argument("--smoke", action="store_true", help="the smallest corpus, two rounds")
    args = parser.parse_args()
    data = data_folder()
    if data is None:
        skip(missing_data())
    name, rounds = ("prometheus", 2) if args.smoke else (args.corpus, ROUNDS)
    header(f"Chunker against the tokenizer alone on {name}")
    counter, config = local_counter(), ChunkingConfig()
    with TemporaryDirectory() as folder:
        corpus = clone(name, Path(folder), data=data)
        tree = corpus.checkout(corpus.revisions[0])
        source = open_source(TenantConfig(tenant_id="bench", source=str(tree), patterns=("**/*.md",)))
        documents = [source.read(item) for item in source.list() if not isinstance(item, RefusedItem)]
    texts = [document.text for document in documents]
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    chunks = sum(len(chunk_document(document, counter=counter, config=config)) for document in documents)
    measured = pairs(
        timed(lambda: [chunk_document(document, counter=counter, config=config) for document in documents]),
        timed(lambda: counter.count(texts)),
        rounds,
    )
    best = min(ours for ours, _ in measured), min(alone for _, alone in measured)
    table(
        ("", "seconds", "MB/s"),
        [
            (f"chunk_document, {len(texts):,} documents, {chunks:,} chunks", best[0], megabytes / best[0]),
            ("tokenizer alone", best[1], megabytes / best[1]),
        ],
    )
    ratio("chunker seconds / tokenizer seconds (median of pairs)", median_ratio(measured))


if __name__ == "__main__":
    main()
