"""The asynchronous half of the sync lane: batches out, vectors in, bad texts looked for and set aside."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Sequence

import numpy as np

from kb_pipeline.config.schema import EmbedderConfig
from kb_pipeline.embed.answers import Answer
from kb_pipeline.embed.asking import SPOILT_ATTEMPTS, Asking, Bill
from kb_pipeline.embed.endpoint import Endpoint
from kb_pipeline.embed.faults import Fault, Kind
from kb_pipeline.embed.lane import Finished, LaneReport, Pending, Refused
from kb_pipeline.embed.openai import Access
from kb_pipeline.embed.packing import RequestSize
from kb_pipeline.embed.pieces import Piece, tokens_of
from kb_pipeline.embed.protocol import EmbedderSpec, Vectors
from kb_pipeline.embed.pump import BreakerChanged, InputsLearned, Pump, Want
from kb_pipeline.embed.sizing import LEAST_TOKENS, Sizing
from kb_pipeline.embed.stopping import Stopped, Stopping
from kb_pipeline.embed.tally import Tally
from kb_pipeline.embed.turns import Turns
from kb_pipeline.errors import ConfigError, EmbedderError

log = logging.getLogger(__name__)

_TICK_S = 1.0
_PROBE = "hello"
_DOUBTS = 2
"""How often a text that fails while a plain word is answered gets another chance."""
_SOUND_WAIT_S = 120.0
"""How long a provider that has worked may give unusable answers."""


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
        known_inputs: int | None = None,
    ) -> None:
        self._config = config
        self._spec = spec
        self._where = where
        self._pump = pump
        self._samples = [(spec.document_prefix + text, vector) for text, vector in samples]
        self._sizing = Sizing(
            config,
            dims=spec.dims,
            known_inputs=known_inputs,
            on_inputs=lambda most: pump.tell(InputsLearned(where.base_url, most)),
        )
        self._committed: deque[asyncio.Future[None]] = deque()
        self._jobs: set[asyncio.Task[None]] = set()
        self._turns: Turns | None = None
        self.tally = Tally()
        self.prefix_tokens = _prefix_tokens(config, spec)

    def size(self) -> RequestSize:
        """How large a request should be at present. From any thread."""
        told = math.inf if self._turns is None else self._turns.current.limits.request_tokens()
        return self._sizing.present(first=self.tally.answered == 0, told_tokens=told)

    async def run(self) -> None:
        """Ask for batches and deal with them until there are no more. Raises what ended the run early."""
        self._stopping = Stopping()
        urls = dict.fromkeys((self._where.base_url, *self._config.endpoints))
        endpoints = [self._endpoint(url) for url in urls]
        turns = Turns(
            endpoints,
            self._stopping,
            max_wait_s=self._config.max_wait_s,
            first_answer_wait_s=self._config.first_answer_wait_s,
            samples=self._samples,
        )
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
        pieces = [Piece(batch)]
        bill = Bill()
        try:
            while pieces:
                pieces += await self._deal_with(pieces.pop(), bill, turns)
        except Stopped:
            pass
        except Exception as error:
            self._stopping.stop(error)

    async def _deal_with(self, piece: Piece, bill: Bill, turns: Turns) -> list[Piece]:
        """One piece through; what is left of it comes back as smaller pieces."""
        batch = piece.batch
        if len(batch) > 1 and tokens_of(batch) > max(turns.current.limits.tokens.capacity, LEAST_TOKENS):
            return piece.halves(Kind.THROTTLED)  # the bucket's size became known since the request was made up
        if len(batch) > self._sizing.inputs.most:
            return piece.cut(self._sizing.inputs.most)
        try:
            suspect = piece.part_of is Kind.DOWN
            answer = await self._answer([one.text for one in batch], tokens_of(batch), bill, suspect=suspect)
        except Fault as fault:
            return await self._failed(piece, fault, bill, turns)
        if piece.part_of is Kind.THROTTLED:
            self._sizing.taken_in_part(tokens_of(batch))
        if piece.halved is not None:
            piece.halved.answered(self._sizing.inputs)
            piece.halved = None
        self._sizing.answered(len(batch))
        bill.tokens += answer.tokens if answer.tokens is not None else tokens_of(batch)
        good = np.flatnonzero(answer.good)
        if good.size == len(batch):
            await self._deliver(batch, answer.vectors, bill, turns)
            return []
        if good.size:
            await self._deliver([batch[row] for row in good], answer.vectors[good], bill, turns)
        rest = [one for one, fine in zip(batch, answer.good, strict=True) if not fine]
        log.warning("%d of %d vectors are unusable: %s", len(rest), len(batch), answer.problem)
        self.tally.count_again(len(rest), tokens_of(rest))
        left = Piece(rest, 1 if good.size else piece.spoilt + 1, piece.doubts if len(rest) == len(batch) else 0)
        return await self._unusable(left, answer.problem, bill, turns)

    async def _failed(self, piece: Piece, fault: Fault, bill: Bill, turns: Turns) -> list[Piece]:
        """A request that was refused, or failed until trying on was no use."""
        if fault.kind is Kind.SPOILT or (fault.kind is Kind.DOWN and len(piece.batch) == 1):
            # is it the texts, or does the provider spoil everything at present?
            await self._require_sound(bill, turns)
            piece.doubts += 1
            if piece.doubts <= (_DOUBTS if len(piece.batch) == 1 else 1):
                return [piece]
        if len(piece.batch) > 1:
            log.info("a request of %d texts failed (%s): halved", len(piece.batch), fault)
            return piece.halves_after(fault)
        await self._refuse(piece.batch, _reason(fault), str(fault), bill, turns)
        return []

    async def _unusable(self, piece: Piece, problem: str, bill: Bill, turns: Turns) -> list[Piece]:
        """Texts whose vectors came unusable: again, with pauses; then find out whether it is them or the provider."""
        if piece.spoilt >= SPOILT_ATTEMPTS:
            if self.tally.texts == 0 and (worse := (await self._plain_word(bill))[0]):
                raise EmbedderError(
                    f"{turns.current.url}, model {self._spec.model}: {worse}; check embedder.dims and the server"
                )
            await self._require_sound(bill, turns)
            piece.doubts += 1
            if len(piece.batch) > 1:
                return piece.halves(Kind.SPOILT)
            if piece.doubts > _DOUBTS:
                await self._refuse(piece.batch, "unusable-vector", problem, bill, turns)
                return []
        elif piece.spoilt > 1:
            await self._stopping.sleep(self._asking.pause_s * 2 ** (piece.spoilt - 1))
        self._asking.count_retry(bill)
        return [piece]

    async def _require_sound(self, bill: Bill, turns: Turns) -> None:
        """Wait until the provider gives a usable vector of a plain word.

        Raises `ProviderUnavailable` when it gives none for too long: what failed before is not its texts' fault.
        """
        limit_s = min(_SOUND_WAIT_S, turns.patience_s)
        give_up = time.monotonic() + limit_s
        pause_s = self._asking.pause_s
        while True:
            problem, kind = await self._plain_word(bill)
            if not problem:
                return
            if kind is Kind.DOWN:  # an outage has a limit of its own
                give_up = time.monotonic() + limit_s
            if time.monotonic() > give_up:
                raise turns.unavailable(
                    f"{turns.current.url}, model {self._spec.model}, gives no usable answer: {problem}"
                )
            await self._stopping.sleep(pause_s)
            pause_s = min(2 * pause_s, 8.0)

    async def _plain_word(self, bill: Bill) -> tuple[str, Kind | None]:
        """What is wrong with the provider's answer to a plain word, empty when nothing is, and how it failed."""
        try:
            answer = await self._answer([_PROBE], 1, bill)
        except Fault as fault:
            return ("" if fault.kind is Kind.CONTENT else str(fault)), fault.kind
        return answer.problem if not answer.good.all() else "", None

    async def _answer(self, texts: Sequence[str], tokens: int, bill: Bill, *, suspect: bool = False) -> Answer:
        prefix = self._spec.document_prefix
        with_prefix = [prefix + text for text in texts] if prefix else list(texts)
        every = tokens + self.prefix_tokens * len(texts)
        return await self._asking.answer(with_prefix, every, bill, suspect=suspect)

    async def _refuse(self, batch: Sequence[Pending], reason: str, detail: str, bill: Bill, turns: Turns) -> None:
        if self.tally.answered == 0:
            try:
                await self._answer([_PROBE], 1, bill)
            except Fault as fault:
                who = f"{self._where.base_url}, model {self._spec.model}"
                if fault.kind is not Kind.CONTENT:
                    raise turns.unavailable(f"{who}, gives no usable answer: {fault}") from fault
                raise ConfigError(f"{who}, refuses every text: {fault}") from fault
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
