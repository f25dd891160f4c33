"""Loading contents with vectors as the engine does, against a server-side binary COPY of the same rows.

`python -m evals.bench.load [--rows 50000] [--body 600]`: ours is `store.contents.write_new` under the writer's role
with row-level security, 1,000 rows a transaction, text search vector and all indexes kept; COPY reads a file on the
server, as superuser, in one transaction, into a table with the same columns, storage and indexes.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from time import perf_counter

from evals.bench.common import header, median_ratio, pairs, ratio, table
from evals.bench.workspace import Workspace, workspace

BATCH = 1000
TENANT = "loaded"


def main() -> None:
    """Load in turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--body", type=int, default=600, help="characters of a body")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--smoke", action="store_true", help="5,000 rows, one pair")
    args = parser.parse_args()
    rows, count = (5_000, 1) if args.smoke else (args.rows, args.pairs)
    header(f"Load of {rows:,} contents of {args.body} characters and 256 dims")
    with workspace() as space:
        found = measured(space, rows, args.body, count)
    table(
        ("pair", "ours s", "rows/s", "COPY s", "rows/s"),
        [(n + 1, a, rows / a, b, rows / b) for n, (a, b) in enumerate(found)],
    )
    ratio("rows/s, ours / server-side COPY (median of pairs)", 1 / median_ratio(found), at_least=0.5)


def measured(space: Workspace, rows: int, body: int, count: int) -> list[tuple[float, float]]:
    """Seconds of both, by pair."""
    import numpy as np
    import psycopg

    from kb_pipeline.fingerprint import fingerprint
    from kb_pipeline.store.contents import Content, Target, write_new
    from kb_pipeline.store.database import Database

    docs = space.folder / "docs"
    docs.mkdir()
    (docs / "one.md").write_text("# One\n\nA document, so that the column of the embedder exists.\n")
    space.kb("run", "--source", docs, "--until", "embeddings")
    source = random.Random(1)
    vocabulary = ["".join(source.choices("abcdefghijklmnopqrstuvwxyz", k=source.randint(2, 11))) for _ in range(20_000)]
    bodies = [" ".join(source.choices(vocabulary, k=body // 7))[:body] for _ in range(rows)]
    contents = [Content(fingerprint("Title > Section", text), "Title > Section", text, body // 5) for text in bodies]
    vectors = np.random.default_rng(1).standard_normal((rows, 256), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    target = Target(version=1, storage="vector", dims=256, normalize=True)
    db = Database(space.dsn())

    def ours() -> float:
        with db.connect("owner", autocommit=True) as conn:
            conn.execute("DELETE FROM kb.contents WHERE tenant_id = %s", (TENANT,))
            conn.execute("RESET ROLE")
            conn.execute("VACUUM kb.contents")
        with db.connect("writer", TENANT) as conn:
            started = perf_counter()
            for start in range(0, rows, BATCH):
                write_new(conn, TENANT, [target], contents[start : start + BATCH], vectors[start : start + BATCH])
                conn.commit()
            return perf_counter() - started

    ours()
    with psycopg.connect(space.dsn(), autocommit=True) as conn:
        leaf, folder = conn.execute(
            "SELECT tableoid::regclass::text, current_setting('data_directory') FROM kb.contents "
            "WHERE tenant_id = %s LIMIT 1",
            (TENANT,),
        ).fetchone() or ("", "")
        copied = Path(folder) / "bench-load.copy"
        columns = "tenant_id, fingerprint, context, body, tokens, lang, orphaned_at, embedding_v1"
        conn.execute(
            f"COPY (SELECT {columns} FROM {leaf} WHERE tenant_id = '{TENANT}') TO '{copied}' (FORMAT binary)".encode()
        )
        conn.execute(b"CREATE SCHEMA bench")

        def copy() -> float:
            conn.execute(
                f"DROP TABLE IF EXISTS bench.copied; CREATE TABLE bench.copied (LIKE {leaf} INCLUDING ALL)".encode()
            )
            options = conn.execute(
                "SELECT array_to_string(reloptions, ', ') FROM pg_class WHERE oid = %s::regclass", (leaf,)
            ).fetchone()
            if options and options[0]:
                conn.execute(f"ALTER TABLE bench.copied SET ({options[0]})".encode())
            started = perf_counter()
            conn.execute(f"COPY bench.copied ({columns}) FROM '{copied}' (FORMAT binary)".encode())
            return perf_counter() - started

        try:
            return pairs(ours, copy, count)
        finally:
            conn.execute(b"DROP SCHEMA bench CASCADE")
            copied.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
