"""What a lane is: the way texts take to a provider and vectors come back, with everything that can go wrong on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from kb_pipeline.embed.protocol import Vectors


@dataclass(frozen=True, slots=True)
class Pending:
    """One content that needs a vector."""

    fingerprint: bytes
    text: str
    """The embedded text (context, blank line, body), without the provider's prefix."""
    tokens: int
    """Of `text` in the model's tokenizer."""
    doc_id: str
    """A document that holds it, for the dead letter should it be refused."""
    ordinal: int


@dataclass(frozen=True, slots=True)
class Finished:
    """Vectors that arrived together; commit them at once."""

    fingerprints: list[bytes]
    vectors: Vectors
    """`(n, dims) float32`, checked and normalised, in the order of `fingerprints`."""
    tokens: int
    """Billed for these texts (counted by us where the provider does not say)."""
    requests: int
    """Requests that led to these vectors, failed ones included."""
    retries: int


@dataclass(frozen=True, slots=True)
class Refused:
    """A text that cannot be embedded; it belongs in the dead letters."""

    pending: Pending
    reason: str
    """Short stable code: `too-long`, `refused-by-provider`, `unusable-vector`."""
    detail: str
    """One sentence, with the provider's words or the limit."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run of the lane stands."""

    texts: int = 0
    """With a vector."""
    tokens: int = 0
    """Billed."""
    seconds: float = 0.0
    requests: int = 0
    retries: int = 0
    throttled: int = 0
    """Requests answered 429."""
    refused: int = 0
    in_flight: int = 0
    """Requests on their way."""
    concurrency: int = 1
    """Requests allowed at once, at present."""
    breaker: str = "closed"
    """closed, open or half-open."""
    endpoint: str = ""
    waiting: str = ""
    """Why nothing moves at present; empty when it does."""

    @property
    def texts_per_second(self) -> float:
        """Mean rate since the start."""
        return self.texts / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True, slots=True)
class LaneReport:
    """What a run of the lane did."""

    texts: int
    tokens: int
    requests: int
    retries: int
    throttled: int
    refused: int
    seconds: float
    sent_again_texts: int = 0
    """Texts sent again after a request that may have been billed (answer lost or spoilt)."""
    sent_again_tokens: int = 0
    breaker: str = "closed"
    breaker_opened: int = 0
    """How often the breaker opened."""
    peak_concurrency: int = 1
    endpoints: dict[str, str] = field(default_factory=dict[str, str])
    """Each endpoint and what became of it: `used`, `standby`, or `refused: why`."""


OnBatch = Callable[[Finished], None]
OnRefused = Callable[[Refused], None]
OnProgress = Callable[[Progress], None]
Admit = Callable[[Sequence[Pending]], None]
"""Called with the texts of a request before it is sent; may raise (`BudgetExceeded`) to end the run between batches."""


class Lane(Protocol):
    """Carries texts to an embedder. `pending` is read, and every callback made, in the thread that called `run`."""

    sent_again_texts: int
    """What the report of the last run says of it, also where that run raised and gave no report."""

    def run(
        self,
        pending: Iterable[Pending],
        *,
        on_batch: OnBatch,
        on_refused: OnRefused,
        on_progress: OnProgress | None = None,
        admit: Admit | None = None,
    ) -> LaneReport:
        """Embeds all of `pending`: each text is handed to one of `on_batch` and `on_refused`, or the run raises.

        Memory is bounded however long `pending` is: it is read as fast as batches are committed. An exception of a
        callback ends the run: requests in flight are given up when `on_batch` or `on_refused` fails, and are waited
        for and delivered when `admit` or `pending` does.

        Raises `ProviderUnavailable` when the provider cannot serve for longer than the configuration waits,
        `ConfigError` for a key or model it does not take, `EmbedderError` for unusable vectors. What was delivered
        before stays.
        """
        ...
