"""The provider's Batch API: files up, jobs on, results down. What was done before a crash is found again by its key."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from kb_pipeline.config.schema import EmbedderConfig
from kb_pipeline.embed.batch_lines import whole_lines
from kb_pipeline.embed.faults import Fault, Kind, of_transport, understand
from kb_pipeline.embed.openai import access
from kb_pipeline.errors import EmbedderError, ProviderUnavailable

if TYPE_CHECKING:
    import openai

log = logging.getLogger(__name__)
T = TypeVar("T")

KEY_FIELD = "kb_job"
ENDED = ("completed", "failed", "expired", "cancelled")
"""States in which the provider does nothing more for a job."""
_ATTEMPTS = 5
_CLOCKS_DIFFER_S = 6 * 3600.0


@dataclass(frozen=True, slots=True)
class JobState:
    """A job as the provider tells of it."""

    batch_id: str
    status: str
    output_file_id: str | None
    error_file_id: str | None
    detail: str
    """Why it failed; empty when it did not."""
    completed: int
    """Texts with a result, as far as the provider tells: lines of its output file."""
    no_room: bool = False
    """It failed because too much waits in the provider's queue: nothing speaks against submitting it again later."""


class NotThere(EmbedderError):
    """The provider knows nothing of a file or a job, or has no Batch API."""


class BatchApi:
    """One model's jobs at one provider. Retries a few times, then raises `ProviderUnavailable`. To be closed."""

    def __init__(self, config: EmbedderConfig, model: str) -> None:
        self._config = config
        self._model = model
        self._access = access(config)

    @cached_property
    def _client(self) -> openai.OpenAI:
        import openai

        return openai.OpenAI(
            api_key=self._access.key,
            base_url=self._access.base_url,
            max_retries=0,
            timeout=max(self._config.request_timeout_s, 60.0),
        )

    def close(self) -> None:
        """Close its connections; a further call opens new ones."""
        client = self.__dict__.pop("_client", None)
        if client is not None:
            client.close()

    def find_file(self, key: str, *, since: float) -> str | None:
        """Id of the uploaded file of this key, if there is one; `since`: Unix time before which nobody uploaded it."""

        def look() -> str | None:
            return _first(
                self._client.files.list(purpose="batch", order="desc"), since, lambda one: one.filename == _name(key)
            )

        return self._call(look)

    def upload(self, path: Path, key: str, *, since: float) -> str:
        """Upload the requests of a new job; the file's id. A file whose answer was lost is found, not sent again."""

        def send() -> str:
            with path.open("rb") as lines:
                return self._client.files.create(file=(_name(key), lines), purpose="batch").id

        return self._call(send, known=lambda: self.find_file(key, since=since), fresh=True)

    def find_job(self, key: str, *, since: float) -> JobState | None:
        """The job of this key, if the provider has one that found room in its queue."""

        def wanted(job: Any) -> bool:
            return bool(job.metadata) and job.metadata.get(KEY_FIELD) == key and not _state(job).no_room

        def look() -> str | None:
            return _first(self._client.batches.list(limit=100), since, wanted)

        found = self._call(look)
        return self.poll(found) if found else None

    def submit(self, file_id: str, key: str, *, since: float, fresh: bool) -> JobState:
        """Start the job, unless the provider has it already: looked up before every attempt, so none is paid twice.

        `fresh`: nobody can have started it yet, so the first attempt needs no look.
        """

        def start() -> JobState:
            import openai

            try:
                job = self._client.batches.create(
                    input_file_id=file_id,
                    endpoint="/v1/embeddings",
                    completion_window="24h",
                    metadata={KEY_FIELD: key},
                )
            except openai.RateLimitError as error:  # how gateways say it
                if not _is_no_room(error.code, error.message):
                    raise
                return JobState("", "failed", None, None, error.message, 0, no_room=True)
            return _state(job)

        return self._call(start, known=lambda: self.find_job(key, since=since), fresh=fresh)

    def poll(self, batch_id: str) -> JobState:
        """How the job stands."""
        return self._call(lambda: _state(self._client.batches.retrieve(batch_id)))

    def download(self, file_id: str, path: Path, *, lines: int = 0, whole: bool = True) -> None:
        """Write a result file to `path`, as it streams in. `whole`: one that is cut off, or has fewer than so many
        `lines`, is asked for again.
        """

        def fetch() -> None:
            with self._client.files.with_streaming_response.content(file_id) as answer:
                answer.stream_to_file(path)
            if whole and whole_lines(path) < lines:
                raise Fault(Kind.SPOILT, f"the result file {file_id} is cut off")

        self._call(fetch)

    def forget(self, file_ids: Iterable[str | None]) -> None:
        """Delete files at the provider. One that cannot be deleted stays: that costs nothing."""
        for file_id in file_ids:
            if file_id is not None:
                try:
                    self._call(lambda file_id=file_id: self._client.files.delete(file_id))
                except (EmbedderError, ProviderUnavailable) as error:
                    log.warning("file %s stays at the provider: %s", file_id, error)

    def _call(self, action: Callable[[], T], *, known: Callable[[], T | None] | None = None, fresh: bool = False) -> T:
        """Do it, again where that helps. `known` is asked before each attempt (`fresh`: each further one); what it
        finds is the answer.
        """
        from tenacity import Retrying, retry_if_exception, stop_after_attempt
        from tenacity.wait import wait_random_exponential

        def again(error: BaseException) -> bool:
            if not isinstance(error, Fault) or error.kind is Kind.CONTENT:
                return False
            return (error.retry_after_s or 0.0) <= min(30.0, self._config.max_wait_s)

        look = not fresh

        def attempt() -> T:
            nonlocal look
            found = known() if known is not None and look else None
            look = True
            return found if found is not None else self._once(action)

        retrying = Retrying(
            retry=retry_if_exception(again),
            wait=wait_random_exponential(multiplier=0.25, max=8),
            stop=stop_after_attempt(_ATTEMPTS),
            reraise=True,
        )
        try:
            return retrying(attempt)
        except Fault as fault:
            if fault.kind is Kind.CONTENT:
                raise EmbedderError(f"{self._access.base_url} refused a batch job's request: {fault}") from fault
            raise ProviderUnavailable(
                f"{self._access.base_url}: the Batch API cannot serve now: {fault}. What was done is kept: "
                "run again later"
            ) from fault

    def _once(self, action: Callable[[], T]) -> T:
        import openai

        where = self._access
        try:
            return action()
        except openai.NotFoundError as error:
            raise NotThere(
                f"{where.base_url} has no Batch API, or lost what it was asked for ({error.message}): "
                'set embedder.lane = "sync" for a server without one'
            ) from error
        except openai.OpenAIError as error:
            raise understand(error, key_env=where.key_env, model=self._model, base_url=where.base_url) from error
        except Exception as error:
            if not of_transport(error):  # a connection that breaks while a file streams in
                raise
            raise Fault(Kind.DOWN, f"{where.base_url}: {type(error).__name__}: {error}") from error


