"""How large a request should be at present: the configuration, what the provider tells, and what it has taken."""

from __future__ import annotations

from collections.abc import Callable

from kb_pipeline.config.schema import EmbedderConfig
from kb_pipeline.embed.input_limit import InputLimit
from kb_pipeline.embed.packing import RequestSize

_RESPONSE_BYTES = 4 << 20
"""Vectors of one answer; what is in memory at once is a small multiple of it times the concurrency."""
_REQUEST_TOKENS = 65_536.0
_FIRST_TOKENS = 2_048.0
LEAST_TOKENS = 512.0
"""What limits are told in is not always a minute: a request is not made smaller for them."""
_FEWEST, _MOST = 4, 512
"""Answers after which a size that was cut grows again: at first, and after many cuts."""


class Sizing:
    """Answers of about 4 MiB and a few seconds' worth of the token limit keep memory flat, a loss small and the flow
    even. The first requests are small: their answers tell the limits.

    A provider that tells no limits, and answers 429 to what is more than its bucket holds, is found out by halving:
    the half that was taken is the size from then on. It doubles again after some answers, because a provider that
    was merely busy looks the same.
    """

    def __init__(
        self,
        config: EmbedderConfig,
        *,
        dims: int,
        known_inputs: int | None = None,
        on_inputs: Callable[[int | None], None] = lambda _: None,
    ) -> None:
        self._whole = RequestSize(
            min(config.max_batch_inputs, max(_RESPONSE_BYTES // (4 * dims), 16)), config.max_batch_tokens
        )
        self._cut = self._whole
        self.inputs = InputLimit(self._whole.inputs, known_inputs, on_inputs)
        self._good = 0
        self._needed = _FEWEST

    def present(self, *, first: bool, told_tokens: float) -> RequestSize:
        """The size now. `first`: nothing was answered yet; `told_tokens`: what the rate limits suggest."""
        tokens = min(_FIRST_TOKENS if first else _REQUEST_TOKENS, max(told_tokens, LEAST_TOKENS))
        return RequestSize(self.inputs.most, int(tokens)).capped(self._cut)

    def taken_in_part(self, tokens: int) -> None:
        """A request of so many tokens was answered, one of about twice as many was not at its time."""
        allowed = self._cut.tokens > 1.5 * tokens
        if allowed:
            self._needed = min(2 * self._needed, _MOST)
        if allowed or tokens > self._cut.tokens:
            self._cut = RequestSize(self._whole.inputs, min(max(tokens, 1), self._whole.tokens))
            self._good = 0

    def answered(self, texts: int) -> None:
        """Another request was answered, of so many texts."""
        self.inputs.answered(texts)
        self._good += 1
        if self._good >= self._needed and self._cut != self._whole:
            self._cut = RequestSize(self._whole.inputs, min(2 * self._cut.tokens, self._whole.tokens))
            self._good = 0
