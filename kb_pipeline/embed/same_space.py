"""Whether another endpoint really serves the same model: its vectors for stored texts must be the stored ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kb_pipeline.embed.answers import Answer
from kb_pipeline.embed.protocol import Vectors

MIN_COSINE = 0.999
"""Embeddings are not bitwise reproducible, even at one provider; two models never come near this."""


def difference(stored: Sequence[Vectors], answer: Answer) -> str:
    """Why the answer is not of the same space; empty when it is."""
    if not answer.good.all():
        return answer.problem
    ours = np.stack(stored).astype(np.float64)
    theirs = answer.vectors.astype(np.float64)
    if ours.shape != theirs.shape:
        return f"vectors have {theirs.shape[1]} dimensions, the stored ones {ours.shape[1]}"
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    cosine = float(((ours * theirs).sum(axis=1) / lengths).min())
    if cosine < MIN_COSINE:
        return f"its vectors differ from the stored ones: cosine {cosine:.4f}, at least {MIN_COSINE} is needed"
    return ""
