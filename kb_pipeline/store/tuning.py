"""A copy of a sample of vectors in a temporary table, to build indexes on that nobody else sees."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, LiteralString

import numpy as np
from psycopg import Connection, sql
from psycopg.rows import TupleRow

from kb_pipeline.embed.protocol import Vectors
from kb_pipeline.planner.model import IndexParams
from kb_pipeline.store.contents import column

if TYPE_CHECKING:
    from kb_pipeline.store.database import Database
    from kb_pipeline.store.versions import Version

_BLOCK = 4096


@dataclass(frozen=True, slots=True)
class Scratch:
    """The copy, with one index at a time."""

    conn: Connection[TupleRow]
    storage: str
    dims: int
    rows: int
    of_rows: int
    queries: Vectors
    """Vectors of the tenant that are not in the copy."""

    def blocks(self) -> Iterator[Vectors]:
        """All vectors of the copy."""
        for first in range(0, self.rows, _BLOCK):
            with self.conn.cursor(binary=True) as cursor:
                rows = cursor.execute(
                    "SELECT v::vector FROM pg_temp.tuned WHERE id > %s AND id <= %s", (first, first + _BLOCK)
                ).fetchall()
            yield np.array([np.asarray(row[0], dtype=np.float32) for row in rows], dtype=np.float32)

    def build(self, params: IndexParams, *, memory_mb: int) -> tuple[float, int]:
        """(seconds, bytes) of an index with these parameters."""
        self.conn.execute("SELECT set_config('maintenance_work_mem', %s, false)", (f"{memory_mb}MB",))
        began = time.perf_counter()
        self.conn.execute(
            sql.SQL(
                "CREATE INDEX tuned_hnsw ON pg_temp.tuned USING hnsw ({} {}) WITH (m = {}, ef_construction = {})"
            ).format(
                self._key(params.storage),
                sql.SQL(_OPCLASS[params.storage]),
                sql.Literal(params.m),
                sql.Literal(params.ef_construction),
            )
        )
        seconds = time.perf_counter() - began
        row = self.conn.execute("SELECT pg_relation_size('pg_temp.tuned_hnsw')").fetchone()
        return seconds, row[0] if row else 0

    def search(self, query: Vectors, params: IndexParams, k: int, ef_search: int) -> list[float]:
        """Cosine distances of the k nearest that the index gives; bits are re-ranked, as serving does."""
        self.conn.execute("SELECT set_config('hnsw.ef_search', %s, false)", (str(ef_search),))
        distance = sql.SQL("v <=> %(q)s::{}({})").format(sql.SQL(_TYPE[self.storage]), sql.Literal(self.dims))
        if params.storage == "binary":
            order = sql.SQL("binary_quantize(v)::bit({d}) <~> binary_quantize(%(q)s::{t}({d}))::bit({d})").format(
                d=sql.Literal(self.dims), t=sql.SQL(_TYPE[self.storage])
            )
            limit = max(10 * k, ef_search)
        else:
            order = sql.SQL("{} <=> %(q)s::{}({})").format(
                self._key(params.storage), sql.SQL(_TYPE[params.storage]), sql.Literal(self.dims)
            )
            limit = k
        with self.conn.cursor(binary=True) as cursor:
            rows = cursor.execute(
                sql.SQL("SELECT {} FROM pg_temp.tuned ORDER BY {} LIMIT {}").format(
                    distance, order, sql.Literal(limit)
                ),
                {"q": query},
                prepare=True,
            ).fetchall()
        return sorted(row[0] for row in rows)[:k]

    def scan(self, query: Vectors, k: int, rows: int) -> list[float]:
        """Cosine distances of the k nearest of the first so many rows, by comparing them all."""
        with self.conn.cursor(binary=True) as cursor:
            return [
                row[0]
                for row in cursor.execute(
                    sql.SQL(
                        "SELECT v <=> %(q)s::{t}({d}) FROM pg_temp.tuned WHERE id <= %(n)s ORDER BY 1 LIMIT %(k)s"
                    ).format(t=sql.SQL(_TYPE[self.storage]), d=sql.Literal(self.dims)),
                    {"q": query, "n": rows, "k": k},
                    prepare=True,
                )
            ]

    def drop(self) -> None:
        """Drops the index."""
        self.conn.execute("DROP INDEX pg_temp.tuned_hnsw")

    def _key(self, storage: str) -> sql.Composable:
        if storage == "binary":
            return sql.SQL("(binary_quantize(v)::bit({}))").format(sql.Literal(self.dims))
        if storage == self.storage:
            return sql.SQL("v")
        return sql.SQL("(v::{}({}))").format(sql.SQL(_TYPE[storage]), sql.Literal(self.dims))


_OPCLASS: dict[str, LiteralString] = {
    "vector": "vector_cosine_ops",
    "halfvec": "halfvec_cosine_ops",
    "binary": "bit_hamming_ops",
}
_TYPE: dict[str, LiteralString] = {"vector": "vector", "halfvec": "halfvec"}


@contextmanager
def scratch(db: Database, tenant_id: str, version: Version, *, rows: int, queries: int) -> Generator[Scratch]:
    """Copies up to `rows` vectors of the tenant, those with the smallest fingerprints (a fair sample), after the first
    `queries`, which are held out: a tenth at most."""
    storage, dims = version.storage, version.spec.dims
    with db.connect("owner", autocommit=True) as conn:
        # A graph is walked at random: it has to be in the session's own buffers as a whole.
        conn.execute(
            "SELECT set_config('temp_buffers', %s, false)", (f"{64 + rows * (4 * dims + 600) * 2 // 2**20}MB",)
        )
        conn.execute("SELECT set_config('enable_sort', 'off', false), set_config('jit', 'off', false)")
        row = conn.execute(
            sql.SQL(
                "SELECT count(*) FROM kb.contents WHERE tenant_id = %s AND orphaned_at IS NULL AND {} IS NOT NULL"
            ).format(column(version.version)),
            (tenant_id,),
        ).fetchone()
        of_rows = row[0] if row else 0
        held = min(queries, of_rows // 10)
        chosen = sql.SQL(
            "SELECT {c} AS v FROM kb.contents WHERE tenant_id = %s AND orphaned_at IS NULL AND {c} IS NOT NULL "
            "ORDER BY fingerprint LIMIT %s OFFSET %s"
        ).format(c=column(version.version))
        with conn.cursor(binary=True) as cursor:
            found = cursor.execute(
                sql.SQL("SELECT v::vector FROM ({}) s").format(chosen), (tenant_id, held, 0)
            ).fetchall()
        asked = np.array([np.asarray(one[0], dtype=np.float32) for one in found], dtype=np.float32).reshape(-1, dims)
        conn.execute(
            sql.SQL("CREATE TEMP TABLE tuned (id int PRIMARY KEY, v {t}({d}))").format(
                t=sql.SQL(_TYPE[storage]), d=sql.Literal(dims)
            )
        )
        conn.execute("ALTER TABLE pg_temp.tuned ALTER COLUMN v SET STORAGE EXTERNAL")
        copied = conn.execute(
            sql.SQL("INSERT INTO pg_temp.tuned SELECT row_number() OVER (), v FROM ({}) s").format(chosen),
            (tenant_id, rows, held),
        ).rowcount
        conn.execute("ANALYZE pg_temp.tuned (id)")
        yield Scratch(conn, storage, dims, copied, of_rows, asked)
