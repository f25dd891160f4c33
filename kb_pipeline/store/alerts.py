"""What people were told, so that one cause is told once."""

from __future__ import annotations

from datetime import datetime

from psycopg import Connection
from psycopg.rows import TupleRow


def note_alert(
    conn: Connection[TupleRow], subject: str, cause: str, *, well_since: datetime | None = None
) -> tuple[bool, int]:
    """Counts a failure; (whether a person is to be told of it now, how often it was seen). `conn` is the owner's.

    A cause is told once, and again when the subject went well after it was told (`well_since`: when it last did).
    """
    row = conn.execute(
        "INSERT INTO kb.alerts AS a (subject, cause) VALUES (%(s)s, %(c)s) ON CONFLICT (subject, cause) DO UPDATE SET "
        "times = CASE WHEN a.told_at < %(w)s THEN 1 ELSE a.times + 1 END, last_at = now(), "
        "told_at = CASE WHEN a.told_at < %(w)s THEN now() ELSE a.told_at END RETURNING times",
        {"s": subject, "c": cause, "w": well_since},
    ).fetchone()
    assert row is not None, "INSERT ... RETURNING gives a row"
    return row[0] == 1, row[0]


def take_back_alert(conn: Connection[TupleRow], subject: str, cause: str) -> None:
    """The message could not be sent: the next failure tries again."""
    conn.execute("DELETE FROM kb.alerts WHERE subject = %s AND cause = %s", (subject, cause))
