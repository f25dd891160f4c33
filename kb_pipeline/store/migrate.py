"""Brings a database to the newest schema: roles, extension, numbered migrations. Each migration is applied once."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from kb_pipeline.errors import ConfigError, KbError, UnsupportedPostgres

if TYPE_CHECKING:
    import psycopg

OLDEST_POSTGRES = 15
OLDEST_PGVECTOR = (0, 8, 4)
"""Before it, VACUUM of an HNSW index could corrupt it (pgvector's changelog)."""
MIGRATION_LOCK = 0x6B62_6D69_6772_6174  # "kbmigrat"


@cache
def migrations() -> Mapping[str, str]:
    """Name -> SQL of the numbered files, in order."""
    folder = files("kb_pipeline.store") / "migrations"
    found = {entry.name.removesuffix(".sql"): entry for entry in folder.iterdir() if entry.name.endswith(".sql")}
    return {name: found[name].read_text(encoding="utf-8") for name in sorted(found)}


def is_current(connection: psycopg.Connection[Any]) -> bool:
    """Whether nothing is to do in this database. `connection` is of the login user, autocommit.

    Raises `ConfigError` for a database made by newer software.
    """
    from psycopg import errors

    try:
        with connection.transaction():
            row = connection.execute(
                "SELECT set_config('role', 'kb_owner', true), "
                "(SELECT extversion FROM pg_extension WHERE extname = 'vector')"
            ).fetchone()
            if row is None or row[1] is None or _version(row[1]) < OLDEST_PGVECTOR:
                return False
            applied: set[str] = {name for (name,) in connection.execute("SELECT name FROM kb.schema_migrations")}
    except (
        errors.UndefinedTable,
        errors.InvalidSchemaName,
        errors.InsufficientPrivilege,
        errors.InvalidParameterValue,
    ):
        return False
    if unknown := applied - set(migrations()):
        raise ConfigError(
            f"the database {connection.info.dbname!r} was made by a newer kb_pipeline "
            f"(it has {', '.join(sorted(unknown))}): upgrade this installation, or use another database"
        )
    return applied == set(migrations())


def migrate(connection: psycopg.Connection[Any]) -> list[str]:
    """Applies what is missing and names it. Safe to run from many processes at once.

    `connection` is of the login user, autocommit. Raises `UnsupportedPostgres` for a server or extension that is too
    old, `KbError` with the SQL an administrator has to run where the login user may not do it.
    """
    check_server(connection)
    done: list[str] = []
    # Polled, not blocking: a blocked pg_advisory_lock holds a snapshot that CREATE INDEX CONCURRENTLY would wait for.
    while not _one(connection, "SELECT pg_try_advisory_lock(%s)", MIGRATION_LOCK):
        time.sleep(0.05)
    try:
        _prepare(connection)
        with connection.transaction():
            connection.execute("SET LOCAL ROLE kb_owner")
            connection.execute(
                "CREATE TABLE IF NOT EXISTS kb.schema_migrations "
                "(name text PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())"
            )
            applied = {name for (name,) in connection.execute("SELECT name FROM kb.schema_migrations")}
        for name, text in migrations().items():
            if name in applied:
                continue
            with connection.transaction():
                # Loads pgvector's library: only a known parameter may stand in CREATE FUNCTION ... SET hnsw.*.
                connection.execute("SELECT '[1]'::vector")
                connection.execute("SET LOCAL ROLE kb_owner")
                connection.execute(text.encode())
                connection.execute("INSERT INTO kb.schema_migrations (name) VALUES (%s)", (name,))
            done.append(name)
    finally:
        connection.execute("SELECT pg_advisory_unlock(%s)", (MIGRATION_LOCK,))
    return done


def check_server(connection: psycopg.Connection[Any]) -> None:
    """Raises `UnsupportedPostgres` unless it is Postgres >= 15 with pgvector >= 0.8.4 installed or installable."""
    number = connection.info.server_version
    if number < OLDEST_POSTGRES * 10_000:
        raise UnsupportedPostgres(
            f"this server is Postgres {number // 10_000}.{number % 10_000}; needed is {OLDEST_POSTGRES} or newer. "
            "Upgrade it, or leave KB_DSN unset to use the embedded one"
        )
    installed = _one(connection, "SELECT extversion FROM pg_extension WHERE extname = 'vector'")
    offered = _one(connection, "SELECT default_version FROM pg_available_extensions WHERE name = 'vector'")
    if installed is None and offered is None:
        raise UnsupportedPostgres(
            "this server has no pgvector; needed is pgvector 0.8.4 or newer. Install the package for its version "
            "(see https://github.com/pgvector/pgvector#installation), or leave KB_DSN unset to use the embedded server"
        )
    if installed is not None and _version(installed) < OLDEST_PGVECTOR:
        offer = f"`ALTER EXTENSION vector UPDATE` in database {connection.info.dbname!r}"
        remedy = offer if offered and _version(offered) >= OLDEST_PGVECTOR else f"install a newer package, then {offer}"
        raise UnsupportedPostgres(f"this database has pgvector {installed}; needed is 0.8.4 or newer: {remedy}")
    if installed is None and offered is not None and _version(offered) < OLDEST_PGVECTOR:
        raise UnsupportedPostgres(
            f"this server offers pgvector {offered}; needed is 0.8.4 or newer: install a newer package"
        )


def _prepare(connection: psycopg.Connection[Any]) -> None:
    """Extension, roles and schema.

    Roles belong to the whole server, and another database may make them at this moment, out of reach of our lock: a
    lost race is tried again.
    """
    from psycopg import errors

    text = (files("kb_pipeline.store") / "roles.sql").read_text(encoding="utf-8")
    for attempt in range(10):
        try:
            with connection.transaction():
                if not _one(connection, "SELECT true FROM pg_extension WHERE extname = 'vector'"):
                    connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
                connection.execute(text.encode())
            return
        except errors.InsufficientPrivilege as error:
            raise KbError(
                f"the user {connection.info.user!r} may not prepare the database {connection.info.dbname!r} "
                f"({error.diag.message_primary}). An administrator has to run there once:\n\n{_admin_sql(connection)}"
            ) from error
        except (errors.UniqueViolation, errors.DuplicateObject, errors.InternalError, errors.SerializationFailure):
            if attempt == 9:
                raise
        time.sleep(random.uniform(0.01, 0.1) * (attempt + 1))


def _admin_sql(connection: psycopg.Connection[Any]) -> str:
    from psycopg import sql

    statement = sql.SQL(
        "CREATE EXTENSION IF NOT EXISTS vector;\n"
        "CREATE ROLE kb_owner NOLOGIN;\nCREATE ROLE kb_writer NOLOGIN;\nCREATE ROLE kb_reader NOLOGIN;\n"
        "CREATE ROLE kb_search NOLOGIN;\n"
        "GRANT kb_search TO kb_owner;\n"
        "GRANT kb_owner, kb_writer, kb_reader TO {user};\n"
        "CREATE SCHEMA IF NOT EXISTS kb AUTHORIZATION kb_owner;\n"
        "GRANT USAGE ON SCHEMA {schema} TO kb_owner, kb_writer, kb_reader, kb_search;\n"
        "GRANT TEMP ON DATABASE {database} TO kb_owner, kb_writer;"
    )
    schema = _one(connection, "SELECT extnamespace::regnamespace::text FROM pg_extension WHERE extname = 'vector'")
    names = {
        "schema": sql.SQL(schema or "public"),
        "user": sql.Identifier(connection.info.user),
        "database": sql.Identifier(connection.info.dbname),
    }
    return statement.format(**names).as_string(connection)


def _one(connection: psycopg.Connection[Any], query: str, *values: object) -> Any:
    row = connection.execute(query.encode(), values or None).fetchone()
    return row[0] if row else None


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())
