"""The lane of embedders that run in this process: no limits to keep, but the same promises."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np

from kb_pipeline.config.schema import EmbedderConfig
from kb_pipeline.embed.lane import (
    Admit,
    Finished,
    LaneReport,
    OnBatch,
    OnProgress,
    OnRefused,
    Pending,
    Progress,
    Refused,
)
from kb_pipeline.embed.packing import RequestSize, admissible, packed
from kb_pipeline.embed.protocol import Embedded, Embedder, Vectors
from kb_pipeline.errors import ConfigError, EmbedderError, ProviderUnavailable

log = logging.getLogger(__name__)

_SIZE = RequestSize(inputs=1024, tokens=300_000)
_ATTEMPTS = 5
_PROBE = "hello"


@dataclass(slots=True)
class _Done:
    """What became of one batch."""

    fingerprints: list[bytes] = field(default_factory=list[bytes])
    vectors: list[Vectors] = field(default_factory=list[Vectors])
    refused: list[Refused] = field(default_factory=list[Refused])
    tokens: int = 0
    requests: int = 0
    retries: int = 0


class InProcessLane:
    """One worker thread embeds the next batch while the caller commits the last one."""

    def __init__(self, config: EmbedderConfig, embedder: Embedder, *, max_input_tokens: int) -> None:
        self._embedder = embedder
        self._limit = max_input_tokens
        self._size = _SIZE.capped(RequestSize(config.max_batch_inputs, config.max_batch_tokens))
        self._answered = False
        self.sent_again_texts = 0

    def run(
        self,
        pending: Iterable[Pending],
        *,
        on_batch: OnBatch,
        on_refused: OnRefused,
        on_progress: OnProgress | None = None,
        admit: Admit | None = None,
    ) -> LaneReport:
        """See `Lane.run`. An exception with a true attribute `transient` is tried again with growing pauses."""
        started = time.perf_counter()
        now = Progress()

        def refuse(refused: Refused) -> None:
            nonlocal now
            now = replace(now, refused=now.refused + 1)
            on_refused(refused)

        def deliver(done: _Done) -> None:
            nonlocal now
            if done.fingerprints:
                vectors = done.vectors[0] if len(done.vectors) == 1 else np.concatenate(done.vectors)
                on_batch(Finished(done.fingerprints, vectors, done.tokens, done.requests, done.retries))
            for refused in done.refused:
                refuse(refused)
            now = replace(
                now,
                texts=now.texts + len(done.fingerprints),
                tokens=now.tokens + done.tokens,
                requests=now.requests + done.requests,
                retries=now.retries + done.retries,
                seconds=time.perf_counter() - started,
            )
            if on_progress is not None:
                on_progress(now)

        batches = self._batches(pending, refuse, admit)
        ended: Exception | None = None
        with ThreadPoolExecutor(1, thread_name_prefix="kb-embed") as worker:
            jobs: deque[Future[_Done]] = deque()
            while True:
                try:
                    batch = next(batches, None)
                except Exception as error:  # reading or admitting ended the run: what is embedded already is kept
                    batch, ended = None, error
                if batch is not None:
                    jobs.append(worker.submit(self._embed, batch))
                if len(jobs) > 1 or (batch is None and jobs):
                    deliver(jobs.popleft().result())
                elif batch is None:
                    break
                if ended is not None:
                    while jobs:
                        deliver(jobs.popleft().result())
                    raise ended
        return LaneReport(
            texts=now.texts,
            tokens=now.tokens,
            requests=now.requests,
            retries=now.retries,
            throttled=0,
            refused=now.refused,
            seconds=time.perf_counter() - started,
        )

    def _batches(self, pending: Iterable[Pending], refuse: OnRefused, admit: Admit | None) -> Iterator[list[Pending]]:
        model = self._embedder.spec.model
        fitting = admissible(pending, max_input_tokens=self._limit, prefix_tokens=0, model=model, refuse=refuse)
        for batch in packed(fitting, size=lambda: self._size):
            if admit is not None:
                admit(batch)
            yield batch

    def _embed(self, batch: Sequence[Pending]) -> _Done:
        done = _Done()
        waiting = [list(batch)]
        while waiting:
            some = waiting.pop()
            try:
                answer = self._ask([one.text for one in some], done)
            except (ConfigError, ProviderUnavailable):
                raise
            except Exception as error:
                if len(some) > 1:
                    middle = len(some) // 2
                    waiting += [some[middle:], some[:middle]]
                    continue
                self._require_sound(error, done)
                reason = "unusable-vector" if isinstance(error, EmbedderError) else "refused-by-provider"
                log.warning("text of %s refused: %s", some[0].doc_id, error)
                done.refused.append(Refused(some[0], reason, f"{type(error).__name__}: {error}"))
                continue
            self._answered = True
            done.fingerprints += [one.fingerprint for one in some]
            done.vectors.append(answer.vectors)
            done.tokens += answer.tokens
        return done

    def _ask(self, texts: list[str], done: _Done) -> Embedded:
        from tenacity import RetryCallState, RetryError, Retrying, retry_if_exception, stop_after_attempt
        from tenacity.wait import wait_random_exponential

        def count_retry(state: RetryCallState) -> None:
            done.retries += 1

        attempts = Retrying(
            retry=retry_if_exception(_transient),
            wait=wait_random_exponential(multiplier=0.5, max=30),
            stop=stop_after_attempt(_ATTEMPTS),
            before_sleep=count_retry,
        )
        try:
            for attempt in attempts:
                with attempt:
                    done.requests += 1
                    return self._embedder.embed_documents(texts)
        except RetryError as error:
            cause = error.last_attempt.exception()
            raise ProviderUnavailable(f"the embedder failed {_ATTEMPTS} times in a row: {cause}") from cause
        raise AssertionError("tenacity always tries at least once")

    def _require_sound(self, error: Exception, done: _Done) -> None:
        """Tell a bad text from a broken embedder: one that cannot embed a plain word either ends the run."""
        if self._answered:
            return
        try:
            self._ask([_PROBE], done)
        except Exception as probe:
            raise EmbedderError(f"the embedder cannot embed anything: {probe}") from error
        self._answered = True


def _transient(error: BaseException) -> bool:
    return bool(getattr(error, "transient", False)) or isinstance(error, (ConnectionError, TimeoutError))
