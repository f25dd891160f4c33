"""No tenant sees another tenant's row, whatever it asks and however."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import errors, sql

from kb_pipeline.errors import ConfigError
from kb_pipeline.store.database import Database, Role

READABLE = ["tenants", "documents", "chunks", "contents", "tenant_versions", "builds", "live"]
WRITER_ONLY = ["eval_runs", "stage_outputs", "trigger_attempts", "dead_letters", "spend"]

ROWS = """
INSERT INTO kb.tenants (tenant_id) VALUES (%(t)s);
INSERT INTO kb.documents (tenant_id, doc_id, uri, content_sha256, format, chunker)
    VALUES (%(t)s, 'd', 'u', '', 'text', '1');
INSERT INTO kb.contents (tenant_id, fingerprint, context, body, tokens)
    VALUES (%(t)s, '\\x01', '', 'secret of ' || %(t)s, 1);
INSERT INTO kb.chunks (tenant_id, doc_id, ordinal, fingerprint, start_offset, end_offset, kind)
    VALUES (%(t)s, 'd', 0, '\\x01', 0, 1, 'paragraph');
INSERT INTO kb.embedding_versions (version, embedder_hash, embedder, dims, storage)
    VALUES (1, '\\x01', '{}', 2, 'vector') ON CONFLICT DO NOTHING;
INSERT INTO kb.tenant_versions (tenant_id, version, state) VALUES (%(t)s, 1, 'live');
INSERT INTO kb.builds (tenant_id, version, method, state) VALUES (%(t)s, 1, 'exact', 'live');
INSERT INTO kb.eval_runs (tenant_id, build_id, measurements, verdict)
    SELECT tenant_id, build_id, '{}', 'pass' FROM kb.builds WHERE tenant_id = %(t)s;
INSERT INTO kb.live (tenant_id, version, build_id, promoted_by)
    SELECT tenant_id, 1, build_id, 'test' FROM kb.builds WHERE tenant_id = %(t)s;
INSERT INTO kb.stage_outputs (tenant_id, asset, run_id, url, base_manifest, rows)
    VALUES (%(t)s, 'documents', 'r', 'u', 0, 0);
