"""The sync lane: texts to an HTTP provider and vectors back, as fast as it allows and whatever it answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

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
from kb_pipeline.embed.openai import access
from kb_pipeline.embed.packing import RequestSize, admissible, packed
from kb_pipeline.embed.protocol import EmbedderSpec, Vectors
from kb_pipeline.embed.pump import BreakerChanged, Ended, Event, InputsLearned, Pump, Want

Samples = Callable[[], Sequence[tuple[str, Vectors]]]


class SyncLane:
    """See `Lane`. Packs batches and calls back in the caller's thread; `Traffic` talks to the provider in another."""

    def __init__(
        self,
        config: EmbedderConfig,
        spec: EmbedderSpec,
        *,
        max_input_tokens: int,
        samples: Samples | None = None,
        on_breaker: Callable[[str, str], None] | None = None,
        known_inputs: Mapping[str, int] | None = None,
        on_inputs: Callable[[str, int | None], None] | None = None,
    ) -> None:
        self._config = config
        self._spec = spec
        self._limit = max_input_tokens
        self._samples = samples
        self._on_breaker = on_breaker
        self._known_inputs = known_inputs or {}
        self._on_inputs = on_inputs
        self._access = access(config)
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
        """See `Lane.run`."""
        from kb_pipeline.embed.traffic import Traffic

        pump = Pump()
        traffic = Traffic(
            self._config,
            self._spec,
            self._access,
            pump,
            samples=self._stored_samples(),
            known_inputs=self._known_inputs.get(self._access.base_url),
        )
        too_long: list[Refused] = []
        batches = self._batches(pending, traffic.size, too_long.append, traffic.prefix_tokens)
        ended: Exception | None = None

        def next_batch() -> list[Pending] | None:
            nonlocal ended
            try:
                batch = next(batches, None)
                if batch is not None and admit is not None:
                    admit(batch)
            except Exception as error:  # reading or admitting ended the run: what is in flight is still delivered
                ended, batch = error, None
            for refused in too_long:
                traffic.tally.refused += 1
                on_refused(refused)
            too_long.clear()
            return batch

        def deal_with(event: Event) -> None:
            match event:
                case Want():
                    pump.feed(next_batch())
                case Finished():
                    on_batch(event)
                    pump.commit()
                case Refused():
                    on_refused(event)
                    pump.commit()
                case Progress():
                    if on_progress is not None:
                        on_progress(event)
                case BreakerChanged():
                    if self._on_breaker is not None:
                        self._on_breaker(event.endpoint, event.state)
                case InputsLearned():
                    if self._on_inputs is not None:
                        self._on_inputs(event.endpoint, event.most)
                case Ended():
                    if event.error is not None:
                        raise event.error

        pump.start(traffic.run)
        try:
            for event in pump.events():
                deal_with(event)
        finally:
            pump.cancel()
            self.sent_again_texts = traffic.tally.sent_again_texts
        if ended is not None:
            raise ended
        return traffic.report()

    def _stored_samples(self) -> list[tuple[str, Vectors]]:
        if not self._config.endpoints or self._samples is None:
            return []
        return list(self._samples())

    def _batches(
        self,
        pending: Iterable[Pending],
        size: Callable[[], RequestSize],
        refuse: Callable[[Refused], None],
        prefix_tokens: int,
    ) -> Iterator[list[Pending]]:
        fitting = admissible(
            pending,
            max_input_tokens=self._limit,
            prefix_tokens=prefix_tokens,
            model=self._spec.model,
            refuse=refuse,
        )
        return packed(fitting, size=size, prefix_tokens=prefix_tokens)
