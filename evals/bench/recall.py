"""recall@10 of `Retriever.search` at each profile on 100,000 contents, against exact search computed here.

`python -m evals.bench.recall [--rows 100000]`: real questions; a result is right when its similarity reaches that of
the tenth best.
"""

from __future__ import annotations

import argparse
from time import perf_counter
from typing import Any

from evals.bench.common import header, ratio, table
from evals.bench.large import TENANT, large_tenant, questions
from evals.bench.workspace import Workspace

K = 10
TIE = 1e-5
PROFILES = ("interactive", "default", "offline")


def main() -> None:
    """Ask every question at every profile."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--questions", type=int, default=500)
    parser.add_argument("--smoke", action="store_true", help="8,000 rows, 50 questions")
    args = parser.parse_args()
    rows, asked = (8_000, 50) if args.smoke else (args.rows, args.questions)
    header(f"recall@{K} on {rows:,} contents")
    with large_tenant(rows) as (space, run):
        if run is not None:
            print(f"kb run: {run.seconds:.1f} s, {run.peak_mb:.0f} MB\n")
        found = measured(space, questions(asked))
    table(("profile", f"recall@{K}", "worst question", "p50 ms"), found)
    ratio(f"recall@{K} at the default profile", float(str(found[1][1])), at_least=0.95)


def measured(space: Workspace, asked: list[str]) -> list[tuple[object, ...]]:
    """Mean and worst recall and the median time, by profile."""
    import numpy as np

    from kb_pipeline.config.schema import Settings
    from kb_pipeline.embed.registry import make_embedder
    from kb_pipeline.search.retriever import Retriever
    from kb_pipeline.store.database import Database

    db, settings = Database(space.dsn()), Settings()
    names, vectors = stored(space)
    place = {name: number for number, name in enumerate(names)}
    asked_vectors = make_embedder(settings.embedder).embed_queries(asked).vectors
    similarity = asked_vectors @ vectors.T
    tenth = np.partition(similarity, -K, axis=1)[:, -K]
    rows: list[tuple[object, ...]] = []
    with Retriever(db, settings) as retriever:
        retriever.search(asked[0], tenant=TENANT)
        for profile in PROFILES:
            shares, seconds = np.zeros(len(asked)), np.zeros(len(asked))
            for number, question in enumerate(asked):
                started = perf_counter()
                hits = retriever.search(question, tenant=TENANT, k=K, profile=profile)
                seconds[number] = perf_counter() - started
                right = [similarity[number, place[hit.doc_id]] >= tenth[number] - TIE for hit in hits]
                shares[number] = sum(right) / K
            rows.append((profile, float(shares.mean()), float(shares.min()), float(np.median(seconds)) * 1000))
    return rows


def stored(space: Workspace) -> tuple[list[str], Any]:
    """Document ids and their vectors, `(n, dims) float32`: every record is one document of one chunk."""
    import numpy as np
    import psycopg
    from pgvector.psycopg import register_vector

    with psycopg.connect(space.dsn()) as conn:
        register_vector(conn)
        found = conn.execute(
            "SELECT h.doc_id, c.embedding_v1 FROM kb.chunks h JOIN kb.contents c USING (tenant_id, fingerprint) "
            "WHERE h.tenant_id = %s",
            (TENANT,),
            binary=True,
        ).fetchall()
    vectors = [
        np.asarray(vector if isinstance(vector, np.ndarray) else vector.to_numpy(), dtype=np.float32)
        for _, vector in found
    ]
    return [name for name, _ in found], np.stack(vectors)


if __name__ == "__main__":
    main()
