"""One request until it is answered: turns, retries with full jitter, and when to stop hoping."""

from __future__ import annotations

import time
from dataclasses import dataclass

from kb_pipeline.embed.answers import Answer
from kb_pipeline.embed.faults import Fault, Kind
from kb_pipeline.embed.stopping import Stopping
from kb_pipeline.embed.tally import Tally
from kb_pipeline.embed.turns import Turns
from kb_pipeline.errors import ProviderUnavailable

SPOILT_ATTEMPTS = 4
"""Answers that could not be used, before we look whether the texts are the reason."""
_SPLIT_AFTER = 6
"""Failures of one request while others are answered, before it is taken apart."""

_TOO_MUCH_AFTER = 4
"""429s of one request, before we take it for more than the provider's bucket holds."""


@dataclass(slots=True)
class Bill:
    """Requests, retries and tokens since the last delivery of one job."""

    requests: int = 0
    retries: int = 0
    tokens: int = 0


class Asking:
    """Sends texts and waits as long as it is worth. Belongs to one event loop."""

    def __init__(self, turns: Turns, stopping: Stopping, tally: Tally) -> None:
        self._turns = turns
        self._stopping = stopping
        self._tally = tally

    async def answer(self, texts: list[str], tokens: int, bill: Bill) -> Answer:
        """The answer to one request, however often it takes.

        Raises a `Fault` when the texts may be the reason: refused for their content, spoilt again and again, failing
        while other requests are answered, or too many for the limits. Raises `ProviderUnavailable` when patience
        ends, `Stopped` when the run does, and what else ends a run.
        """
        from tenacity import AsyncRetrying, RetryCallState, retry_if_exception
        from tenacity.wait import wait_random_exponential

        jitter = wait_random_exponential(multiplier=0.5, max=60)
        answered_before = self._tally.answered

        def give_up(state: RetryCallState) -> bool:
            fault = _fault(state)
            if fault is None:
                return True
            if fault.kind is Kind.SPOILT:
                return state.attempt_number >= SPOILT_ATTEMPTS
            too_large = fault.too_large or state.attempt_number >= _TOO_MUCH_AFTER
            if fault.kind is Kind.THROTTLED and too_large and len(texts) > 1:
                return True
            others = self._tally.answered - answered_before
            if fault.kind is Kind.DOWN and state.attempt_number >= _SPLIT_AFTER and others >= _SPLIT_AFTER:
                return True
            return self._turns.out_of_patience()

        def pause_s(state: RetryCallState) -> float:
            fault = _fault(state)
            # a wait the provider asks for is kept where turns are given, by all requests alike
            return jitter(state) if fault is None or fault.retry_after_s is None else 0.0

        async def sleep(seconds: float) -> None:
            self.count_retry(bill)
            await self._stopping.sleep(seconds)

        again = retry_if_exception(lambda error: isinstance(error, Fault) and error.kind is not Kind.CONTENT)
        retrying = AsyncRetrying(retry=again, wait=pause_s, stop=give_up, sleep=sleep, reraise=True)
        try:
            return await retrying(self._once, texts, tokens, bill)
        except Fault as fault:
            if fault.kind in (Kind.DOWN, Kind.THROTTLED) and self._turns.out_of_patience():
                raise ProviderUnavailable(
                    f"{self._turns.current.url}: no request was answered for {self._turns.max_wait_s:g} s "
                    f"(embedder.max_wait_s); last: {fault}. What was done is kept: run again later"
                ) from fault
            raise

    def count_retry(self, bill: Bill) -> None:
        """Book that something is sent again."""
        bill.retries += 1
        self._tally.retries += 1

    async def _once(self, texts: list[str], tokens: int, bill: Bill) -> Answer:
        endpoint = await self._turns.take(tokens)
        bill.requests += 1
        self._tally.requests += 1
        try:
            answer = await endpoint.ask(texts, tokens)
        except Fault as fault:
            self._tally.throttled += fault.kind is Kind.THROTTLED
            if fault.maybe_billed:
                self._tally.count_again(len(texts), tokens)
            raise
        self._tally.answered += 1
        self._turns.last_answer = time.monotonic()
        return answer


def _fault(state: object) -> Fault | None:
    outcome = getattr(state, "outcome", None)
    error = outcome.exception() if outcome is not None else None
    return error if isinstance(error, Fault) else None
