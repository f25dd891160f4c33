"""Carries texts to what makes their vectors: the bank and other tenants first, then the sync or the batch lane."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING

from kb_pipeline.embed.lane import Finished, Lane, LaneReport, Pending, Refused
from kb_pipeline.embed.lane import Progress as LaneProgress
from kb_pipeline.embed.lanes import lane_for
from kb_pipeline.embed.models import IN_PROCESS
from kb_pipeline.embed.packing import admissible
from kb_pipeline.embed.registry import make_embedder, make_lane, max_input_tokens, resolve_spec
from kb_pipeline.errors import KbError
from kb_pipeline.stages.batch_lane import BatchLane
from kb_pipeline.stages.context import StageContext, TaskHandle
from kb_pipeline.stages.flight import Flight
from kb_pipeline.stages.purse import Purse
from kb_pipeline.stages.supply import Supply
from kb_pipeline.stages.wanted import Space, embedder_config
from kb_pipeline.store.bank import space_key
from kb_pipeline.store.batches import drop_items
from kb_pipeline.store.breakers import close_breakers, put_breaker
from kb_pipeline.store.contents import sample_vectors
from kb_pipeline.store.endpoint_limits import endpoint_limits, put_endpoint_limit
from kb_pipeline.store.in_flight import lost

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.rows import TupleRow


@dataclass(slots=True)
class Carried:
    """What was done, over all streams of a run."""

    texts: int = 0
    """Embedded."""
    reused: int = 0
    """Given a vector of the bank (imported, collected from batch jobs) or of another tenant."""
    waiting: int = 0
    """With a batch job."""
    seconds: float = 0.0
    throttled: int = 0
    paid_again: int = 0
    """Sent again although they may have been billed: answers lost or spoilt, and what was on its way at a crash."""
    breaker: str = "closed"
    breaker_opened: int = 0
    peak_concurrency: int = 0
    endpoints: dict[str, str] = field(default_factory=dict[str, str])

    def add(self, report: LaneReport) -> None:
        """Add one run of the sync lane."""
        self.throttled += report.throttled
        self.paid_again += report.sent_again_texts
        self.breaker = report.breaker
        self.breaker_opened += report.breaker_opened
        self.peak_concurrency = max(self.peak_concurrency, report.peak_concurrency)
        self.endpoints.update(report.endpoints)


class Carrier:
    """The lanes of one run."""

    def __init__(self, ctx: StageContext, conn: Connection[TupleRow], purse: Purse) -> None:
        self._ctx = ctx
        self._conn = conn
        self._purse = purse
        self.batches = BatchLane(ctx, conn)
        with conn.transaction():
            again = lost(conn, ctx.tenant_id)
            if again:
                purse.sent_again(resolve_spec(ctx.tenant.embedder).model, again)
        self.done = Carried(paid_again=again)

    def carry(
        self,
        space: Space,
        texts: Iterator[Pending],
        *,
        keep: Callable[[Finished], None],
        refuse: Callable[[Refused], None],
        skip: Callable[[Sequence[bytes]], None],
        name: str,
        total: int | None,
    ) -> None:
        """Each text goes to `keep` with its vector, to `refuse`, or to `skip` when a batch job has it."""
        lane = lane_for(embedder_config(self._ctx.tenant.embedder, space.spec), total or 0)
        supply = Supply(self._ctx, self._conn, space, submits=lane == "batch")

        def found(batch: Finished) -> None:
            self.done.reused += len(batch.fingerprints)
            keep(batch)

        texts = supply.rest(texts, keep=found, skip=skip)
        first = next(texts, None)
        try:
            if first is None:
                return
            texts = chain([first], texts)
            if lane == "batch":
                texts = self._submit(space, texts, supply, refuse, skip)
            self._sync(space, texts, supply, keep, refuse, name, total)
        finally:
            self.done.waiting += supply.waiting

    def _submit(
        self,
        space: Space,
        texts: Iterator[Pending],
        supply: Supply,
        refuse: Callable[[Refused], None],
        skip: Callable[[Sequence[bytes]], None],
    ) -> Iterator[Pending]:
        """Submit the texts; those that a job refused before come back, for the sync lane."""
        config = embedder_config(self._ctx.tenant.embedder, space.spec)
        back: list[Pending] = []

        def fresh() -> Iterator[Pending]:
            for one in texts:
                if one.fingerprint in supply.refused:
                    back.append(one)
                else:
                    yield one

        def sent(fingerprints: Sequence[bytes]) -> None:
            supply.waiting += len(fingerprints)
            skip(fingerprints)

        limit = max_input_tokens(config, space.spec)
        fitting = admissible(fresh(), max_input_tokens=limit, prefix_tokens=0, model=space.spec.model, refuse=refuse)
        self.batches.submit(
            space, fitting, admit=lambda job: self._purse.admit(space.spec, job, lane="batch"), sent=sent
        )
        return iter(back)

    def _sync(
        self,
        space: Space,
        texts: Iterator[Pending],
        supply: Supply,
        keep: Callable[[Finished], None],
        refuse: Callable[[Refused], None],
        name: str,
        total: int | None,
    ) -> None:
        first = next(texts, None)
        if first is None:
            return
        ctx, conn, tenant_id = self._ctx, self._conn, self._ctx.tenant_id
        config = embedder_config(ctx.tenant.embedder, space.spec)
        leader = space.versions[0].version
        lane = make_lane(
            config,
            make_embedder(config),
            samples=lambda: sample_vectors(conn, tenant_id, leader),
            on_breaker=lambda endpoint, state: put_breaker(conn, tenant_id, ctx.run_id, endpoint, state),
            known_inputs=endpoint_limits(conn, tenant_id, space.spec.model),
            on_inputs=lambda endpoint, most: put_endpoint_limit(conn, tenant_id, space.spec.model, endpoint, most),
        )
        flight = None if space.spec.provider in IN_PROCESS else Flight(conn, tenant_id, ctx.run_id, leader)
        task = ctx.progress.task(f"{name} ({space.spec.model})", total, "texts")
        started = time.perf_counter()

        def dealt_with(fingerprints: Sequence[bytes]) -> None:
            if flight is not None:
                flight.arrived(fingerprints)
            if not supply.refused.isdisjoint(fingerprints):
                drop_items(conn, tenant_id, space_key(space.spec), fingerprints)

        def finished(batch: Finished) -> None:
            keep(batch)
            dealt_with(batch.fingerprints)
            self.done.texts += len(batch.fingerprints)
            task.advance(len(batch.fingerprints))

        def refused(one: Refused) -> None:
            refuse(one)
            dealt_with([one.pending.fingerprint])

        def admit(batch: Sequence[Pending]) -> None:
            self._purse.admit(space.spec, batch)
            if flight is not None:
                flight.send([one.fingerprint for one in batch])

        try:
            report = lane.run(
                chain([first], texts),
                on_batch=finished,
                on_refused=refused,
                on_progress=lambda now: _show(task, now, self._purse),
                admit=admit,
            )
            self.done.add(report)
            if report.breaker == "closed":
                close_breakers(conn, tenant_id, ctx.run_id)
        except KbError:  # the lane has waited for every request under way: none is lost as in a crash
            self._landed(space, lane, flight)
            raise
        finally:
            self.done.seconds += time.perf_counter() - started
            task.done()
        self._landed(space, lane, flight)

    def _landed(self, space: Space, lane: Lane, flight: Flight | None) -> None:
        self._purse.sent_again(space.spec.model, lane.sent_again_texts)
        if flight is not None:
            flight.landed()


def _show(task: TaskHandle, now: LaneProgress, purse: Purse) -> None:
    facts: dict[str, object] = {"tokens": now.tokens}
    if purse.spent_usd:
        facts["usd"] = f"{purse.spent_usd:.4f}"
    if now.retries:
        facts["retries"] = now.retries
    if now.concurrency > 1:
        facts["at_once"] = now.concurrency
    if now.breaker != "closed":
        facts["breaker"] = now.breaker
    if now.waiting:
        facts["waiting"] = now.waiting
    task.advance(0, **facts)
