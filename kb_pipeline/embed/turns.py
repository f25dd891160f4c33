"""Whose turn it is and at which endpoint: breaker, provider's wishes, rate limits and concurrency, in one queue."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

from kb_pipeline.embed.endpoint import Endpoint
from kb_pipeline.embed.faults import Fault, Kind
from kb_pipeline.embed.protocol import Vectors
from kb_pipeline.embed.same_space import difference
from kb_pipeline.embed.stopping import Stopping
from kb_pipeline.errors import ConfigError, ProviderUnavailable

log = logging.getLogger(__name__)

_SOON_S = 1.0
_SAMPLES = 5


class Turns:
    """First come, first served. The first endpoint is the configured one; others stand in while it cannot be asked."""

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        stopping: Stopping,
        *,
        max_wait_s: float,
        first_answer_wait_s: float,
        samples: Sequence[tuple[str, Vectors]],
    ) -> None:
        self.endpoints = endpoints
        self.samples = list(samples[:_SAMPLES])
        """Texts as they are sent, with stored vectors; what a stand-in is compared with."""
        self.waiting = ""
        """Why nothing is sent at present; empty when something is."""
        self.last_answer = time.monotonic()
        self.trouble: Fault | None = None
        """The last failure; None since the last answer."""
        self._stopping = stopping
        self._max_wait_s = max_wait_s
        self._first_answer_wait_s = min(first_answer_wait_s, max_wait_s)
        self._works = False
        self._queue = asyncio.Lock()
        self._sound = {endpoints[0].url}
        self.refused: dict[str, str] = {}
        """Endpoints that serve another space, and why we think so."""

    @property
    def current(self) -> Endpoint:
        """The endpoint that would be asked now."""
        return min(self._usable(), key=lambda one: one.ready_in_s() > _SOON_S)

    def remember(self, text: str, vector: Vectors) -> None:
        """Keep an answer of this run to compare stand-ins with, where nothing is stored yet."""
        if len(self.samples) < _SAMPLES and len(self.endpoints) > 1:
            self.samples.append((text, vector.copy()))

    def answered(self) -> None:
        """Note an answer that can be used."""
        self.last_answer = time.monotonic()
        self.trouble = None
        self._works = True

    def failed(self, fault: Fault) -> None:
        """Note a failure. One that shows a server at work there is no sign of a wrong address."""
        self.trouble = fault
        self._works |= fault.kind is not Kind.SPOILT and not fault.unreachable

    @property
    def patience_s(self) -> float:
        """How long to wait for an answer: less while nothing shows that the address is right."""
        return self._max_wait_s if self._works else self._first_answer_wait_s

    def out_of_patience(self) -> bool:
        """Whether no request has been answered for longer than the configuration waits."""
        return time.monotonic() - self.last_answer > self.patience_s

    def unavailable(self, what: str) -> ProviderUnavailable:
        """The error that ends the run, with the setting that decides, and with the address where that may be wrong."""
        if self._works:
            why, setting = "", f"embedder.max_wait_s = {self._max_wait_s:g}"
        else:
            why = "; is embedder.base_url (or OPENAI_BASE_URL) right?"
            setting = f"embedder.first_answer_wait_s = {self._first_answer_wait_s:g}"
        return ProviderUnavailable(f"{what}{why} ({setting}). What was done is kept: run again later")

    async def take(self, tokens: int) -> Endpoint:
        """Wait for a turn. The caller asks the endpoint without awaiting anything before.

        Raises `ProviderUnavailable` when the wait would be longer than the configuration allows, `Stopped` when the
        run ends.
        """
        async with self._queue:
            booked: set[str] = set()
            while True:
                self._stopping.check()
                endpoint = await self._ready_endpoint()
                if not endpoint.room():
                    await endpoint.freed(timeout_s=0.5)
                    continue
                wait_s = endpoint.limits.told_wait_s(tokens, time.monotonic())
                if wait_s > 0:
                    self.waiting = f"rate limit of {endpoint.url}, {wait_s:.0f} s"
                    await self._stopping.sleep(min(wait_s, 1.0))
                    continue
                if endpoint.url not in booked:
                    self.waiting = "configured rate limit"
                    await self._stopping.either(endpoint.limits.own_turn(tokens))
                    booked.add(endpoint.url)
                    continue
                self.waiting = ""
                endpoint.breaker.trial()
                return endpoint

    async def _ready_endpoint(self) -> Endpoint:
        while True:
            endpoint = next((one for one in self._usable() if one.ready_in_s() <= _SOON_S), None)
            if endpoint is None:
                endpoint = min(self._usable(), key=Endpoint.ready_in_s)
            wait_s = endpoint.ready_in_s()
            if wait_s > 0:
                self._require_patience(endpoint, wait_s)
                why = "circuit breaker" if endpoint.breaker.wait_s() > 0 else "retry-after"
                self.waiting = f"{why} of {endpoint.url}, {wait_s:.0f} s{f' ({self.trouble})' if self.trouble else ''}"
                await self._stopping.sleep(min(wait_s + 0.001, 1.0))
            elif endpoint.url in self._sound or await self._is_sound(endpoint):
                return endpoint

    def _usable(self) -> list[Endpoint]:
        return [one for one in self.endpoints if one.url not in self.refused]

    def _require_patience(self, endpoint: Endpoint, wait_s: float) -> None:
        breaker_s = endpoint.breaker.wait_s()
        idle_s = time.monotonic() - self.last_answer
        if wait_s <= self._max_wait_s and not (breaker_s > 0 and idle_s + breaker_s > self.patience_s):
            return
        if not breaker_s > 0:
            raise self.unavailable(f"{endpoint.url} asks to wait {wait_s:.0f} s")
        last = f", last: {self.trouble}" if self.trouble else ""
        raise self.unavailable(
            f"{endpoint.url} has given no usable answer for {idle_s:.0f} s and its circuit breaker is open{last}"
        )

    async def _is_sound(self, endpoint: Endpoint) -> bool:
        """Compare a stand-in with stored vectors; one of another space is never asked again."""
        if not self.samples:
            self._refuse(endpoint, "there is no stored vector yet to compare it with")
            return False
        try:
            answer = await endpoint.ask([text for text, _ in self.samples], tokens=0)
        except Fault as fault:
            log.warning("endpoint %s cannot stand in now: %s", endpoint.url, fault)
            return False
        except (ConfigError, ProviderUnavailable) as error:
            self._refuse(endpoint, str(error))
            return False
        why = difference([vector for _, vector in self.samples], answer)
        if why:
            self._refuse(endpoint, why)
            return False
        log.info("endpoint %s stands in: its vectors are the stored ones", endpoint.url)
        self._sound.add(endpoint.url)
        return True

    def _refuse(self, endpoint: Endpoint, why: str) -> None:
        log.warning("endpoint %s is not used: %s", endpoint.url, why)
        self.refused[endpoint.url] = why
