"""PDF, Word, PowerPoint, Excel, EPUB and mail through the optional package markitdown."""

from __future__ import annotations

import io
from pathlib import PurePosixPath
from typing import Any

from kb_pipeline.errors import DocumentRefused
from kb_pipeline.sources.frontmatter import clean_text


def office_markdown(name: str, data: bytes) -> str:
    """The document's content as Markdown. Raises `DocumentRefused`: `extra-missing`, or `unreadable` with the cause."""
    if not data:
        return ""
    try:
        import markitdown  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise DocumentRefused(
            "extra-missing",
            f"{PurePosixPath(name).suffix} files need an extra: pip install 'kb-pipeline[office]' (or leave them out "
            "with an ignore rule)",
        ) from error
    try:
        package: Any = markitdown
        info = package.StreamInfo(extension=PurePosixPath(name).suffix.lower())
        converter = package.MarkItDown(enable_plugins=False)
        text = str(converter.convert_stream(io.BytesIO(data), stream_info=info).markdown)
    except Exception as error:  # its converters raise whatever their libraries raise
        raise DocumentRefused("unreadable", f"the file cannot be converted: {str(error).strip()[:300]}") from error
    return clean_text(text)
