"""Questions when nobody wrote any: sentences sampled from the corpus, the same ones as long as it is the same."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

_ASIDE = re.compile(r"!?\[([^\]]*)\]\([^)]*\)|<[^>]{1,200}>|[`*_#|>]+")
"""Links keep their words; tags and Markdown's marks go."""
_END = re.compile(r"(?<=[.!?])\s+|\n\s*\n|\n(?=\s*[-*+\d#])")
_BULLET = re.compile(r"^(?:[-+]|\d+[.)])\s+")
_WORD = re.compile(r"\w+")
FEWEST, MOST = 4, 40
"""Words of a sentence that reads like a question to a search box."""


@dataclass(frozen=True, slots=True)
class SampledQuestion:
    """A sentence and where it stands."""

    fingerprint: bytes
    """The content it was taken from."""
    text: str


def probes(tenant_id: str, count: int) -> list[bytes]:
    """Points in the space of fingerprints, fixed by the tenant: eval runs of one corpus ask the same questions, and a
    corpus that changed a little is asked nearly the same, so that their figures can be compared."""
    return [hashlib.sha256(f"kb-eval:{tenant_id}:{number}".encode()).digest() for number in range(count)]


def sampled_questions(contents: Sequence[tuple[bytes, str]]) -> list[SampledQuestion]:
    """One sentence of each (fingerprint, body); a body without a word is left out, equal sentences are asked once."""
    chosen: dict[str, SampledQuestion] = {}
    for fingerprint, body in contents:
        text = sentence_of(body, seed=fingerprint)
        if text:
            chosen.setdefault(text, SampledQuestion(fingerprint, text))
    return list(chosen.values())


def sentence_of(body: str, *, seed: bytes) -> str:
    """A sentence of the body, by the seed one of those that read well; else its first words; "" when it has none."""
    plain = _ASIDE.sub(lambda match: match.group(1) or " ", body[:20_000])
    sentences = [_BULLET.sub("", " ".join(part.split())) for part in _END.split(plain)]
    good = [text for text in sentences if FEWEST <= len(_WORD.findall(text)) <= MOST and len(text) <= 400]
    if good:
        return good[int.from_bytes(seed[:8], "big") % len(good)]
    words = " ".join(plain.split())
    return " ".join(words[:400].split(" ")[:MOST]) if _WORD.search(words) else ""
