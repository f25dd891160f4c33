"""Counts what a run of the lane does."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from kb_pipeline.embed.lane import LaneReport, Progress
from kb_pipeline.embed.turns import Turns


@dataclass(slots=True)
class Tally:
    """Written by the lane's loop only."""

    started: float = field(default_factory=time.perf_counter)
    texts: int = 0
    tokens: int = 0
    requests: int = 0
    answered: int = 0
    """Requests that got an answer, good or not."""
    retries: int = 0
    throttled: int = 0
    refused: int = 0
    sent_again_texts: int = 0
    sent_again_tokens: int = 0
    breaker_opened: int = 0

    def count_again(self, texts: int, tokens: int) -> None:
        """Book texts that must be sent again although they may have been billed."""
        self.sent_again_texts += texts
        self.sent_again_tokens += tokens

    def progress(self, turns: Turns) -> Progress:
        """Where the run stands."""
        current = turns.current
        return Progress(
            texts=self.texts,
            tokens=self.tokens,
            seconds=time.perf_counter() - self.started,
            requests=self.requests,
            retries=self.retries,
            throttled=self.throttled,
            refused=self.refused,
            in_flight=sum(one.concurrency.in_flight for one in turns.endpoints),
            concurrency=current.concurrency.allowed(),
            breaker=current.breaker.state,
            endpoint=current.url,
            waiting=turns.waiting,
        )

    def report(self, turns: Turns) -> LaneReport:
        """What the run did."""
        fates = {one.url: "used" if one.used else "standby" for one in turns.endpoints}
        fates.update({url: f"refused: {why}" for url, why in turns.refused.items()})
        return LaneReport(
            texts=self.texts,
            tokens=self.tokens,
            requests=self.requests,
            retries=self.retries,
            throttled=self.throttled,
            refused=self.refused,
            seconds=time.perf_counter() - self.started,
            sent_again_texts=self.sent_again_texts,
            sent_again_tokens=self.sent_again_tokens,
            breaker=turns.current.breaker.state,
            breaker_opened=self.breaker_opened,
            peak_concurrency=max(one.concurrency.peak for one in turns.endpoints),
            endpoints=fates,
        )
