"""The batch lane: jobs at the provider's Batch API, at half price. Nothing waits for them; each run takes what is done.

Every step is written down before the next one, and what a killed run did at the provider is found there by the job's
key, so no step is done twice. Results go to the vector bank, where the run finds them like imported ones.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import numpy as np

from kb_pipeline.embed.batch_api import ENDED, BatchApi, JobState, NotThere
from kb_pipeline.embed.batch_lines import MAX_BYTES, MAX_INPUTS, Line, read_lines, request_line
from kb_pipeline.embed.lane import Pending
from kb_pipeline.embed.protocol import EmbedderSpec
from kb_pipeline.errors import BatchesPending, ProviderUnavailable
from kb_pipeline.stages.batch_queue import BatchQueue
from kb_pipeline.stages.context import StageContext
from kb_pipeline.stages.wanted import Space, embedder_config, usd
from kb_pipeline.store import batches
from kb_pipeline.store.bank import forget_unused, put_vectors, space_key
from kb_pipeline.store.batches import Item, Job
from kb_pipeline.store.spend import add_spend

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.rows import TupleRow

log = logging.getLogger(__name__)

_LINES = 200
_INSISTS = timedelta(days=3)


class BatchLane:
    """The tenant's batch jobs, of whatever embedder."""

    def __init__(self, ctx: StageContext, conn: Connection[TupleRow]) -> None:
        self._ctx = ctx
        self._conn = conn
        self._queue = BatchQueue(conn, ctx.tenant_id)
        self._apis: dict[bytes, BatchApi] = {}
        """By space."""

    def settle(self) -> None:
        """Bring every open job as far as it goes: finish what a killed run began, poll, collect.

        Raises `ProviderUnavailable` when the provider cannot be asked, or has refused a whole job.
        """
        forget_unused(self._conn, self._ctx.tenant_id)
        failed: list[str] = []
        with self._connections():
            for job in batches.open_jobs(self._conn, self._ctx.tenant_id):
                try:
                    failed += self._advance(job)
                except NotThere as lost:
                    # nobody knows of the job any more (results are kept for a while only): it must not stop all runs
                    batches.close_job(self._conn, self._ctx.tenant_id, job.job_id, "failed", detail=str(lost))
                    failed.append(f"batch job {job.job_id} is lost: {lost}")
        if failed:
            raise ProviderUnavailable(f"{'; '.join(failed)}. The next run sends the texts without a vector again")

    def submit(
        self,
        space: Space,
        texts: Iterable[Pending],
        *,
        admit: Callable[[Sequence[Pending]], None],
        sent: Callable[[Sequence[bytes]], None],
    ) -> None:
        """Texts to the provider, in jobs as large as it takes. `admit` may raise before a job is written down."""
        stream = iter(texts)
        while (first := next(stream, None)) is not None:
            with tempfile.NamedTemporaryFile(prefix="kb-batch-", suffix=".jsonl") as file, self._connections():
                most_tokens = self._queue.most_tokens(space_key(space.spec))
                job, first_of_next = _write(file, space.spec, first, stream, most_tokens=most_tokens)
                admit(job)
                self._start(space, job, Path(file.name))
                sent([one.fingerprint for one in job])
            if first_of_next is not None:
                stream = chain([first_of_next], stream)

    def require_done(self) -> None:
        """Raise `BatchesPending` with the numbers when texts are at the provider."""
        jobs = batches.open_jobs(self._conn, self._ctx.tenant_id)
        if jobs:
            texts = sum(job.texts for job in jobs)
            queued = sum(job.provider_state == batches.NO_ROOM for job in jobs)
            waits = f", {queued} of them until there is room in its queue" if queued else ""
            raise BatchesPending(
                f"{texts:,} texts in {len(jobs)} batch jobs are at the provider{waits} (`kb batches` shows them); "
                "documents that are complete are committed, the others keep their old form until a later run collects "
                "the jobs"
            )

    def _start(self, space: Space, job: Sequence[Pending], file: Path) -> None:
        tokens = sum(one.tokens for one in job)
        batches.plan_job(
            self._conn,
            self._ctx.tenant_id,
            self._ctx.run_id,
            key=uuid4().hex,
            space=space_key(space.spec),
            spec=space.spec,
            items=[Item(one.fingerprint, one.tokens) for one in job],
            usd=usd(self._ctx.tenant.embedder, space.spec, tokens, lane="batch"),
        )
        planned = batches.open_jobs(self._conn, self._ctx.tenant_id)[-1]
        file_id = self._api(planned).upload(file, planned.key, since=planned.created_at.timestamp())
        self._uploaded(planned, file_id, fresh=True)

    def _uploaded(self, job: Job, file_id: str, *, fresh: bool = False) -> None:
        tenant_id = self._ctx.tenant_id
        batches.update_job(self._conn, tenant_id, job.job_id, state="uploaded", file_id=file_id)
        if not self._queue.has_room(job):
            batches.update_job(self._conn, tenant_id, job.job_id, provider_state=batches.NO_ROOM)
            return
        state = self._api(job).submit(file_id, job.key, since=job.created_at.timestamp(), fresh=fresh)
        if state.no_room:
            self._wait_for_room(job, state.detail)
        else:
            self._submitted(job, state.batch_id, state.status)

    def _submitted(self, job: Job, batch_id: str, status: str) -> None:
        batches.update_job(
            self._conn, self._ctx.tenant_id, job.job_id, state="submitted", batch_id=batch_id, provider_state=status
        )
        log.info("batch job %d: %d texts submitted as %s", job.job_id, job.texts, batch_id)

    def _wait_for_room(self, job: Job, words: str) -> None:
        """Keep the job for a later run, which finds room for it or gives it up."""
        log.warning("batch job %d: no room at the provider: %s", job.job_id, words)
        waits = {"state": "uploaded", "batch_id": None, "provider_state": batches.NO_ROOM, "detail": words}
        batches.update_job(self._conn, self._ctx.tenant_id, job.job_id, **waits)

    def _given_up(self, job: Job, words: str) -> bool:
        """Give up a job that found no room when it is larger than the queue (its texts go into smaller ones), or when
        `lane` is "sync" by now; whether it was. `words` of the provider, empty when it was not asked yet.
        """
        sync = self._ctx.tenant.embedder.lane == "sync"
        if not sync and not (words and self._queue.never_fits(job, words)):
            return False
        if self._api(job).find_job(job.key, since=job.created_at.timestamp()) is not None:
            return False  # a run that was killed found room for it
        batches.close_job(
            self._conn, self._ctx.tenant_id, job.job_id, "failed", detail=words or 'given up: embedder.lane = "sync"'
        )
        self._api(job).forget([job.file_id])
        return True

    def _advance(self, job: Job) -> list[str]:
        """One step for an open job, or several; a sentence when the provider refused it as a whole."""
        if job.state == "planned":
            file_id = self._api(job).find_file(job.key, since=job.created_at.timestamp())
            if file_id is None:  # nothing of it reached the provider: its texts are planned anew
                batches.forget_job(self._conn, self._ctx.tenant_id, job.job_id)
            else:
                self._uploaded(job, file_id)
        elif job.state == "uploaded":
            if job.provider_state != batches.NO_ROOM or not self._given_up(job, job.detail):
                self._uploaded(job, str(job.file_id))
        elif job.state == "ended":
            self._collect(job, self._api(job).poll(str(job.batch_id)))
        else:
            now = self._api(job).poll(str(job.batch_id))
            if now.no_room:
                self._wait_for_room(job, now.detail)
                self._given_up(job, now.detail)
                return []
            ended = now.status in ENDED
            batches.update_job(
                self._conn,
                self._ctx.tenant_id,
                job.job_id,
                state="ended" if ended else "submitted",
                provider_state=now.status,
                output_file_id=now.output_file_id,
                error_file_id=now.error_file_id,
                detail=now.detail,
            )
            if now.status == "failed":
                batches.close_job(self._conn, self._ctx.tenant_id, job.job_id, "failed", detail=now.detail)
                why = now.detail or "no reason given"
                return [f"the provider refused batch job {job.job_id} ({now.batch_id}): {why}"]
            if ended:
                self._collect(job, now)
        return []

    def _collect(self, job: Job, state: JobState) -> None:
        api = self._api(job)
        for file_id, count in ((state.output_file_id, state.completed), (state.error_file_id, 0)):
            if file_id is None:
                continue
            with tempfile.TemporaryDirectory(prefix="kb-batch-") as folder:
                path = Path(folder) / "result.jsonl"
                # a file that stays cut off for days is taken as it is: what it lacks is sent again
                insists = datetime.now(UTC) - job.created_at < _INSISTS
                api.download(file_id, path, lines=count, whole=insists)
                lines = read_lines(path, job.spec)
                while group := list(islice(lines, _LINES)):
                    self._keep(job, group)
        batches.close_job(self._conn, self._ctx.tenant_id, job.job_id, "collected")
        api.forget([job.file_id, state.output_file_id, state.error_file_id])

    def _keep(self, job: Job, lines: Sequence[Line]) -> None:
        """Some results and what they cost, in one transaction; those that are kept already are passed over."""
        by_text = {line.fingerprint: line for line in lines if not line.abandoned}
        tenant_id, spec = self._ctx.tenant_id, job.spec
        with self._conn.transaction():
            waiting = batches.waiting_items(self._conn, tenant_id, job.job_id, list(by_text))
            got = [one for one in waiting if by_text[one].vector is not None]
            refused = [one for one in waiting if by_text[one].vector is None]
            billed = [(by_text[one].tokens, waiting[one][0]) for one in waiting if one in got or by_text[one].tokens]
            kept = [one for one in got if not waiting[one][1]]
            if kept:
                vectors = np.stack([np.asarray(by_text[one].vector, np.float32) for one in kept])
                put_vectors(self._conn, tenant_id, job.space, "batch", kept, vectors)
            tokens = sum(counted if told is None else told for told, counted in billed)
            if billed:
                add_spend(
                    self._conn,
                    tenant_id,
                    job.run_id,
                    model=spec.model,
                    lane="batch",
                    texts=len(got),
                    tokens=tokens,
                    usd=usd(self._ctx.tenant.embedder, spec, tokens, lane="batch"),
                    requests=len(waiting),
                )
            batches.settle_items(self._conn, tenant_id, job.job_id, got=got, refused=refused)

    def _api(self, job: Job) -> BatchApi:
        if job.space not in self._apis:
            config = embedder_config(self._ctx.tenant.embedder, job.spec)
            self._apis[job.space] = BatchApi(config, job.spec.model)
        return self._apis[job.space]

    @contextmanager
    def _connections(self) -> Generator[None]:
        """Close at the end what was opened meanwhile."""
        try:
            yield
        finally:
            for api in self._apis.values():
                api.close()


def _write(
    file: tempfile._TemporaryFileWrapper[bytes],  # pyright: ignore[reportPrivateUsage]
    spec: EmbedderSpec,
    first: Pending,
    rest: Iterator[Pending],
    *,
    most_tokens: int | None,
) -> tuple[list[Pending], Pending | None]:
    """One job's input file: its texts, and the one that did not fit any more."""
    job: list[Pending] = []
    size = tokens = 0
    # chain, not a generator: one that is left half-way would close `rest`
    for one in chain([first], rest):
        line = request_line(spec, one.fingerprint, one.text)
        too_many = most_tokens is not None and tokens + one.tokens > most_tokens
        if job and (too_many or len(job) >= MAX_INPUTS or size + len(line) > MAX_BYTES):
            file.flush()
            return job, one
        file.write(line)
        size, tokens = size + len(line), tokens + one.tokens
        job.append(Pending(one.fingerprint, "", one.tokens, one.doc_id, one.ordinal))
    file.flush()
    return job, None
