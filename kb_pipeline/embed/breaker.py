"""The circuit breaker of one endpoint: closed, open, half-open. A thin shell over `pybreaker`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

log = logging.getLogger(__name__)


class Breaker:
    """Opens after so many failures in a row, lets one request through after a time, closes after so many successes.

    A 429 is never told to it: it says nothing about health, and counting it makes a full bucket look like an outage.
    """

    def __init__(
        self, name: str, *, failures: int, reset_s: float, successes: int, on_change: Callable[[str, str], None]
    ) -> None:
        import pybreaker

        class Listener(pybreaker.CircuitBreakerListener):
            def state_change(self, cb: Any, old_state: Any, new_state: Any) -> None:
                log.warning("circuit breaker of %s: %s", name, new_state.name)
                on_change(name, str(new_state.name))

        self._storage = pybreaker.CircuitMemoryStorage(pybreaker.STATE_CLOSED)
        self._reset = timedelta(seconds=reset_s)
        self._breaker: Any = pybreaker.CircuitBreaker(
            fail_max=failures,
            reset_timeout=reset_s,
            success_threshold=successes,
            listeners=[Listener()],
            state_storage=self._storage,
            name=name,
            throw_new_error_on_trip=False,
        )

    @property
    def state(self) -> str:
        """`closed`, `open` or `half-open`."""
        return str(self._breaker.current_state)

    def wait_s(self) -> float:
        """Seconds until a request may be tried; 0 when one may now."""
        opened = self._storage.opened_at
        if self.state != "open" or opened is None:
            return 0.0
        return max((opened + self._reset - datetime.now(UTC)).total_seconds(), 0.0)

    def trial(self) -> None:
        """Go from open to half-open, once the wait is over."""
        if self.state == "open" and self.wait_s() == 0.0:
            self._breaker.half_open()

    def succeeded(self) -> None:
        """Tell of a request that was answered."""
        if self.state != "open":
            self._breaker.call(lambda: None)

    def failed(self, error: Exception) -> None:
        """Tell of a request that was not."""
        if self.state == "open":
            return

        def fail() -> None:
            raise error

        try:
            self._breaker.call(fail)
        except Exception as raised:
            if raised is not error:
                raise
