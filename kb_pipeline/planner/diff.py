"""What changed between the index and the source: pure functions over documents and chunks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from kb_pipeline.errors import MassDeletionRefused

DocumentKind = Literal["new", "changed", "metadata_only", "rechunked"]
"""Why a document is chunked (again); `rechunked`: the source is the same, the chunker's settings are not."""

FEW = 2
"""Up to this many vanished documents are never a mass deletion, unless the source lists nothing at all."""


@dataclass(frozen=True, slots=True)
class Indexed:
    """A document as the index has it."""

    content_sha256: bytes
    text_sha256: bytes | None
    """Of the text after its front matter; None for a row written before that was kept."""
    state_key: bytes
    """Digest of where it is and the state it was listed with."""
    chunker: str


@dataclass(frozen=True, slots=True)
class Seen:
    """A document as the source has it, read now."""

    content_sha256: bytes
    text_sha256: bytes
    chunker: str
    same_metadata: bool = True
    """Metadata and address are those of the index; only asked where the bytes are the same."""


def classify(indexed: Indexed | None, seen: Seen) -> DocumentKind | None:
    """Why this document must be chunked; None when nothing is to be done (also for a touched but equal file)."""
    if indexed is None:
        return "new"
    if indexed.content_sha256 != seen.content_sha256:
        return "metadata_only" if indexed.text_sha256 == seen.text_sha256 else "changed"
    if not same_chunker(indexed.chunker, seen.chunker):
        return "rechunked"
    return None if seen.same_metadata else "metadata_only"


def same_chunker(stored: str, wanted: str) -> bool:
    """Whether a document chunked with `stored` may stay: all but the name of the token counter is the same.

    Ids are `version:counter:settings...`. The counter follows the embedder; if it counted here, changing the model
    would cut every document anew, and a migration back-fills from the stored texts instead.
    """
    return _without_counter(stored) == _without_counter(wanted)


def _without_counter(chunker: str) -> tuple[str, ...]:
    version, _, rest = chunker.partition(":")
    return (version, *rest.rsplit(":", 2)[-2:])


def pair_renames(new: Iterable[tuple[str, bytes]], vanished: Mapping[str, bytes]) -> dict[str, str]:
    """Vanished document -> new document with the same bytes, one to one; in the order of ids, so always the same
    pairs.
    """
    by_sha: dict[bytes, list[str]] = {}
    for doc_id in sorted(vanished, reverse=True):
        by_sha.setdefault(vanished[doc_id], []).append(doc_id)
    pairs: dict[str, str] = {}
    for doc_id, sha in sorted(new):
        if waiting := by_sha.get(sha):
            pairs[waiting.pop()] = doc_id
    return pairs


def guard_mass_deletion(*, indexed: int, listed: int, vanished: int, max_fraction: float, flag: str) -> None:
    """Nothing when so many deletions are plausible. Raises `MassDeletionRefused` with the numbers and the flag.

    `vanished` counts documents that are gone and not renamed; `listed` everything the source shows, refused items too.
    """
    if max_fraction >= 1 or vanished == 0:
        return
    if (listed == 0) or (vanished > FEW and vanished > max_fraction * indexed):
        raise MassDeletionRefused(
            f"the source lists {listed:,} documents and {vanished:,} of the {indexed:,} indexed ones are gone, "
            "more than "
            f"max_delete_fraction = {max_fraction:g} allows; nothing was changed. If the source is right, say {flag}"
        )


@dataclass(frozen=True, slots=True)
class ChunkDiff:
    """One document's chunks against those it had."""

    new: int
    """Chunks whose text the tenant has never had."""
    reused: int
    """Chunks whose text is known: nothing is embedded for them."""
    moved: int
    """Of the reused: at another place (document or ordinal) than before."""
    removed: int
    """Places of the old document whose text is not in the new one (as often)."""


def diff_chunks(old: Sequence[bytes], new: Sequence[bytes], known: Collection[bytes]) -> ChunkDiff:
    """Compare fingerprints in source order; `known` are those of `new` that the tenant has a content for."""
    fresh = sum(1 for fingerprint in new if fingerprint not in known)
    stayed = sum(1 for before, after in zip(old, new, strict=False) if before == after and after in known)
    removed = (Counter(old) - Counter(new)).total()
    return ChunkDiff(fresh, len(new) - fresh, len(new) - fresh - stayed, removed)