def _name(key: str) -> str:
    return f"kb-{key}.jsonl"


def _first(items: Iterable[Any], since: float, wanted: Callable[[Any], Any]) -> str | None:
    """Id of the first item wanted; the provider lists the newest first, so older ones need not be looked through."""
    for item in items:
        if wanted(item):
            return item.id
        if item.created_at < since - _CLOCKS_DIFFER_S:
            return None
    return None


def _state(job: Any) -> JobState:
    errors: Sequence[Any] = (job.errors.data or []) if job.errors else []
    detail = "; ".join(str(error.message) for error in errors[:3])
    completed = job.request_counts.completed if job.request_counts else 0
    no_room = job.status == "failed" and any(_is_no_room(error.code, error.message) for error in errors)
    return JobState(job.id, job.status, job.output_file_id, job.error_file_id, detail, completed, no_room)


def _is_no_room(code: str | None, message: str | None) -> bool:
    """Whether the limit of what may wait in the queue is the reason (https://github.com/openai/openai-python/issues/2084;
    Azure and gateways say it in other words).
    """
    return code == "token_limit_exceeded" or "enqueued" in (message or "").lower()


def queue_limit(words: str) -> int | None:
    """Tokens that may wait in the provider's queue, from its refusal ("Limit: 2,000,000 enqueued tokens", "limit of
    30K"); None where it does not say.
    """
    said = re.search(r"limit(?::| of)? +(\d+(?:,\d+)*+)([km]?)\b(?! enqueued requests)", words, re.IGNORECASE)
    if said is None:
        return None
    return int(said[1].replace(",", "")) * {"k": 1_000, "m": 1_000_000}.get(said[2].lower(), 1) or None
