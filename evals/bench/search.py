"""Search in an open process: `Retriever.search` against the same SQL through psycopg and a hand-written query.

`python -m evals.bench.search [--rows 100000]`. The same SQL: the statement that the retriever sends, with a ready
vector, on a prepared psycopg cursor. The hand-written query has no row-level security, folding or other documents:
what a person would write for one tenant.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import Any

from evals.bench.common import header, ratio, table
from evals.bench.large import TENANT, large_tenant, questions
from evals.bench.workspace import Workspace

K = 10
EF_SEARCH = 100

BY_HAND = """
SELECT p.doc_id, p.uri, p.ordinal, p.start_offset, p.end_offset, p.heading_path, r.body, 1 - r.distance, p.metadata
FROM (SELECT c.fingerprint, c.body, c.embedding_v1 <=> %(vector)s AS distance FROM kb.contents c
      WHERE c.tenant_id = '{tenant}' AND c.fingerprint <> '{slot}'::bytea AND c.orphaned_at IS NULL
      ORDER BY c.embedding_v1 <=> %(vector)s LIMIT %(k)s) r
CROSS JOIN LATERAL (SELECT ch.doc_id, ch.ordinal, ch.start_offset, ch.end_offset, ch.heading_path, d.uri, d.metadata
      FROM kb.chunks ch JOIN kb.documents d USING (tenant_id, doc_id)
      WHERE ch.tenant_id = '{tenant}' AND ch.fingerprint = r.fingerprint ORDER BY ch.doc_id, ch.ordinal LIMIT 1) p
ORDER BY r.distance
"""


def main() -> None:
    """Ask every question in each way, in turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--questions", type=int, default=500)
    parser.add_argument("--smoke", action="store_true", help="8,000 rows, 50 questions")
    args = parser.parse_args()
    rows, asked = (8_000, 50) if args.smoke else (args.rows, args.questions)
    header(f"Search in an open process, {rows:,} contents")
    with large_tenant(rows) as (space, _):
        found = measured(space, questions(asked))
    table(
        ("way", "p50 ms", "p95 ms"), [(way, median(ms), sorted(ms)[int(len(ms) * 0.95)]) for way, ms in found.items()]
    )
    retriever, same, by_hand = (median(ms) for ms in found.values())
    ratio("Retriever.search / the same SQL through psycopg", retriever / same, limit=1.3)
    ratio("Retriever.search / hand-written query", retriever / by_hand)


def measured(space: Workspace, asked: list[str]) -> dict[str, list[float]]:
    """Milliseconds of every question, by way."""
    from kb_pipeline.config.schema import Settings
    from kb_pipeline.embed.registry import make_embedder
    from kb_pipeline.search.retriever import Retriever
    from kb_pipeline.store.database import Database
    from kb_pipeline.store.search_sql import search_live

    db, settings = Database(space.dsn()), Settings()
    vectors = make_embedder(settings.embedder).embed_queries(asked).vectors
    slot, method = space.query(
        "SELECT coalesce(b.slot, 'a'), b.method FROM kb.live l JOIN kb.builds b USING (build_id) "
        "WHERE l.tenant_id = %s",
        TENANT,
    )[0]
    print(f"live build: {method}\n")
    sql = BY_HAND.format(tenant=TENANT, slot={"a": "\\x00", "b": "\\x01"}[slot]).encode()
    n = K + 2 + K // 8
    with (
        Retriever(db, settings) as retriever,
        db.connect("reader", autocommit=True) as reader,
        db.connect("owner", autocommit=True) as plain,
    ):
        plain.execute(b"RESET ROLE")
        plain.execute(f"SET hnsw.ef_search = {EF_SEARCH}".encode())

        def by_retriever(number: int) -> Any:
            return retriever.search(asked[number], tenant=TENANT, k=K)

        def same_sql(number: int) -> Any:
            return search_live(
                reader,
                TENANT,
                1,
                vectors[number],
                n=n,
                ef=None,
                profile="default",
                fallback_ef=EF_SEARCH,
                at_least=2 * K,
                conditions="[]",
            )

        def by_hand(number: int) -> Any:
            with plain.cursor(binary=True) as cursor:
                return cursor.execute(sql, {"vector": vectors[number], "k": K}, prepare=True).fetchall()

        ways: dict[str, Callable[[int], Any]] = {
            "Retriever.search (question embedded)": by_retriever,
            "the same SQL through psycopg": same_sql,
            "hand-written query, no row security": by_hand,
        }
        for way in ways.values():
            for number in range(min(20, len(asked))):
                way(number)
        found: dict[str, list[float]] = {name: [] for name in ways}
        order = list(ways.items())
        for number in range(len(asked)):
            order = [*order[1:], order[0]]  # who comes second finds in the caches what the first has read
            for name, way in order:
                started = perf_counter()
                way(number)
                found[name].append((perf_counter() - started) * 1000)
    return found


if __name__ == "__main__":
    main()
