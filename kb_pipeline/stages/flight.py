"""Keeps count of the texts that are on their way to a paid provider."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from kb_pipeline.store.in_flight import arrived, send

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.rows import TupleRow


class Flight:
    """Texts of one run of a lane, request by request: written down before they are sent, removed with their vectors."""

    def __init__(self, conn: Connection[TupleRow], tenant_id: str, run_id: str, version: int) -> None:
        self._conn = conn
        self._tenant_id = tenant_id
        self._run_id = run_id
        self._version = version
        self._request_of: dict[bytes, int] = {}
        self._left: dict[int, int] = {}

    def send(self, fingerprints: Sequence[bytes]) -> None:
        """Write down texts that are about to be sent."""
        number = send(self._conn, self._tenant_id, self._run_id, self._version, fingerprints)
        self._left[number] = len(fingerprints)
        self._request_of.update(dict.fromkeys(fingerprints, number))

    def arrived(self, fingerprints: Iterable[bytes]) -> None:
        """Remove what has arrived, or was refused. Belongs in the transaction that keeps the vectors."""
        done: list[int] = []
        for fingerprint in fingerprints:
            number = self._request_of.pop(fingerprint, None)
            if number is not None:
                self._left[number] -= 1
                if self._left[number] == 0:
                    del self._left[number]
                    done.append(number)
        arrived(self._conn, self._tenant_id, done)

    def landed(self) -> None:
        """The run of the lane has ended in order: nothing is on its way."""
        arrived(self._conn, self._tenant_id, list(self._left))
        self._left.clear()
        self._request_of.clear()
