"""Texts into requests: as many as the provider's limits and the present target allow, in the order they come."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from kb_pipeline.embed.lane import Pending, Refused


@dataclass(frozen=True, slots=True)
class RequestSize:
    """Largest request that may be made."""

    inputs: int
    tokens: int

    def capped(self, other: RequestSize) -> RequestSize:
        """The smaller of both, dimension by dimension."""
        return RequestSize(min(self.inputs, other.inputs), min(self.tokens, other.tokens))


def admissible(
    pending: Iterable[Pending],
    *,
    max_input_tokens: int,
    prefix_tokens: int,
    model: str,
    refuse: Callable[[Refused], None],
) -> Iterator[Pending]:
    """The texts the model can take; longer ones are refused here, before they are paid for, with the limit named."""
    for one in pending:
        tokens = one.tokens + prefix_tokens
        if tokens <= max_input_tokens:
            yield one
        else:
            refuse(Refused(one, "too-long", f"{tokens} tokens; {model} takes at most {max_input_tokens} a text"))


def packed(
    pending: Iterable[Pending], *, size: Callable[[], RequestSize], prefix_tokens: int = 0
) -> Iterator[list[Pending]]:
    """Lists of texts that fit one request. `size` is asked anew for each, so that it can follow what the provider says.

    A text larger than the size alone makes a request of its own.
    """
    batch: list[Pending] = []
    tokens = 0
    limit = size()
    for one in pending:
        cost = one.tokens + prefix_tokens
        if batch and (len(batch) >= limit.inputs or tokens + cost > limit.tokens):
            yield batch
            batch, tokens, limit = [], 0, size()
        batch.append(one)
        tokens += cost
    if batch:
        yield batch
