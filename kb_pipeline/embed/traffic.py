"""The asynchronous half of the sync lane: batches out, vectors in, bad texts looked for and set aside."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kb_pipeline.config.schema import EmbedderConfig
from kb_pipeline.embed.answers import Answer
from kb_pipeline.embed.asking import SPOILT_ATTEMPTS, Asking, Bill
from kb_pipeline.embed.endpoint import Endpoint
from kb_pipeline.embed.faults import Fault, Kind
from kb_pipeline.embed.lane import Finished, LaneReport, Pending, Refused
from kb_pipeline.embed.openai import Access
from kb_pipeline.embed.packing import RequestSize
from kb_pipeline.embed.protocol import EmbedderSpec, Vectors
from kb_pipeline.embed.pump import BreakerChanged, Pump, Want
from kb_pipeline.embed.stopping import Stopped, Stopping
from kb_pipeline.embed.tally import Tally
from kb_pipeline.embed.turns import Turns
from kb_pipeline.errors import ConfigError, EmbedderError

log = logging.getLogger(__name__)

_RESPONSE_BYTES = 4 << 20
"""Vectors of one answer; what is in memory at once is a small multiple of it times the concurrency."""
_REQUEST_TOKENS = 65_536.0
_FIRST_TOKENS = 2_048.0
_TICK_S = 1.0
_PROBE = "hello"


@dataclass(slots=True)
class _Piece:
    """Texts that go in one request, and what happened to them so far."""

    batch: list[Pending]
    spoilt: int = 0
    """Answers in which all of these texts were unusable."""


class Traffic:
    """One run. Made in the caller's thread, lives in the loop's."""

    def __init__(
        self,
        config: EmbedderConfig,
        spec: EmbedderSpec,
        where: Access,
        pump: Pump,
        *,
        samples: Sequence[tuple[str, Vectors]],
    ) -> None:
        self._config = config
        self._spec = spec
        self._where = where
        self._pump = pump
        self._samples = [(spec.document_prefix + text, vector) for text, vector in samples]
        self._size_cap = RequestSize(config.max_batch_inputs, config.max_batch_tokens)
        self._committed: deque[asyncio.Future[None]] = deque()
        self._jobs: set[asyncio.Task[None]] = set()
        self._turns: Turns | None = None
        self.tally = Tally()
        self.prefix_tokens = _prefix_tokens(config, spec)

    def size(self) -> RequestSize:
        """How large a request should be at present. From any thread.

        Answers of about 4 MiB and a few seconds' worth of the token limit keep memory flat, a loss small and the flow
        even. The first requests are small: their answers tell the limits.
        """
        inputs = max(_RESPONSE_BYTES // (4 * self._spec.dims), 16)
        tokens = _FIRST_TOKENS if self.tally.answered == 0 else _REQUEST_TOKENS
        if self._turns is not None:
            tokens = min(tokens, max(self._turns.current.limits.request_tokens(), 512.0))
        return RequestSize(inputs, int(tokens)).capped(self._size_cap)

    async def run(self) -> None:
        """Ask for batches and deal with them until there are no more. Raises what ended the run early."""
        self._stopping = Stopping()
        urls = dict.fromkeys((self._where.base_url, *self._config.endpoints))
        endpoints = [self._endpoint(url) for url in urls]
        turns = Turns(endpoints, self._stopping, max_wait_s=self._config.max_wait_s, samples=self._samples)
        self._asking = Asking(turns, self._stopping, self.tally)
        self._turns = turns
        background = [asyncio.create_task(self._tick(turns)), asyncio.create_task(self._take_commits())]
        try:
            await self._read(turns)
            while self._jobs:
                await asyncio.wait(self._jobs)
        finally:
            for task in (*background, *self._jobs):
                task.cancel()
            for endpoint in endpoints:
                await endpoint.close()
        if self._stopping.error is not None:
            raise self._stopping.error

    def report(self) -> LaneReport:
        """What the run did, after it."""
        if self._turns is None:
            raise RuntimeError("the run has not started")
        return self.tally.report(self._turns)

    def _endpoint(self, url: str) -> Endpoint:
        def changed(name: str, state: str) -> None:
            self.tally.breaker_opened += state == "open"
            self._pump.tell(BreakerChanged(name, state))

        where = Access(base_url=url, key=self._where.key, key_env=self._where.key_env)
        return Endpoint(self._config, self._spec, where, on_breaker=changed)

    async def _tick(self, turns: Turns) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            self._pump.tell(self.tally.progress(turns))

    async def _take_commits(self) -> None:
        while True:
            await self._pump.committed.get()
            self._committed.popleft().set_result(None)

    async def _read(self, turns: Turns) -> None:
        while not self._stopping.stopped:
            room = max(one.concurrency.allowed() for one in turns.endpoints) + 1
            if len(self._jobs) >= room:
                await asyncio.wait(self._jobs, return_when=asyncio.FIRST_COMPLETED)
                continue
            self._pump.tell(Want())
            batch = await self._pump.batches.get()
            if batch is None:
                return
            job = asyncio.create_task(self._job(batch, turns))
            self._jobs.add(job)
            job.add_done_callback(self._jobs.discard)

    async def _job(self, batch: list[Pending], turns: Turns) -> None:
        pieces = [_Piece(batch)]
        bill = Bill()
        try:
            while pieces:
                pieces += await self._deal_with(pieces.pop(), bill, turns)
        except Stopped:
            pass
        except Exception as error:
            self._stopping.stop(error)

    async def _deal_with(self, piece: _Piece, bill: Bill, turns: Turns) -> list[_Piece]:
        """One piece through; what is left of it comes back as smaller pieces."""
        batch = piece.batch
        try:
            answer = await self._answer([one.text for one in batch], _tokens(batch), bill)
        except Fault as fault:
            if fault.kind is Kind.THROTTLED:
                self._size_cap = self._size_cap.capped(RequestSize(len(batch), max(_tokens(batch) // 2, 1)))
            if len(batch) > 1:
                log.info("a request of %d texts failed (%s): halved", len(batch), fault)
                middle = len(batch) // 2
                return [_Piece(batch[middle:]), _Piece(batch[:middle])]
            await self._refuse(batch, _reason(fault), str(fault), bill)
            return []
        bill.tokens += answer.tokens if answer.tokens is not None else _tokens(batch)
        good = np.flatnonzero(answer.good)
        if good.size == len(batch):
            await self._deliver(batch, answer.vectors, bill, turns)
            return []
        if good.size:
            await self._deliver([batch[row] for row in good], answer.vectors[good], bill, turns)
        rest = [one for one, fine in zip(batch, answer.good, strict=True) if not fine]
        log.warning("%d of %d vectors are unusable: %s", len(rest), len(batch), answer.problem)
        self.tally.count_again(len(rest), _tokens(rest))
        return await self._unusable(_Piece(rest, 1 if good.size else piece.spoilt + 1), answer.problem, bill, turns)

    async def _unusable(self, piece: _Piece, problem: str, bill: Bill, turns: Turns) -> list[_Piece]:
        """Texts whose vectors came unusable: again, with pauses; then find out whether it is them or the provider."""
        if piece.spoilt >= SPOILT_ATTEMPTS:
            if self.tally.texts == 0 or turns.out_of_patience() or piece.spoilt > 2 * SPOILT_ATTEMPTS:
                raise EmbedderError(
                    f"{turns.current.url}, model {self._spec.model}: {problem}; check embedder.dims and the server"
                )
            if (await self._answer([_PROBE], 1, bill)).good.all():
                await self._refuse(piece.batch, "unusable-vector", problem, bill)
                return []
        if piece.spoilt > 1:
            await self._stopping.sleep(0.25 * 2**piece.spoilt)
        self._asking.count_retry(bill)
        return [piece]

    async def _answer(self, texts: Sequence[str], tokens: int, bill: Bill) -> Answer:
        prefix = self._spec.document_prefix
        with_prefix = [prefix + text for text in texts] if prefix else list(texts)
        return await self._asking.answer(with_prefix, tokens + self.prefix_tokens * len(texts), bill)

    async def _refuse(self, batch: Sequence[Pending], reason: str, detail: str, bill: Bill) -> None:
        if self.tally.answered == 0:
            try:
                await self._answer([_PROBE], 1, bill)
            except Fault as fault:
                raise ConfigError(
                    f"{self._where.base_url}, model {self._spec.model}, refuses every text: {fault}"
                ) from fault
        for one in batch:
            log.warning("text of %s (chunk %d) refused: %s", one.doc_id, one.ordinal, detail)
            self.tally.refused += 1
            await self._told(Refused(one, reason, detail))

    async def _deliver(self, batch: Sequence[Pending], vectors: Vectors, bill: Bill, turns: Turns) -> None:
        turns.remember(self._spec.document_prefix + batch[0].text, vectors[0])
        finished = Finished([one.fingerprint for one in batch], vectors, bill.tokens, bill.requests, bill.retries)
        self.tally.texts += len(batch)
        self.tally.tokens += bill.tokens
        bill.requests = bill.retries = bill.tokens = 0
        await self._told(finished)
        self._pump.tell(self.tally.progress(turns))

    async def _told(self, event: Finished | Refused) -> None:
        """Hand a result over and wait until it is committed."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._committed.append(done)
        self._pump.tell(event)
        await done


def _tokens(batch: Sequence[Pending]) -> int:
    return sum(one.tokens for one in batch)


def _prefix_tokens(config: EmbedderConfig, spec: EmbedderSpec) -> int:
    if not spec.document_prefix:
        return 0
    from kb_pipeline.chunking.tokens import make_counter

    return make_counter(config).count([spec.document_prefix])[0]


def _reason(fault: Fault) -> str:
    if fault.kind is Kind.SPOILT:
        return "unusable-vector"
    words = fault.message.lower()
    return "too-long" if "maximum context length" in words or "too many tokens" in words else "refused-by-provider"
