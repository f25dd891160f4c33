"""How fast and how much at once: token buckets for what is configured and what the provider tells, AIMD for concurrency."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kb_pipeline.embed.faults import duration_s

if TYPE_CHECKING:
    from aiolimiter import AsyncLimiter

_SLACK = 0.98
"""Part of a configured limit that is used: our clock and the provider's start a connection apart, so the rest would be 429s."""


@dataclass(frozen=True, slots=True)
class Booking:
    """What the model said when a request was sent."""

    need: float
    level: float
    """Right after the request was booked."""
    corrections: float
    """Sum of all corrections up to then."""


@dataclass(slots=True)
class ToldBucket:
    """A model of the provider's own bucket, kept true by the `x-ratelimit-*` headers of every answer.

    Between answers it fills at the told rate and empties by what we send. `remaining` is what the provider had when the
    request arrived, so it is compared with what the model said when it was sent, less the corrections made since: a slow
    answer is then no reason to think the bucket emptier than it is.
    """

    limit: float = math.inf
    level: float = math.inf
    on_way: float = 0.0
    """Sent and not yet answered."""
    corrections: float = 0.0
    at: float = 0.0

    def wait_s(self, need: float, now: float) -> float:
        """Seconds until `need` fits; 0 when it does now."""
        self._fill(now)
        # a need above the whole bucket is sent when the bucket is full: the provider then says what it thinks of it
        missing = min(need, self.limit) - self.level
        return 0.0 if missing <= 0 or math.isinf(self.limit) else missing * 60.0 / self.limit

    def send(self, need: float, now: float) -> Booking:
        """Book a request as sent."""
        self._fill(now)
        self.level -= need
        self.on_way += need
        return Booking(need, self.level, self.corrections)

    def answered(
        self, booking: Booking, now: float, *, taken: bool, limit: float | None, remaining: float | None
    ) -> None:
        """Book its answer, with what the headers tell (None: nothing). `taken`: it was not answered 429."""
        self._fill(now)
        self.on_way = max(self.on_way - booking.need, 0.0)
        if limit is not None and limit > 0:
            self.limit = limit
        if remaining is None or math.isinf(self.limit):
            return
        if math.isinf(self.level) or math.isinf(booking.level):
            self.level = min(self.level, remaining - self.on_way)
            return
        back = 0.0 if taken else booking.need
        self.level += back
        error = remaining - (booking.level + back) - (self.corrections - booking.corrections)
        # believe at once in less than thought, and by halves in more: two requests may have arrived in the other order
        correction = error if error < 0 else error / 2
        self.level = min(self.level + correction, self.limit)
        self.corrections += correction

    def _fill(self, now: float) -> None:
        if not math.isinf(self.limit):
            self.level = min(self.level + max(now - self.at, 0.0) * self.limit / 60.0, self.limit)
        self.at = now


@dataclass(slots=True)
class RateLimits:
    """Requests and tokens per minute of one endpoint, configured and told. Belongs to one event loop."""

    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    requests: ToldBucket = field(default_factory=ToldBucket)
    tokens: ToldBucket = field(default_factory=ToldBucket)
    _own_requests: AsyncLimiter | None = None
    _own_tokens: AsyncLimiter | None = None

    def __post_init__(self) -> None:
        from aiolimiter import AsyncLimiter

        if self.requests_per_minute is not None:
            self._own_requests = AsyncLimiter(max(self.requests_per_minute * _SLACK, 1.0), 60.0)
        if self.tokens_per_minute is not None:
            self._own_tokens = AsyncLimiter(self.tokens_per_minute * _SLACK, 60.0)

    async def own_turn(self, tokens: int) -> None:
        """Wait until the configured limits allow a request of that many tokens, and book it."""
        if self._own_requests is not None:
            await self._own_requests.acquire()
        if self._own_tokens is not None:
            await self._own_tokens.acquire(min(float(tokens), self._own_tokens.max_rate))

    def told_wait_s(self, tokens: int, now: float) -> float:
        """Seconds until the provider's own buckets, as far as known, allow it."""
        return max(self.requests.wait_s(1.0, now), self.tokens.wait_s(float(tokens), now))

    def send(self, tokens: int, now: float) -> tuple[Booking, Booking]:
        """Book a request as sent."""
        return self.requests.send(1.0, now), self.tokens.send(float(tokens), now)

    def answered(self, booked: tuple[Booking, Booking], now: float, headers: Mapping[str, str], *, taken: bool) -> None:
        """Book an answer and learn from its headers (an empty mapping for none). `taken`: it was not answered 429."""
        for bucket, booking, name in ((self.requests, booked[0], "requests"), (self.tokens, booked[1], "tokens")):
            limit = _number(headers.get(f"x-ratelimit-limit-{name}"))
            remaining = _number(headers.get(f"x-ratelimit-remaining-{name}"))
            bucket.answered(booking, now, taken=taken, limit=limit, remaining=remaining)

    def known(self) -> tuple[float, float]:
        """Requests and tokens per minute, the smaller of configured and told; infinite where unknown."""
        return (
            min(self.requests_per_minute or math.inf, self.requests.limit),
            min(self.tokens_per_minute or math.inf, self.tokens.limit),
        )


def reset_hint_s(headers: Mapping[str, str]) -> float | None:
    """When an exhausted bucket is full enough again, from `x-ratelimit-reset-*` of those whose `remaining` is 0."""
    waits = [
        duration_s(headers.get(f"x-ratelimit-reset-{name}"))
        for name in ("requests", "tokens")
        if _number(headers.get(f"x-ratelimit-remaining-{name}")) == 0
    ]
    known = [wait for wait in waits if wait is not None]
    return max(known) if known else None


@dataclass(slots=True)
class Concurrency:
    """How many requests at once: grows by one per round of answers (twice as fast at first), halves when throttled."""

    maximum: int
    limit: float = 2.0
    in_flight: int = 0
    peak: int = 0
    _starting: bool = True
    _decreased_at: float = -math.inf

    def __post_init__(self) -> None:
        self.limit = min(self.limit, float(self.maximum))

    def allowed(self) -> int:
        """Requests that may be in flight."""
        return max(int(self.limit), 1)

    def sent(self) -> None:
        """Count a request."""
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)

    def done(self) -> None:
        """Count its end, whatever it was."""
        self.in_flight -= 1

    def grow(self) -> None:
        """A request was answered well."""
        self.limit = min(self.limit + (1.0 if self._starting else 1.0 / self.limit), float(self.maximum))

    def shrink(self, *, sent_at: float, now: float) -> None:
        """A request sent at `sent_at` was throttled or lost. Requests sent before the last cut tell nothing new."""
        if sent_at < self._decreased_at:
            return
        self._starting = False
        self._decreased_at = now
        self.limit = max(self.limit / 2, 1.0)


def _number(told: str | None) -> float | None:
    try:
        return None if told is None else float(told)
    except ValueError:
        return None
