"""PDF and office files to Markdown, through the `office` extra (markitdown)."""

from __future__ import annotations

import io
from pathlib import PurePosixPath

from kb_pipeline.errors import DocumentRefused
from kb_pipeline.sources.frontmatter import clean_text


def office_to_markdown(data: bytes, name: str) -> str:
    """The file's text as Markdown. Raises `DocumentRefused` when the extra is missing or the file is damaged."""
    try:
        from markitdown import MarkItDown, StreamInfo
    except ImportError as error:
        raise DocumentRefused("extra-missing", 'reading this format needs: pip install "kb-pipeline[office]"') from error
    extension = PurePosixPath(name).suffix.lower()
    try:
        result = MarkItDown().convert_stream(io.BytesIO(data), stream_info=StreamInfo(extension=extension))
    except Exception as error:  # whatever the parser of this format raises
        raise DocumentRefused("damaged", f"markitdown cannot read it: {type(error).__name__}: {error}") from error
    return clean_text(result.text_content)
