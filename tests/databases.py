"""Copies of databases on the server of the test run."""

from __future__ import annotations

import time
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from kb_pipeline.store.server import embedded_dsn


@contextmanager
def copied(home: Path, template: str) -> Generator[str]:
    """Name of a copy of a database on the run's server, dropped in the end with what Dagster made beside it."""
    name = f"t_{uuid.uuid4().hex[:16]}"
    _patiently(home, f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
    try:
        yield name
    finally:
        dropped(home, name)


def dropped(home: Path, name: str) -> None:
    """Drops a database of the run's server, and what Dagster made beside it."""
    for each in (name, f"{name}_dagster"):
        _patiently(home, f"DROP DATABASE IF EXISTS {each} WITH (FORCE)")


def _patiently(home: Path, statement: str) -> None:
    """Postgres waits 5 s for the backends of a database to leave: too short for a build on a busy machine."""
    end = time.monotonic() + 120
    with psycopg.connect(embedded_dsn(home, "postgres"), autocommit=True) as connection:
        while True:
            try:
                connection.execute(statement.encode())
                return
            except psycopg.errors.ObjectInUse:
                if time.monotonic() > end:
                    raise
