"""Bytes of a file to the text that all offsets refer to."""

from __future__ import annotations

import codecs

from kb_pipeline.errors import DocumentRefused
from kb_pipeline.sources.frontmatter import clean_text

BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
"""UTF-32 before UTF-16: the shorter mark is the beginning of the longer one."""

MOST_NULS = 0.001
"""Share of NUL bytes above which a file is taken for binary."""


def decode(data: bytes) -> str:
    """The text without its byte order mark. NUL, unit separator and lone surrogates become U+FFFD, one for one.

    Raises `DocumentRefused` for bytes that are not text: `invalid-utf8`, `invalid-utf16`, `binary`.
    """
    mark, encoding = next(((mark, name) for mark, name in BOMS if data.startswith(mark)), (b"", "utf-8"))
    data = data[len(mark) :]
    if encoding == "utf-8" and data.count(0) > MOST_NULS * len(data):
        raise DocumentRefused("binary", f"{data.count(0)} of {len(data)} bytes are NUL: this is not a text file")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        reason = f"invalid-{encoding[:6].replace('-', '')}"
        wrong = data[error.start : error.start + 4].hex(" ")
        raise DocumentRefused(
            reason, f"byte {error.start + len(mark)} ({wrong}) is not {encoding.upper()}: save the file as UTF-8"
        ) from error
    return text if text.isascii() and "\x00" not in text and "\x1f" not in text else clean_text(text)
