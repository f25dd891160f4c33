"""How fast and how much at once: token buckets for configured and told limits, AIMD for concurrency."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kb_pipeline.embed.faults import duration_s, number

if TYPE_CHECKING:
    from aiolimiter import AsyncLimiter

_SLACK = 0.98
"""Part of a configured limit that is used: our clock and the provider's start a connection apart."""
_BURST = 1 / 12
"""Part of a minute's worth that is sent at once under a configured limit: nothing is known of the provider's bucket."""
_LONGEST_HINT_S = 60.0


@dataclass(frozen=True, slots=True)
class Booking:
    """What the model said when a request was sent."""

    need: float
    level: float
    """Right after the request was booked."""
    corrections: float
    """Sum of all corrections up to then."""
    at: float
    """Monotonic time."""


@dataclass(frozen=True, slots=True)
class Told:
    """What the headers of one answer say of one bucket; None: nothing."""

    limit: float | None = None
    remaining: float | None = None
    reset_s: float | None = None
    """Until it is full again."""


@dataclass(slots=True)
class ToldBucket:
    """A model of the provider's own bucket, kept true by the `x-ratelimit-*` headers of every answer.

    Between answers it fills at the told rate and empties by what we send. `remaining` is what the provider had when
    the request arrived, so it is compared with what the model said when it was sent, less the corrections made since:
    a slow answer is then no reason to think the bucket emptier than it is.
    """

    limit: float = math.inf
    """Per minute."""
    full: float = 0.0
    """Largest sum of `remaining` and what flows in until `reset`; 0 while `reset` was never told."""
    level: float = math.inf
    on_way: float = 0.0
    """Sent and not yet answered."""
    corrections: float = 0.0
    at: float = 0.0

    @property
    def capacity(self) -> float:
        """What it holds when full: at most a minute's worth."""
        return min(self.full, self.limit) if self.full > 0 else self.limit

    def wait_s(self, need: float, now: float) -> float:
        """Seconds until `need` fits; 0 when it does now."""
        self._fill(now)
        # a need above the whole bucket is sent when the bucket is full: the provider then says what it thinks of it
        missing = min(need, self.capacity) - self.level
        return 0.0 if missing <= 0 or math.isinf(self.limit) else missing * 60.0 / self.limit

    def send(self, need: float, now: float) -> Booking:
        """Book a request as sent."""
        self._fill(now)
        self.level -= need
        self.on_way += need
        return Booking(need, self.level, self.corrections, now)

    def answered(self, booking: Booking, now: float, told: Told, *, taken: bool) -> None:
        """Book its answer, with what the headers tell. `taken`: it was not answered 429."""
        self._fill(now)
        self.on_way = max(self.on_way - booking.need, 0.0)
        if told.limit is not None and told.limit > 0:
            self.limit = told.limit
        if told.remaining is None or math.isinf(self.limit):
            return
        rate = self.limit / 60.0
        if told.reset_s is not None and (told.reset_s > 0 or told.remaining > 0):
            self.full = max(self.full, told.remaining + told.reset_s * rate)
        if math.isinf(self.level) or math.isinf(booking.level):
            self.level = min(self.level, told.remaining - self.on_way)
            return
        back = 0.0 if taken else booking.need
        self.level += back
        error = told.remaining - (booking.level + back) - (self.corrections - booking.corrections)
        # more than thought may be what flowed in while the request travelled, which the model counts already
        correction = error if error < 0 else max(error - rate * (now - booking.at), 0.0)
        self.level = min(self.level + correction, self.capacity)
        self.corrections += correction

    def _fill(self, now: float) -> None:
        if not math.isinf(self.limit):
            self.level = min(self.level + max(now - self.at, 0.0) * self.limit / 60.0, self.capacity)
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

        def limiter(per_minute: float | None) -> AsyncLimiter | None:
            if per_minute is None:
                return None
            burst = max(per_minute * _SLACK * _BURST, 1.0)
            return AsyncLimiter(burst, burst * 60.0 / (per_minute * _SLACK))

        self._own_requests = limiter(self.requests_per_minute)
        self._own_tokens = limiter(self.tokens_per_minute)

    async def own_turn(self, tokens: int) -> None:
        """Wait until the configured limits allow a request of that many tokens, and book it.

        A limit the provider tells of itself, and which is not above the configured one, is kept by its own bucket
        instead.
        """
        for limiter, mine, told, need in (
            (self._own_requests, self.requests_per_minute, self.requests.limit, 1.0),
            (self._own_tokens, self.tokens_per_minute, self.tokens.limit, float(tokens)),
        ):
            if limiter is None or mine is None or told <= mine:
                continue
            while need > 0:
                part = min(need, limiter.max_rate)
                await limiter.acquire(part)
                need -= part

    def told_wait_s(self, tokens: int, now: float) -> float:
        """Seconds until the provider's own buckets, as far as known, allow it."""
        return max(self.requests.wait_s(1.0, now), self.tokens.wait_s(float(tokens), now))

    def send(self, tokens: int, now: float) -> tuple[Booking, Booking]:
        """Book a request as sent."""
        return self.requests.send(1.0, now), self.tokens.send(float(tokens), now)

    def answered(self, booked: tuple[Booking, Booking], now: float, headers: Mapping[str, str], *, taken: bool) -> None:
        """Book an answer and learn from its headers (an empty mapping for none). `taken`: it was not answered 429."""
        for bucket, booking, name in ((self.requests, booked[0], "requests"), (self.tokens, booked[1], "tokens")):
            told = Told(
                limit=number(headers.get(f"x-ratelimit-limit-{name}")),
                remaining=number(headers.get(f"x-ratelimit-remaining-{name}")),
                reset_s=duration_s(headers.get(f"x-ratelimit-reset-{name}")),
            )
            bucket.answered(booking, now, told, taken=taken)

    def request_tokens(self) -> float:
        """How many tokens a request should have, as far as the limits are known: infinite where they are not.

        A few seconds' worth, at most half the bucket; more where requests are scarcer than tokens, so that both
        limits are used up together.
        """
        minute = min(self.tokens_per_minute or math.inf, self.tokens.limit)
        if math.isinf(minute):
            return math.inf
        requests = min(self.requests_per_minute or math.inf, self.requests.limit)
        wanted = minute * _BURST * _SLACK
        if not math.isinf(requests):
            wanted = max(wanted, 1.25 * minute / requests)
        return min(wanted, minute, self.tokens.capacity / 2)


def reset_hint_s(headers: Mapping[str, str]) -> float | None:
    """When an exhausted bucket is full enough again, from `x-ratelimit-reset-*` of those whose `remaining` is 0.

    At most a minute, which such a bucket takes to fill: only `retry-after` says more, and ends a run.
    """
    waits = [
        duration_s(headers.get(f"x-ratelimit-reset-{name}"))
        for name in ("requests", "tokens")
        if number(headers.get(f"x-ratelimit-remaining-{name}")) == 0
    ]
    known = [wait for wait in waits if wait is not None]
    return min(max(known), _LONGEST_HINT_S) if known else None


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
