"""One request until it is answered: turns, retries with full jitter, and when to stop hoping."""

from __future__ import annotations

from dataclasses import dataclass

from kb_pipeline.embed.answers import Answer
from kb_pipeline.embed.faults import Fault, Kind
from kb_pipeline.embed.stopping import Stopping
from kb_pipeline.embed.tally import Tally
from kb_pipeline.embed.turns import Turns

SPOILT_ATTEMPTS = 4
"""Answers that could not be used, before we look whether the texts are the reason."""
PAUSE_S = 0.5
"""Mean of the first pause; each further one is twice as long."""
_SPLIT_AFTER = 6
"""Failures of one request while others are answered, before it is taken apart."""
_AGAIN_AFTER = 2
"""The same for what is left of a request that was taken apart."""
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
        self.pause_s = PAUSE_S
        self._halving: Bill | None = None
        """Of the job that tries smaller requests since nothing is answered any more."""

    async def answer(self, texts: list[str], tokens: int, bill: Bill, *, suspect: bool = False) -> Answer:
        """The answer to one request, however often it takes. `suspect`: it is part of one that failed before.

        Raises a `Fault` when the texts may be the reason: refused for their content, spoilt again and again, failing
        while other requests are answered, or too many for the limits. Raises `ProviderUnavailable` when patience
        ends, `Stopped` when the run does, and what else ends a run.
        """
        from tenacity import AsyncRetrying, RetryCallState, retry_if_exception
        from tenacity.wait import wait_random_exponential

        jitter = wait_random_exponential(multiplier=self.pause_s, max=60)
        answered_before = self._tally.answered

        def give_up(state: RetryCallState) -> bool:
            fault = _fault(state)
            if fault is None:
                return True
            if fault.kind is Kind.SPOILT:
                return state.attempt_number >= SPOILT_ATTEMPTS
            others = self._tally.answered - answered_before
            if fault.kind is Kind.THROTTLED and len(texts) > 1:
                if fault.too_large or (state.attempt_number >= _TOO_MUCH_AFTER and self._may_halve(bill, others)):
                    return True
            if fault.kind is Kind.DOWN and state.attempt_number >= (_AGAIN_AFTER if suspect else _SPLIT_AFTER):
                if self._may_halve(bill, others // _SPLIT_AFTER):
                    return True
            return self._turns.out_of_patience()

        def pause_s(state: RetryCallState) -> float:
            fault = _fault(state)
            # a wait the provider asks for is kept where turns are given, by all requests alike
            asked_s = fault.retry_after_s if fault is not None else None
            return max(jitter(state) - (asked_s or 0.0), 0.0)

        async def sleep(seconds: float) -> None:
            self.count_retry(bill)
            if self._turns.trouble is not None:
                self._turns.waiting = f"{self._turns.trouble}; again soon"
            await self._stopping.sleep(seconds)

        again = retry_if_exception(lambda error: isinstance(error, Fault) and error.kind is not Kind.CONTENT)
        retrying = AsyncRetrying(retry=again, wait=pause_s, stop=give_up, sleep=sleep, reraise=True)
        try:
            return await retrying(self._once, texts, tokens, bill)
        except Fault as fault:
            if fault.kind in (Kind.DOWN, Kind.THROTTLED) and self._turns.out_of_patience():
                url = self._turns.current.url
                raise self._turns.unavailable(f"{url} answered no request for a long time; last: {fault}") from fault
            raise

    def _may_halve(self, bill: Bill, others: int) -> bool:
        """Whether a request that is throttled, or fails, is to be taken apart. While nothing is answered the reason may
        be neither its size nor its texts: one job finds out for all.
        """
        if others > 0:
            return True
        if self._halving is None:
            self._halving = bill
        return self._halving is bill

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
            self._turns.failed(fault)
            if fault.maybe_billed:
                self._tally.count_again(len(texts), tokens)
            raise
        self._tally.answered += 1
        self._halving = None
        self._turns.answered()
        return answer


def _fault(state: object) -> Fault | None:
    outcome = getattr(state, "outcome", None)
    error = outcome.exception() if outcome is not None else None
    return error if isinstance(error, Fault) else None
