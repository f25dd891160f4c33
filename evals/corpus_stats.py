"""The corpus in numbers: chunk sizes, kinds, duplicates; and what embedding it cost."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import Connection
from psycopg.rows import TupleRow

from evals.measured import Corpus, Cost
from kb_pipeline.store import eval_reads


def corpus(conn: Connection[TupleRow], tenant_id: str) -> Corpus:
    """Counts over the tenant's documents, chunks and contents."""
    rows = eval_reads.corpus_rows(conn, tenant_id)
    return Corpus(
        documents=rows.documents,
        chunks=rows.chunks,
        contents=rows.contents,
        tokens=rows.tokens,
        orphans=rows.orphans,
        dead_letters=rows.dead_letters,
        sizes=tuple(rows.sizes),
        kinds=tuple(rows.kinds),
        formats=tuple(rows.formats),
        languages=tuple(rows.languages),
    )


def cost(conn: Connection[TupleRow], tenant_id: str) -> Cost:
    """What embedding cost the tenant, ever and in the newest run that embedded anything."""
    return Cost(*eval_reads.spent(conn, tenant_id))


def quantile(sizes: Sequence[tuple[int, int]], share: float) -> int:
    """The smallest size that at least `share` of the contents do not exceed; 0 without contents."""
    wanted = share * sum(count for _, count in sizes)
    seen = 0
    for size, count in sizes:
        seen += count
        if seen >= wanted:
            return size
    return 0


def histogram(sizes: Sequence[tuple[int, int]], *, bins: int = 24) -> list[tuple[int, int, int]]:
    """(from, up to and with, contents) of equal bins with round borders, from 1 to the largest size."""
    if not sizes:
        return []
    largest = max(size for size, _ in sizes)
    width = next(step for step in _ROUND if largest <= step * bins)
    counts = [0] * -(-largest // width)
    for size, count in sizes:
        counts[max(0, size - 1) // width] += count
    return [(place * width + 1, (place + 1) * width, count) for place, count in enumerate(counts)]


_ROUND = [base * 10**power for power in range(7) for base in (1, 2, 4, 5, 8)]
