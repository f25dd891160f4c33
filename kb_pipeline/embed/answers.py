"""Reads an embeddings response: base64 or lists of floats, mapped by index, every row judged on its own."""

from __future__ import annotations

from base64 import b64decode
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kb_pipeline.embed.check import unit, usable
from kb_pipeline.embed.protocol import Vectors


class SpoiltAnswer(Exception):
    """The response as a whole cannot be read."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a response holds for the texts that were sent."""

    vectors: Vectors
    """`(n, dims) float32`; rows that are not good hold zeros."""
    good: npt.NDArray[np.bool_]
    """Which texts have a usable vector."""
    tokens: int | None
    """Billed by the provider; None where it does not say."""
    problem: str
    """What is wrong with the first row that is not good; empty when all are."""


def read_answer(content: bytes, *, count: int, dims: int, normalize: bool) -> Answer:
    """Vectors of `count` texts out of a response body.

    Raises `SpoiltAnswer` when the body is not JSON (cut off) or not an embeddings response. A row that is missing,
    doubled, of another length, not finite or zero is not good; the others are kept, because they are paid for. Where an
    index lies outside of what was sent, none is good: nothing says which text the others are of.
    """
    from pydantic_core import from_json

    try:
        body: Any = from_json(content, cache_strings=False)
    except ValueError as error:
        raise SpoiltAnswer(f"the answer is cut off: {_first_line(error)}") from error
    return read_body(body, count=count, dims=dims, normalize=normalize)


def read_body(body: Any, *, count: int, dims: int, normalize: bool) -> Answer:
    """The same, of a body that is parsed already."""
    try:
        items: list[Any] = body["data"]
        rows = [(item.get("index", place), item["embedding"]) for place, item in enumerate(items)]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SpoiltAnswer(f"the answer is not an embeddings response: {_first_line(error)}") from error
    vectors = np.zeros((count, dims), np.float32)
    seen = np.zeros(count, np.bool_)
    doubtful: set[int] = set()
    astray = False
    problem = ""
    for index, embedding in rows:
        try:
            row = _row(embedding)
        except (ValueError, TypeError, OverflowError) as error:
            problem = problem or f"a vector cannot be read: {_first_line(error)}"
            continue
        if not isinstance(index, int) or not 0 <= index < count:
            problem = problem or f"index {index!r} was not asked for"
            astray = True
        elif seen[index]:
            problem = problem or f"index {index} came twice"
            doubtful.add(index)
        elif row.shape != (dims,):
            problem = problem or f"a vector has {row.size} dimensions instead of {dims}"
        else:
            vectors[index] = row
            seen[index] = True
    seen[list(doubtful)] = False
    if astray:  # a server that counts from one would give every text its neighbour's vector
        seen[:] = False
    if not seen.all():
        problem = problem or f"{int((~seen).sum())} of {count} vectors are missing"
    good = seen & usable(vectors)
    if not problem and not good.all():
        problem = "a vector is zero or not finite"
    if not good.all():
        vectors[~good] = 0
    if normalize:
        vectors[good] = unit(vectors[good]) if not good.all() else unit(vectors)
    return Answer(vectors, good, _tokens(body), problem)


def _row(embedding: Any) -> Vectors:
    if isinstance(embedding, str):
        return np.frombuffer(b64decode(embedding, validate=True), dtype="<f4")
    return np.asarray(embedding, dtype=np.float32)


def _tokens(body: Any) -> int | None:
    usage = body.get("usage")
    if isinstance(usage, dict):
        for name in ("total_tokens", "prompt_tokens"):
            told: Any = usage.get(name)  # pyright: ignore[reportUnknownMemberType,reportUnknownVariableType]
            if isinstance(told, int) and told > 0:
                return told
    return None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
