"""The engine's database: opening it brings it to the newest schema, connecting takes a role and a tenant."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kb_pipeline.errors import ConfigError
from kb_pipeline.home import kb_home
from kb_pipeline.processes import follow_priority
from kb_pipeline.tenant import checked_tenant_id

if TYPE_CHECKING:
    import psycopg
    from psycopg.rows import TupleRow
    from psycopg_pool import ConnectionPool

Role = Literal["owner", "writer", "reader"]

_SET_UP = (
    "SELECT set_config('role', %s, false), set_config('kb.tenant', %s, false), "
    "v.oid, v.typarray, h.oid, h.typarray FROM pg_type v, pg_type h "
    "WHERE v.oid = to_regtype('vector') AND h.oid = to_regtype('halfvec')"
)


@dataclass(frozen=True, slots=True)
class Database:
    """A migrated database. Cheap to make and to pass on: nothing is connected before `connect` or `pool`."""

    dsn: str = field(repr=False)
    """Plain `postgresql://` DSN. It may hold a password."""
    embedded: bool = False
    """On the embedded server of a data folder."""

    def connect(
        self, role: Role = "writer", tenant: str | None = None, *, autocommit: bool = False
    ) -> psycopg.Connection[TupleRow]:
        """A direct connection, to be used as a context manager (which commits and closes).

        `writer` and `reader` see the rows of `tenant` only, and none without one; `owner` sees all. Arrays travel as
        pgvector types. Roles guard against our own mistakes: who may run any SQL on a connection can take another role.
        """
        import psycopg

        connection = psycopg.connect(
            self.dsn, autocommit=True, fallback_application_name=application_name(), prepare_threshold=None
        )
        try:
            if self.embedded:
                follow_priority(connection.info.backend_pid)
            _set_up(connection, role, tenant)
            connection.prepare_threshold = 5
            connection.autocommit = autocommit
        except BaseException:
            connection.close()
            raise
        return connection

    def pool(
        self, role: Role, *, min_size: int = 1, max_size: int = 8, autocommit: bool = False
    ) -> ConnectionPool[psycopg.Connection[TupleRow]]:
        """A pool of such connections without a tenant, to be used as a context manager.

        A tenant set on one does not outlive its use. With `autocommit`, statements set it for themselves
        (`set_config(..., true)`), and giving a connection back costs no round trip.
        """
        from psycopg_pool import ConnectionPool

        return ConnectionPool(
            self.dsn,
            min_size=min_size,
            max_size=max_size,
            open=False,
            kwargs={"fallback_application_name": application_name(), "autocommit": autocommit},
            configure=lambda connection: _configure(connection, role),
            reset=None if autocommit else _forget_tenant,
        )


def open_database(home: Path | None = None, *, dsn: str | None = None) -> Database:
    """The database to work on, ready: `dsn`, else `KB_DSN`, else `kb` on the embedded server of `home`.

    Starts that server when needed. Repeatable, and fast when nothing is to do. Raises `UnsupportedPostgres`,
    `ConfigError`, `KbError`.
    """
    if asked := dsn or os.environ.get("KB_DSN"):
        database = Database(_checked(asked))
    else:
        from kb_pipeline.store.server import embedded_dsn, ensure_running

        home = home or kb_home()
        ensure_running(home)
        database = Database(embedded_dsn(home), embedded=True)
    prepare(database)
    return database


def prepare(database: Database) -> None:
    """Creates the database (on the embedded server), and applies roles and migrations where any are missing."""
    import psycopg

    from kb_pipeline.store.migrate import is_current, migrate

    try:
        connection = _plain_connection(database)
    except psycopg.OperationalError as error:
        if not (database.embedded and "does not exist" in str(error)):
            where = "the embedded server" if database.embedded else "the Postgres that KB_DSN names"
            raise ConfigError(f"cannot connect to {where}: {str(error).strip()}") from error
        create_database(database.dsn, "postgres")
        connection = _plain_connection(database)
    with connection:
        if not is_current(connection):
            migrate(connection)


def create_database(dsn: str, beside: str) -> None:
    """Creates the database `dsn` names, through database `beside` on the same server. It may exist already."""
    import psycopg
    from psycopg import errors, sql
    from psycopg.conninfo import conninfo_to_dict, make_conninfo

    name = str(conninfo_to_dict(dsn)["dbname"])
    with psycopg.connect(make_conninfo(dsn, dbname=beside), autocommit=True) as connection:
        if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone():
            return
        try:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        except (errors.DuplicateDatabase, errors.UniqueViolation):  # another process was faster
            pass
        except errors.InsufficientPrivilege as error:
            raise ConfigError(
                f"the user {connection.info.user!r} may not create the database {name!r}: "
                "an administrator has to run\n\n"
                f'CREATE DATABASE "{name}" OWNER "{connection.info.user}";'
            ) from error


def dagster_dsn(database: Database) -> str:
    """URL of Dagster's own database for its storage (`postgresql+psycopg2://`), created when missing.

    `KB_DAGSTER_DSN` if set; `dagster` on the embedded server; else `<name>_dagster` beside the engine's.
    """
    from urllib.parse import quote

    from psycopg.conninfo import conninfo_to_dict, make_conninfo

    asked = os.environ.get("KB_DAGSTER_DSN")
    parts: dict[str, Any] = conninfo_to_dict(asked or database.dsn)
    if not asked:
        beside = str(parts["dbname"])
        parts["dbname"] = "dagster" if database.embedded and beside == "kb" else f"{beside}_dagster"
        create_database(make_conninfo(database.dsn, dbname=parts["dbname"]), beside)
    keys = ("user", "password", "host", "port", "dbname")
    user, password, host, port, name = (quote(str(parts.pop(key, "") or ""), safe="") for key in keys)
    login = f"{user}:{password}@" if password else f"{user}@" if user else ""
    if "%2F" in host or not host:  # a socket's folder, or several hosts: libpq takes them as parameters
        parts |= {"host": str(host and _unquoted(host))} if host else {}
        parts |= {"port": port} if port else {}
        place = ""
    else:
        place = f"{host}:{port}" if port else host
    query = "&".join(f"{key}={quote(str(value), safe='')}" for key, value in sorted(parts.items()))
    return f"postgresql+psycopg2://{login}{place}/{name}" + (f"?{query}" if query else "")


def application_name() -> str:
    """How this process shows in `pg_stat_activity` and in messages about locks (63 bytes at most)."""
    return f"{Path(sys.argv[0] or 'python').stem[:30]}[{os.getpid()}]"


def _plain_connection(database: Database) -> psycopg.Connection[TupleRow]:
    import psycopg

    return psycopg.connect(database.dsn, autocommit=True, fallback_application_name=application_name())


def _set_up(connection: psycopg.Connection[Any], role: Role, tenant: str | None) -> None:
    """Role, tenant and vector types in one round trip."""
    from kb_pipeline.store.vectors import register

    values = (f"kb_{role}", "" if tenant is None else checked_tenant_id(tenant))
    row = connection.execute(_SET_UP, values).fetchone()
    if row is None:
        raise ConfigError(
            f"pgvector is not on the search_path of user {connection.info.user!r} "
            f"in database {connection.info.dbname!r}: add the schema it is in (ALTER ROLE ... SET search_path)"
        )
    register(connection, (row[2], row[3]), (row[4], row[5]))


def _configure(connection: psycopg.Connection[Any], role: Role) -> None:
    _set_up(connection, role, None)
    connection.commit()


def _forget_tenant(connection: psycopg.Connection[Any]) -> None:
    connection.execute("SELECT set_config('kb.tenant', '', false)")
    connection.commit()


def _unquoted(text: str) -> str:
    from urllib.parse import unquote

    return unquote(text)


def _checked(dsn: str) -> str:
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    try:
        parts = conninfo_to_dict(dsn)
    except psycopg.ProgrammingError as error:
        raise ConfigError(
            f"KB_DSN is no Postgres DSN ({str(error).strip()}): write postgresql://user@host/database"
        ) from None
    if not parts.get("dbname"):
        raise ConfigError("KB_DSN names no database: write postgresql://user@host/database")
    return dsn
