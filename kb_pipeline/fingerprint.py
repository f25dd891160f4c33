"""The identity of a content: SHA-256 over what is embedded, before any provider prefix."""

from __future__ import annotations

import hashlib

SEPARATOR = b"\x1f"
"""ASCII unit separator: stands in neither a heading path nor a body, because control characters are normalised."""


def fingerprint(context: str, body: str) -> bytes:
    """SHA-256 of `context || 0x1F || body` in UTF-8 (32 bytes)."""
    return hashlib.sha256(context.encode() + SEPARATOR + body.encode()).digest()


def embedded_text(context: str, body: str) -> str:
    """What a document embedder is given: the context, a blank line, the body; the body alone without a context."""
    return f"{context}\n\n{body}" if context else body
