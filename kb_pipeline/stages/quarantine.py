"""What keeps a document out: an id that cannot be stored, or a refusal that still holds."""

from __future__ import annotations

from collections import Counter

from kb_pipeline.stages.context import StageContext
from kb_pipeline.store.dead_letters import DeadLetter

LONGEST_ID = 1024
"""Bytes of a document id; a key of Postgres ends at 2,704."""


def tried_with(ctx: StageContext) -> str:
    """The chunker and embedder of the configuration; what one of them refused, another tries again."""
    from kb_pipeline.embed.registry import resolve_spec

    chunking = ctx.tenant.chunking
    return f"{chunking.max_tokens}:{chunking.overlap_tokens}:{resolve_spec(ctx.tenant.embedder).hash().hex()[:16]}"


class Quarantine:
    """The dead letters there are, and which of them still hold."""

    def __init__(self, letters: list[DeadLetter], tried: str) -> None:
        self.doc_ids = {letter.doc_id for letter in letters}
        self.reasons: Counter[str] = Counter()
        self._refused = {
            (letter.doc_id, letter.content_sha256): letter.reason
            for letter in letters
            if letter.stage == "embeddings" and letter.tried_with == tried and letter.retry_asked_at is None
        }

    def holds(self, doc_id: str, content_sha256: bytes) -> bool:
        """Whether the provider refused these bytes before, and nothing says to try again."""
        reason = self._refused.get((doc_id, content_sha256))
        if reason is None:
            return False
        self.reasons[reason] += 1
        return True


def bad_id(doc_id: str, *, longest: int | None = LONGEST_ID) -> str | None:
    """Why an id (or an address, without `longest`) cannot be stored; None when it can."""
    try:
        length = len(doc_id.encode())
    except UnicodeEncodeError:
        return "the id or address (the file's name) is not valid UTF-8: rename it"
    if not doc_id or "\x00" in doc_id:
        return "the id is empty or holds a NUL character"
    return f"the id is {length} bytes long; the most is {longest}" if longest and length > longest else None
