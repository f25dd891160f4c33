"""Bytes to text: UTF-8, or what a byte order mark says; anything else is refused rather than guessed."""

from __future__ import annotations

import codecs
import re

from kb_pipeline.errors import DocumentRefused
from kb_pipeline.sources.frontmatter import clean_text

MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
STRAY_NULS = 16
"""NUL characters any text may hold; above that, one in a thousand."""
META_CHARSET = re.compile(rb"""<meta[^>]{0,200}?charset\s*=\s*["']?([A-Za-z0-9_:.-]{2,40})""", re.IGNORECASE)


def decode(data: bytes, *, html: bool = False) -> str:
    """The text without its byte order mark; NUL, unit separators and lone surrogates become U+FFFD, one for one.

    Raises `DocumentRefused`: `invalid-utf8` with the place, or `binary` for what holds too many NULs to be text. An
    HTML page may name another encoding in a `meta` element.
    """
    encoding = "utf-8"
    for mark, name in MARKS:
        if data.startswith(mark):
            data, encoding = data[len(mark) :], name
            break
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        named = META_CHARSET.search(data, 0, 4096) if html else None
        other = _decoded(data, named[1].decode()) if named else None
        if other is None:
            raise _refused(data, encoding, error) from error
        text = other
    nuls = text.count("\0")
    if nuls > max(STRAY_NULS, len(text) // 1000):
        raise DocumentRefused("binary", f"{nuls} of {len(text)} characters are NUL: this is not text")
    return clean_text(text)


def _decoded(data: bytes, encoding: str) -> str | None:
    try:
        return data.decode(encoding)
    except (LookupError, ValueError):
        return None


def _refused(data: bytes, encoding: str, error: UnicodeDecodeError) -> DocumentRefused:
    if data.count(b"\0") > max(STRAY_NULS, len(data) // 1000) and encoding == "utf-8":
        return DocumentRefused("binary", "the file is not text (NUL bytes, and not valid UTF-8)")
    line = data.count(b"\n", 0, error.start) + 1
    return DocumentRefused(
        "invalid-utf8" if encoding == "utf-8" else f"invalid-{encoding}",
        f"byte 0x{data[error.start]:02x} at offset {error.start} (line {line}) is not valid {encoding}: "
        "convert the file to UTF-8",
    )
