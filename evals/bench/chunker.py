"""The chunker's throughput against the tokenizer alone over the same texts.

`python -m evals.bench.chunker [--corpus NAME]`: all Markdown of the base revision, in this process; documents are read
before, every round begins with empty caches. Tokenizer alone: each whole document counted once, which no chunker that
keeps a token limit can go without, by our counter and by the `tokenizers` library that it stands on.
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
    from kb_pipeline.chunking.chunker import chunk_documents
    from kb_pipeline.chunking.tokens import local_counter
    from kb_pipeline.config.schema import ChunkingConfig, TenantConfig
    from kb_pipeline.sources.model import RefusedItem
    from kb_pipeline.sources.open import open_source

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", default="powershell", choices=["powershell", "opentelemetry", "prometheus"])
    parser.add_argument("--smoke", action="store_true", help="the smallest corpus, two rounds")
    args = parser.parse_args()
    data = data_folder()
    if data is None:
        skip(missing_data())
    name, rounds = ("prometheus", 2) if args.smoke else (args.corpus, ROUNDS)
    header(f"Chunker against the tokenizer alone on {name}")
    config = ChunkingConfig()
    with TemporaryDirectory() as folder:
        corpus = clone(name, Path(folder), data=data)
        tree = corpus.checkout(corpus.revisions[0])
        source = open_source(TenantConfig(tenant_id="bench", source=str(tree), patterns=("**/*.md",)))
        documents = [source.read(item) for item in source.list() if not isinstance(item, RefusedItem)]
    texts = [document.text for document in documents]
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    library = word_tokenizer_of_the_library()

    def chunk() -> int:
        return sum(len(chunks) for _, chunks in chunk_documents(documents, counter=local_counter(), config=config))

    def count() -> None:
        local_counter().count(texts)

    chunks = chunk()
    against_counter = pairs(timed(chunk), timed(count), rounds)
    against_library = pairs(timed(chunk), timed(lambda: library(texts)), rounds)
    ours = min(first for first, _ in [*against_counter, *against_library])
    table(
        ("", "seconds", "MB/s"),
        [
            (f"chunker, {len(texts):,} documents, {chunks:,} chunks", ours, megabytes / ours),
            *(
                (name, min(alone for _, alone in measured), megabytes / min(alone for _, alone in measured))
                for name, measured in (
                    ("our counter alone", against_counter),
                    ("tokenizers library alone", against_library),
                )
            ),
        ],
    )
    ratio("chunker seconds / our counter's seconds (median of pairs)", median_ratio(against_counter))
    ratio("chunker seconds / tokenizers library's seconds (median of pairs)", median_ratio(against_library))


def word_tokenizer_of_the_library() -> Callable[[list[str]], object]:
    """The local model's tokenizer as the library runs it, all cores."""
    from tokenizers import Tokenizer

    from kb_pipeline.embed.local import wordllama_file

    tokenizer = Tokenizer.from_file(str(wordllama_file("tokenizers/l2_supercat_tokenizer_config.json")))
    return lambda texts: tokenizer.encode_batch_fast(texts, add_special_tokens=False)


if __name__ == "__main__":
    main()