INSERT INTO kb.trigger_attempts (tenant_id, trigger, cause) VALUES (%(t)s, 'growth', 'c');
INSERT INTO kb.dead_letters (tenant_id, stage, doc_id, reason, detail) VALUES (%(t)s, 'documents', 'd', 'r', 'd');
INSERT INTO kb.spend (tenant_id, run_id, model) VALUES (%(t)s, 'r', 'm')
"""


@pytest.fixture
def two(db: Database) -> Iterator[Database]:
    """Tenants `a` and `b` with one row in every table."""
    with db.connect("owner") as connection:
        for tenant in ("a", "b"):
            for statement in ROWS.split(";\n"):
                connection.execute(statement.encode(), {"t": tenant})
    yield db


def tenants_seen(connection: psycopg.Connection, table: str) -> set[str]:
    query = sql.SQL("SELECT tenant_id FROM {}").format(sql.Identifier("kb", table))
    return {tenant for (tenant,) in connection.execute(query)}


def test_every_table_with_tenant_rows_is_guarded(db: Database) -> None:
    """Also of migrations to come: a new table with a tenant_id needs kb.guard_tenant_table, its partitions too."""
    with db.connect("owner") as connection:
        tables = connection.execute(
            "SELECT c.relname, c.relrowsecurity AND c.relforcerowsecurity, c.relispartition, c.relacl::text "
            "FROM pg_class c "
            "JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id' "
            "WHERE c.relnamespace = 'kb'::regnamespace AND c.relkind IN ('r', 'p')"
        ).fetchall()
        assert {name for name, *_ in tables} >= {*READABLE, *WRITER_ONLY}
        assert [name for name, guarded, *_ in tables if not guarded] == []
        for name, _, is_partition, grants in tables:
            assert not is_partition or "kb_writer" not in (grants or "") and "kb_reader" not in (grants or ""), name


@pytest.mark.parametrize("role", ["writer", "reader"])
def test_a_tenant_sees_its_rows_only(two: Database, role: Role) -> None:
    tables = READABLE if role == "reader" else [*READABLE, *WRITER_ONLY]
    with two.connect(role, "a") as connection:
        for table in tables:
            assert tenants_seen(connection, table) == {"a"}, table
        assert connection.execute("SELECT body FROM kb.contents WHERE tenant_id = 'b'").fetchall() == []
        assert connection.execute("SELECT count(*) FROM kb.embedding_versions").fetchone() == (1,)
    with two.connect("owner") as connection:
        assert all(tenants_seen(connection, table) == {"a", "b"} for table in tables)


@pytest.mark.parametrize("role", ["writer", "reader"])
@pytest.mark.parametrize("how", ["never set", "emptied", "reset"])
def test_without_a_tenant_nothing_is_seen(two: Database, role: Role, how: str) -> None:
    with two.connect(role, None if how == "never set" else "a") as connection:
        if how == "emptied":
            connection.execute("SET kb.tenant = ''")
        if how == "reset":
            connection.execute("RESET kb.tenant")
        assert all(tenants_seen(connection, table) == set() for table in READABLE)


def test_partitions_cannot_be_named_directly(two: Database) -> None:
    for role in ("writer", "reader"):
        for number in range(8):
            with two.connect(role, "a") as connection, pytest.raises(errors.InsufficientPrivilege):
                connection.execute(sql.SQL("SELECT * FROM kb.{}").format(sql.Identifier(f"contents_p{number}")))
    with two.connect("owner") as connection:  # not even with a grant made by mistake: the policy is the owner's only
        for number in range(8):
            connection.execute(f"GRANT SELECT ON kb.contents_p{number} TO kb_reader".encode())
    with two.connect("reader", "a") as connection:
        assert all(tenants_seen(connection, f"contents_p{number}") == set() for number in range(8))


def test_a_writer_cannot_touch_another_tenant(two: Database) -> None:
    with two.connect("writer", "a") as connection:
        for table in ["documents", "chunks", "contents", "spend"]:
            name = sql.Identifier("kb", table)
            assert connection.execute(sql.SQL("DELETE FROM {} WHERE tenant_id = 'b'").format(name)).rowcount == 0
        assert connection.execute("UPDATE kb.documents SET uri = 'stolen'").rowcount == 1
    for statement in (
        "INSERT INTO kb.spend (tenant_id, run_id, model) VALUES ('b', 'x', 'm')",
        "UPDATE kb.spend SET tenant_id = 'b'",
        "UPDATE kb.contents SET tenant_id = 'b'",
    ):
        with two.connect("writer", "a") as connection, pytest.raises(errors.InsufficientPrivilege):
            connection.execute(statement.encode())
    with two.connect("owner") as connection:
        assert connection.execute("SELECT uri FROM kb.documents ORDER BY tenant_id").fetchall() == [("stolen",), ("u",)]


def test_a_writer_writes_its_own_rows_and_uses_temporary_tables(two: Database) -> None:
    with two.connect("writer", "a") as connection:
        connection.execute("CREATE TEMP TABLE incoming (fingerprint bytea, body text) ON COMMIT DROP")
        with connection.cursor().copy("COPY incoming FROM STDIN") as copy:
            copy.write_row((b"\x02", "more"))
        connection.execute(
            "INSERT INTO kb.contents (tenant_id, fingerprint, context, body, tokens) "
            "SELECT 'a', fingerprint, '', body, 1 FROM incoming"
        )
        assert connection.execute("SELECT count(*) FROM kb.contents").fetchone() == (2,)
        assert connection.execute("DELETE FROM kb.documents").rowcount == 1
        assert connection.execute("SELECT count(*) FROM kb.chunks").fetchone() == (0,)


@pytest.mark.parametrize(
    "statement",
    ["INSERT INTO kb.tenants (tenant_id) VALUES ('a')", "UPDATE kb.documents SET uri = ''", "DELETE FROM kb.chunks",
     "TRUNCATE kb.contents", "CREATE TABLE kb.mine (i int)", "SELECT * FROM kb.stage_outputs", "SELECT * FROM kb.spend",
     "SELECT kb.guard_tenant_table('kb.tenants')", "DROP TABLE kb.chunks"],
)  # fmt: skip
def test_what_a_reader_may_not_do(two: Database, statement: str) -> None:
    with two.connect("reader", "a") as connection, pytest.raises(errors.InsufficientPrivilege):
        connection.execute(statement.encode())


def test_a_connection_of_a_pool_forgets_the_tenant(two: Database) -> None:
    with two.pool("reader", min_size=1, max_size=1) as pool:
        with pool.connection() as connection:
            connection.execute("SELECT set_config('kb.tenant', 'a', false)")
            assert tenants_seen(connection, "documents") == {"a"}
        with pool.connection() as connection:
            assert connection.execute("SELECT current_user::text").fetchone() == ("kb_reader",)
            assert tenants_seen(connection, "documents") == set()


def test_a_tenant_id_is_checked_at_the_edge(db: Database) -> None:
    for bad in ("a'b", "A", "", "../x", "a b", "-a", "a" * 64):
        with pytest.raises(ConfigError, match="is not valid"):
            db.connect("reader", bad)


def test_vectors_travel_as_arrays(db: Database) -> None:
    import numpy as np

    single, half = np.array([1.5, -2.0, 3.25], dtype=np.float32), np.array([0.5, 2.0], dtype=np.float16)
    with db.connect("owner") as connection:
        connection.execute("CREATE TEMP TABLE t (i int, v vector(3), h halfvec(2))")
        connection.execute("INSERT INTO t VALUES (1, %s, %s)", (single, half))
        connection.execute("INSERT INTO t VALUES (2, %s, %s)", (single.astype(np.float64), half.astype(np.float32)))
        with connection.cursor().copy("COPY t FROM STDIN (FORMAT binary)") as copy:
            copy.set_types(["int4", "vector", "halfvec"])
            copy.write_row((3, single, half))
        connection.execute("INSERT INTO t VALUES (4, NULL, NULL)")
        for binary in (False, True):
            rows = connection.execute("SELECT v, h FROM t ORDER BY i", binary=binary).fetchall()
            for vector, halfvec in rows[:3]:
                assert vector.dtype == np.float32 and np.array_equal(vector, single)
                assert halfvec.dtype == np.float16 and np.array_equal(halfvec, half)
            assert rows[3] == (None, None)
        assert connection.execute("SELECT %s <-> v FROM t WHERE i = 1", (single,)).fetchone() == (0.0,)
