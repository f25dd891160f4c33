"""How `kb.contents` lies on disk: heap size, HOT ratio of a back-fill and exact scan, for several storage settings.

`python -m evals.bench.contents_layout [--rows 10000] [--dims 256]`. Each layout gets a table of its own with the
columns and indexes of a partition, filled in random order of fingerprints; then a second vector column is filled in the
order of fingerprints, a fiftieth of the rows a commit, as `embeddings` does. The choice stands in `0003_layout.sql`.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from itertools import accumulate, islice
from statistics import median
from time import perf_counter
from typing import Any

from evals.bench.common import header, table
from evals.bench.workspace import workspace

BATCH = 1000
SCANNED = 5000
WIDTHS = (200, 600, 1200)


@dataclass(frozen=True, slots=True)
class Layout:
    """Storage settings that are compared."""

    fillfactor: int
    toast_tuple_target: int | None = None
    """None: the default of 2,032."""
    vector: str = "EXTERNAL"
    """Of the first column; the one that is back-filled is always EXTERNAL."""
    text: str = "EXTENDED"
    """Of body: EXTENDED compresses it, EXTERNAL does not."""

    @property
    def name(self) -> str:
        """As the table shows it."""
        target = self.toast_tuple_target or "default"
        return f"ff {self.fillfactor}, target {target}, vector {self.vector}, text {self.text}"

    @property
    def chosen(self) -> bool:
        """The one of the migration."""
        return self == CHOSEN


COLUMNS = ("layout", "heap MB", "all MB", "load rows/s", "HOT %", "fill rows/s", "heap after", "scan ms")
CHOSEN = Layout(70, 1400, vector="MAIN")
LAYOUTS = (
    Layout(100),
    Layout(70),
    Layout(45),
    Layout(100, 128),
    Layout(70, 128),
    Layout(45, 128),
    Layout(70, 1400),
    Layout(80, 1400, vector="MAIN"),
    CHOSEN,
    Layout(60, 1400, vector="MAIN"),
    Layout(70, 1400, vector="MAIN", text="EXTERNAL"),
)


def main() -> None:
    """All layouts at each width of bodies."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--dims", type=int, default=256)
    parser.add_argument("--smoke", action="store_true", help="6,000 rows, the chosen layout and the default")
    args = parser.parse_args()
    rows = 6_000 if args.smoke else args.rows
    layouts = (LAYOUTS[0], CHOSEN) if args.smoke else LAYOUTS
    header(f"Layout of contents: {rows:,} rows, {args.dims} dims")
    with workspace() as space:
        import psycopg
        from pgvector.psycopg import register_vector

        with psycopg.connect(space.dsn(), autocommit=True) as conn:
            register_vector(conn)
            conn.execute("CREATE SCHEMA bench; SET search_path = bench, public; SET jit = off")
            for width in WIDTHS:
                print(f"bodies of {width} characters")
                found = [measured(conn, layout, width, rows, args.dims) for layout in layouts]
                table(
                    ("layout", "heap MB", "all MB", "load rows/s", "HOT %", "fill rows/s", "heap after", "scan ms"),
                    found,
                )


