"""Bringing a database to the newest schema: once, by whoever comes first, with whatever rights there are."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from kb_pipeline.errors import ConfigError, KbError, UnsupportedPostgres
from kb_pipeline.store import migrate
from kb_pipeline.store.database import Database, create_database, dagster_dsn, open_database, prepare
from kb_pipeline.store.server import embedded_dsn


def applied(dsn: str) -> list[str]:
    with psycopg.connect(dsn) as connection:
        return [name for (name,) in connection.execute("SELECT name FROM kb.schema_migrations ORDER BY name")]


def test_numbers_are_unique_and_in_order() -> None:
    numbers = [name.partition("_")[0] for name in migrate.migrations()]
    assert len(set(numbers)) == len(numbers) and all(len(number) == 4 and number.isdigit() for number in numbers)
    assert numbers == sorted(numbers)


def test_each_is_applied_once(empty_database: str) -> None:
    prepare(Database(empty_database))
    assert applied(empty_database) == list(migrate.migrations())
    with psycopg.connect(empty_database, autocommit=True) as connection:
        assert migrate.is_current(connection)
        assert migrate.migrate(connection) == []


def test_processes_that_start_together(empty_database: str) -> None:
    with ThreadPoolExecutor(6) as threads:
        list(threads.map(lambda _: prepare(Database(empty_database)), range(6)))
    assert applied(empty_database) == list(migrate.migrations())


def test_databases_that_are_made_together(server_home: Path) -> None:
    """Roles belong to the whole server."""
    names = [f"t_{uuid.uuid4().hex[:12]}" for _ in range(4)]
    databases = [Database(embedded_dsn(server_home, name), embedded=True) for name in names]
    try:
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(prepare, databases))
        assert all(applied(database.dsn) == list(migrate.migrations()) for database in databases)
    finally:
        with psycopg.connect(embedded_dsn(server_home, "postgres"), autocommit=True) as connection:
            for name in names:
                connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def test_a_failing_migration_leaves_no_half(empty_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    known = dict(migrate.migrations())
    broken = {**known, "9999_broken": "CREATE TABLE kb.half (i int); SELECT 1 / 0"}
    with monkeypatch.context() as patch:
        patch.setattr(migrate, "migrations", lambda: broken)
        with pytest.raises(psycopg.errors.DivisionByZero):
            prepare(Database(empty_database))
    assert applied(empty_database) == list(known)
    with psycopg.connect(empty_database) as connection:
        assert connection.execute("SELECT to_regclass('kb.half')").fetchone() == (None,)


def test_a_database_of_newer_software_is_refused(db: Database) -> None:
    with db.connect("owner") as connection:
        connection.execute("INSERT INTO kb.schema_migrations (name) VALUES ('9998_future')")
    with pytest.raises(ConfigError, match="newer kb_pipeline.*9998_future"):
        open_database(dsn=db.dsn)


def test_an_old_pgvector_is_refused(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrate, "OLDEST_PGVECTOR", (99, 0, 0))
    with pytest.raises(UnsupportedPostgres, match="has pgvector 0.*ALTER EXTENSION vector UPDATE"):
        open_database(dsn=db.dsn)


def test_an_old_pgvector_on_offer_is_refused(empty_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrate, "OLDEST_PGVECTOR", (99, 0, 0))
    with pytest.raises(UnsupportedPostgres, match="offers pgvector"):
        open_database(dsn=empty_database)


def test_an_old_postgres_is_refused(empty_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrate, "OLDEST_POSTGRES", 99)
    with pytest.raises(UnsupportedPostgres, match=r"is Postgres 1\d\.\d+; needed is 99"):
        open_database(dsn=empty_database)


@pytest.fixture
def plain_user(server_home: Path) -> Iterator[str]:
    """A login user with no rights of its own; memberships it was given go with it."""
    name = f"u_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(embedded_dsn(server_home, "postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(name)))
        yield name
        connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


def as_administrator(connection: psycopg.Connection, statement: str) -> None:
    """A statement about roles, which the test of another worker may be granting at this moment."""
    for attempt in range(50):
        try:
            connection.execute(statement.encode())
            return
        except psycopg.errors.InternalError:  # tuple concurrently updated
            if attempt == 49:
                raise
        time.sleep(0.05)


def test_a_plain_user_is_told_what_an_administrator_has_to_run(empty_database: str, plain_user: str) -> None:
    own = make_conninfo(empty_database, user=plain_user)
    with pytest.raises(KbError, match="may not prepare the database") as refused:
        open_database(dsn=own)
    statements = str(refused.value).partition("\n\n")[2]
    with psycopg.connect(empty_database, autocommit=True) as administrator:
        for statement in statements.split(";\n"):
            try:
                as_administrator(administrator, statement)
            except psycopg.errors.DuplicateObject:  # roles belong to the server, and other tests have made them
                assert statement.startswith("CREATE ROLE")
    database = open_database(dsn=own)
    with database.connect("writer", "a") as connection:
        assert connection.execute("SELECT session_user::text, current_user::text").fetchone() == (
            plain_user,
            "kb_writer",
        )
        assert connection.execute("SELECT rolsuper FROM pg_roles WHERE rolname = session_user").fetchone() == (False,)
        connection.execute("CREATE TEMP TABLE t (i int)")
    with database.connect("reader", "a") as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("SELECT * FROM kb.spend")
    with psycopg.connect(empty_database, autocommit=True) as administrator:
        administrator.execute(
            sql.SQL("REVOKE kb_owner, kb_writer, kb_reader FROM {}").format(sql.Identifier(plain_user))
        )


def test_a_user_that_may_create_roles_and_owns_the_database(empty_database: str, plain_user: str) -> None:
    """As on managed servers: no superuser. The extension is there already: pgvector's control file is not `trusted`."""
    user = sql.Identifier(plain_user)
    with psycopg.connect(empty_database, autocommit=True) as administrator:
        name = sql.Identifier(administrator.info.dbname)
        administrator.execute("CREATE EXTENSION vector")
        administrator.execute(sql.SQL("ALTER DATABASE {} OWNER TO {}").format(name, user))
        administrator.execute(sql.SQL("ALTER ROLE {} CREATEROLE").format(user))
        # Postgres 16 gives the maker of a role the right to administer it, not to become it.
        option = sql.SQL(
            " WITH ADMIN TRUE, SET FALSE, INHERIT FALSE"
            if administrator.info.server_version >= 160000
            else " WITH ADMIN OPTION"
        )
        administrator.execute(sql.SQL("GRANT kb_owner, kb_writer, kb_reader, kb_search TO {}").format(user) + option)
        try:
            database = open_database(dsn=make_conninfo(empty_database, user=plain_user))
            with database.connect("owner") as connection:
                assert connection.execute("SELECT count(*) FROM kb.tenants").fetchone() == (0,)
        finally:
            administrator.execute(sql.SQL("ALTER DATABASE {} OWNER TO postgres").format(name))
            administrator.execute(
                sql.SQL("REVOKE kb_owner, kb_writer, kb_reader, kb_search FROM {} CASCADE").format(user)
            )
            administrator.execute(sql.SQL("DROP OWNED BY {}").format(user))


def test_dagsters_database_stands_beside_the_engines(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    url = dagster_dsn(db)
    with psycopg.connect(db.dsn) as connection:
        name = f"{connection.info.dbname}_dagster"
    assert url.startswith(f"postgresql+psycopg2://postgres@/{name}?host=%2F")
    with psycopg.connect(make_conninfo(db.dsn, dbname=name)) as connection:
        assert connection.info.dbname == name
    monkeypatch.setenv("KB_DAGSTER_DSN", "postgresql://me:p%40ss@db.example:6432/runs?sslmode=require")
    assert dagster_dsn(db) == "postgresql+psycopg2://me:p%40ss@db.example:6432/runs?sslmode=require"


def test_creating_a_database_that_exists_is_no_error(empty_database: str) -> None:
    create_database(empty_database, "postgres")


def test_a_password_is_not_shown() -> None:
    assert "hush" not in repr(Database("postgresql://me:hush@db.example/kb"))
