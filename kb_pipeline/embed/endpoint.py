"""One server that serves the model: its client, limits, concurrency and breaker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from kb_pipeline.config.schema import EmbedderConfig
from kb_pipeline.embed.answers import Answer, SpoiltAnswer, read_answer
from kb_pipeline.embed.breaker import Breaker
from kb_pipeline.embed.faults import Fault, Kind, understand
from kb_pipeline.embed.limits import Concurrency, RateLimits, reset_hint_s
from kb_pipeline.embed.openai import Access, request_arguments, request_timeout
from kb_pipeline.embed.protocol import EmbedderSpec

if TYPE_CHECKING:
    import openai


class Endpoint:
    """Belongs to one event loop and one run. Used through `wait_turn`, then `ask`."""

    def __init__(
        self, config: EmbedderConfig, spec: EmbedderSpec, where: Access, *, on_breaker: Callable[[str, str], None]
    ) -> None:
        import openai

        self.url = where.base_url
        self.breaker = Breaker(
            where.base_url,
            failures=config.breaker_failures,
            reset_s=config.breaker_reset_s,
            successes=config.breaker_successes,
            on_change=on_breaker,
        )
        self.limits = RateLimits(config.requests_per_minute, config.tokens_per_minute)
        self.concurrency = Concurrency(config.max_concurrency)
        self.paused_until = 0.0
        """Monotonic time before which the provider asked us not to come back."""
        self.used = False
        self._where = where
        self._spec = spec
        self._timeout_s = config.request_timeout_s
        self._arguments = request_arguments(spec)
        self._freed = asyncio.Event()
        self._client: openai.AsyncOpenAI = openai.AsyncOpenAI(
            api_key=where.key, base_url=where.base_url, max_retries=0, timeout=request_timeout(config)
        )

    async def close(self) -> None:
        """Close its connections."""
        await self._client.close()

    def ready_in_s(self) -> float:
        """Seconds until it may be asked again: the breaker's and the provider's own wait."""
        return max(self.breaker.wait_s(), self.paused_until - time.monotonic(), 0.0)

    def room(self) -> bool:
        """Whether one more request may be in flight; a half-open breaker lets through one at a time."""
        allowed = self.concurrency.allowed() if self.breaker.state == "closed" else 1
        return self.concurrency.in_flight < allowed

    async def freed(self, timeout_s: float) -> None:
        """Wait until a request ends, at most that long."""
        self._freed.clear()
        try:
            async with asyncio.timeout(timeout_s):
                await self._freed.wait()
        except TimeoutError:
            pass

    async def ask(self, texts: Sequence[str], tokens: int) -> Answer:
        """One request, with everything it teaches about limits and health booked.

        Raises `Fault`, or the `KbError` that ends the run.
        """
        import openai

        sent_at = time.monotonic()
        booked = self.limits.send(tokens, sent_at)
        self.concurrency.sent()
        self.used = True
        refused: Fault | None = None
        told: dict[str, str] = {}
        try:
            # the SDK's timeout is per read: a server that drips would never meet it
            async with asyncio.timeout(self._timeout_s):
                raw = await self._client.embeddings.with_raw_response.create(input=list(texts), **self._arguments)
            told = dict(raw.headers)
            answer = read_answer(raw.content, count=len(texts), dims=self._spec.dims, normalize=self._spec.normalize)
        except TimeoutError as error:
            fault = Fault(Kind.DOWN, f"{self.url} did not answer in {self._timeout_s:g} s", maybe_billed=True)
            self._lost(fault, sent_at)
            raise fault from error
        except SpoiltAnswer as error:
            fault = Fault(Kind.SPOILT, str(error), maybe_billed=True)
            self.breaker.failed(fault)
            raise fault from error
        except openai.OpenAIError as error:
            if isinstance(error, openai.APIStatusError):
                told = dict(error.response.headers)
            meaning = understand(error, key_env=self._where.key_env, model=self._spec.model, base_url=self.url)
            if isinstance(meaning, Fault):
                refused = meaning if meaning.kind is Kind.THROTTLED else None
                self._learn(meaning, sent_at, told)
            raise meaning from error
        finally:
            self.limits.answered(booked, time.monotonic(), told, taken=refused is None)
            if refused is not None:
                refused.too_large = tokens > self.limits.tokens.capacity
            self.concurrency.done()
            self._freed.set()
        self.breaker.succeeded()
        self.concurrency.grow()
        return answer

    def _learn(self, fault: Fault, sent_at: float, headers: dict[str, str]) -> None:
        if fault.kind is Kind.THROTTLED:
            now = time.monotonic()
            self.concurrency.shrink(sent_at=sent_at, now=now)
            if fault.retry_after_s is None:
                fault.retry_after_s = reset_hint_s(headers)
        elif fault.kind is Kind.DOWN:
            self._lost(fault, sent_at)
        else:
            self.breaker.succeeded()
        if fault.retry_after_s is not None:
            self.paused_until = max(self.paused_until, time.monotonic() + fault.retry_after_s)

    def _lost(self, fault: Fault, sent_at: float) -> None:
        self.breaker.failed(fault)
        self.concurrency.shrink(sent_at=sent_at, now=time.monotonic())