def measured(conn: Any, layout: Layout, width: int, rows: int, dims: int) -> tuple[object, ...]:
    """One row of the table: sizes before the back-fill, its HOT ratio and rate, heap after it, exact scan before it."""
    create(conn, layout, dims)
    contents = rows_of(width, rows, dims)
    load(conn, contents, min(SCANNED, rows))
    conn.execute("VACUUM (ANALYZE) contents")
    scan = scan_ms(conn, dims)
    rest = list(contents)
    started = perf_counter()
    load(conn, iter(rest), len(rest))
    loaded = len(rest) / (perf_counter() - started)
    conn.execute("VACUUM (ANALYZE) contents")
    heap, everything = sizes(conn)
    before = updates(conn)
    started = perf_counter()
    fill(conn, max(rows // 50, 1))
    filled = perf_counter() - started
    updated, hot = (now - then for now, then in zip(updates(conn), before, strict=True))
    after, _ = sizes(conn)
    name = f"{layout.name}{'  <- chosen' if layout.chosen else ''}"
    return name, heap, everything, loaded, 100 * hot / max(updated, 1), rows / filled, after, scan


def create(conn: Any, layout: Layout, dims: int) -> None:
    """A table like a partition of kb.contents, with two vector columns."""
    target = f", toast_tuple_target = {layout.toast_tuple_target}" if layout.toast_tuple_target else ""
    conn.execute("DROP TABLE IF EXISTS contents")
    conn.execute(
        "CREATE TABLE contents (LIKE kb.contents INCLUDING DEFAULTS INCLUDING GENERATED, PRIMARY KEY (tenant_id, "
        "fingerprint)) "
        f"WITH (fillfactor = {layout.fillfactor}{target}, autovacuum_enabled = off)"
    )
    for number in (1, 2):
        conn.execute(
            f"ALTER TABLE contents DROP COLUMN IF EXISTS embedding_v{number}, ADD COLUMN v{number} vector({dims})"
        )
        conn.execute(
            f"ALTER TABLE contents ALTER COLUMN v{number} SET STORAGE {layout.vector if number == 1 else 'EXTERNAL'}"
        )
    conn.execute(f"ALTER TABLE contents ALTER COLUMN body SET STORAGE {layout.text}")


def rows_of(width: int, rows: int, dims: int) -> Iterator[tuple[bytes, str, Any]]:
    """Contents in random order of fingerprints, texts of words as frequent as in a language."""
    import numpy as np

    source = random.Random(7)
    words = ["".join(source.choices("abcdefghijklmnopqrstuvwxyz", k=source.randint(2, 11))) for _ in range(20_000)]
    weights = list(accumulate(1 / (rank + 3) for rank in range(len(words))))
    vectors = np.random.default_rng(7).standard_normal((rows, dims), dtype=np.float32)
    for vector in vectors:
        body = " ".join(source.choices(words, cum_weights=weights, k=width // 3))[:width]
        yield sha256(body.encode()).digest(), body, vector


def load(conn: Any, contents: Iterator[tuple[bytes, str, Any]], rows: int) -> None:
    """So many more rows, a commit for each batch."""
    while batch := list(islice(contents, min(BATCH, rows))):
        conn.execute(
            "INSERT INTO contents (tenant_id, fingerprint, context, body, tokens, v1) SELECT 'acme', f, 'Title > "
            "Section', "
            "b, 9, v FROM unnest(%b::bytea[], %b::text[], %b::vector[]) AS u (f, b, v)",
            tuple(list(column) for column in zip(*batch, strict=True)),
        )
        rows -= len(batch)


def fill(conn: Any, batch: int) -> None:
    """The second column, in the order of fingerprints, a commit for each batch."""
    after = b""
    while True:
        rows = conn.execute(
            "SELECT fingerprint FROM contents WHERE tenant_id = 'acme' AND fingerprint > %s AND v2 IS NULL "
            "ORDER BY fingerprint LIMIT %s",
            (after, batch),
        ).fetchall()
        if not rows:
            return
        conn.execute(
            "UPDATE contents SET v2 = v1 WHERE tenant_id = 'acme' AND fingerprint = ANY(%s)",
            ([row[0] for row in rows],),
        )
        after = rows[-1][0]


def scan_ms(conn: Any, dims: int) -> float:
    """Median time of an exact search over the rows there are."""
    import numpy as np

    times: list[float] = []
    for vector in np.random.default_rng(8).standard_normal((15, dims), dtype=np.float32):
        started = perf_counter()
        conn.execute(
            "SELECT fingerprint FROM contents WHERE tenant_id = 'acme' AND orphaned_at IS NULL ORDER BY v1 <=> "
            "%b LIMIT 10",
            (vector,),
        ).fetchall()
        times.append(1000 * (perf_counter() - started))
    return median(times)


def sizes(conn: Any) -> tuple[float, float]:
    """MB of the heap, and of everything with TOAST and indexes."""
    heap, everything = conn.execute(
        "SELECT pg_relation_size('contents') / 1e6, pg_total_relation_size('contents') / 1e6"
    ).fetchone()
    return float(heap), float(everything)


def updates(conn: Any) -> tuple[int, int]:
    """All updates of the table and the HOT ones, ever."""
    conn.execute("SELECT pg_stat_force_next_flush()")
    conn.execute("SELECT pg_stat_clear_snapshot()")
    return conn.execute(
        "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relid = 'bench.contents'::regclass"
    ).fetchone()


if __name__ == "__main__":
    main()
