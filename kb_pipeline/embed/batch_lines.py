"""The lines of a batch job: one request for each text, named by its fingerprint."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kb_pipeline.embed.answers import SpoiltAnswer, read_body
from kb_pipeline.embed.openai import request_arguments
from kb_pipeline.embed.protocol import EmbedderSpec, Vectors

MAX_INPUTS = 50_000
"""Embedding inputs of one job (https://platform.openai.com/docs/guides/batch)."""
MAX_BYTES = 190_000_000
"""Of the file of one job; the provider takes 200 MB."""
_ABANDONED = ("batch_expired", "batch_cancelled")


@dataclass(frozen=True, slots=True)
class Line:
    """What the provider says about one text."""

    fingerprint: bytes
    vector: Vectors | None = None
    tokens: int | None = None
    """Billed; None where the provider does not say."""
    refused: str = ""
    """Why there is no vector."""
    abandoned: bool = False
    """The job ended before the text's turn: nothing speaks against sending it again."""


def request_line(spec: EmbedderSpec, fingerprint: bytes, text: str) -> bytes:
    """One line of a job's input file, with its line end."""
    body = {**request_arguments(spec), "input": spec.document_prefix + text}
    line = {"custom_id": fingerprint.hex(), "method": "POST", "url": "/v1/embeddings", "body": body}
    return json.dumps(line, ensure_ascii=False).encode() + b"\n"


def read_lines(path: Path, spec: EmbedderSpec) -> Iterator[Line]:
    """The lines of a result or error file. A line that cannot be read counts as refused, unless it names no text."""
    with path.open("rb") as lines:
        for raw in lines:
            if raw.strip():
                line = _read(raw, spec)
                if line is not None:
                    yield line


def whole_lines(path: Path) -> int:
    """How many lines a result file has; -1 when the last one is no JSON, because the file was cut off on its way."""
    from pydantic_core import from_json

    last, count = b"{}", 0
    with path.open("rb") as lines:
        for raw in lines:
            if raw.strip():
                last, count = raw, count + 1
    try:
        from_json(last, cache_strings=False)
    except ValueError:
        return -1
    return count


def _read(raw: bytes, spec: EmbedderSpec) -> Line | None:
    from pydantic_core import from_json

    try:
        told: Any = from_json(raw, cache_strings=False)
        fingerprint = bytes.fromhex(told["custom_id"])
    except (ValueError, KeyError, TypeError):
        return None
    response: dict[str, Any] = told.get("response") or {}
    body: dict[str, Any] = response.get("body") or {}
    error: Any = told.get("error") or body.get("error")
    if error or response.get("status_code") != 200:
        said: dict[str, Any] = {"message": f"status {response.get('status_code')}"}
        said.update(error if isinstance(error, dict) else {"message": str(error)} if error else {})  # pyright: ignore[reportUnknownArgumentType]
        return Line(fingerprint, refused=str(said["message"]), abandoned=said.get("code") in _ABANDONED)
    try:
        answer = read_body(body, count=1, dims=spec.dims, normalize=spec.normalize)
    except SpoiltAnswer as spoilt:
        return Line(fingerprint, refused=str(spoilt))
    if not answer.good[0]:
        return Line(fingerprint, tokens=answer.tokens, refused=answer.problem)
    return Line(fingerprint, answer.vectors[0], answer.tokens)
