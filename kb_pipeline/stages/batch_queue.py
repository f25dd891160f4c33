"""How much the provider's queue of batch jobs takes, as far as its refusals tell.

A provider limits the tokens of all jobs that wait or run (OpenAI: by model and tier, 2,000,000 and more), tells the
limit only when it refuses a job, and refuses it minutes after it took it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kb_pipeline.embed.batch_api import queue_limit
from kb_pipeline.store.batches import NO_ROOM, Job, tokens_under_way, without_room

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.rows import TupleRow

_PART = 0.8
"""Of the queue that a job may fill: the provider's count of tokens and ours need not agree."""
_LEAST_TOKENS = 100_000
"""A job that finds no room though nothing of ours waits is not made smaller: somebody else fills the queue."""


class BatchQueue:
    """What the refusals of the last weeks say to a tenant's jobs."""

    def __init__(self, conn: Connection[TupleRow], tenant_id: str) -> None:
        self._conn = conn
        self._tenant_id = tenant_id

    def has_room(self, job: Job) -> bool:
        """Whether it takes the job beside ours that are under way. True where nothing tells: trying costs nothing."""
        under_way = tokens_under_way(self._conn, self._tenant_id, job.space, but=job.job_id)
        if not under_way:
            return True
        told = self._told(job.space)
        return job.provider_state != NO_ROOM if told is None else under_way + job.tokens <= told

    def most_tokens(self, space: bytes) -> int | None:
        """Tokens of a job that fits into the empty queue; None: nothing is known."""
        told = self._told(space)
        if told is not None:
            return int(told * _PART)
        refused = without_room(self._conn, self._tenant_id, space)
        return next((max(tokens // 2, _LEAST_TOKENS) for tokens, _, given_up in refused if given_up), None)

    def never_fits(self, job: Job, words: str) -> bool:
        """Whether a job that was refused with these words would be refused for ever: its texts need smaller ones."""
        told = queue_limit(words)
        if told is not None:
            most = told * _PART
        elif tokens_under_way(self._conn, self._tenant_id, job.space, but=job.job_id):
            return False
        else:
            most = _LEAST_TOKENS
        return job.tokens > most and job.texts > 1

    def _told(self, space: bytes) -> int | None:
        """Tokens that it holds, in the words of the newest refusal that says."""
        refused = without_room(self._conn, self._tenant_id, space)
        return next((limit for _, words, _ in refused if (limit := queue_limit(words)) is not None), None)
