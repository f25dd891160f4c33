"""Exact ground truth against the machine's BLAS peak: operations a second of `exact_top_k` and of one large product.

`python -m evals.bench.ground_truth [--rows N] [--questions N] [--dims N ...]`: vectors in memory in blocks as the
reader gives them; 2 x rows x questions x dims operations are counted, the search for the best k is not.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import TYPE_CHECKING

from evals.bench.common import header, ratio, table

if TYPE_CHECKING:
    from kb_pipeline.embed.protocol import Vectors

K = 100
ROUNDS = 5


def main() -> None:
    """Measure both at each number of dimensions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--questions", type=int, default=500)
    parser.add_argument("--dims", type=int, nargs="*", default=[256, 768, 1536])
    parser.add_argument("--smoke", action="store_true", help="few rows")
    args = parser.parse_args()
    rows = 10_000 if args.smoke else args.rows
    header("Ground truth against the BLAS peak")
    found = [(dims, *measured(rows, args.questions, dims)) for dims in args.dims]
    table(("dims", "ground truth s", "Gflop/s", "same product, Gflop/s", "BLAS peak, Gflop/s", "of the peak"), found)
    for dims, *_rest, share in found:
        ratio(f"ground truth / BLAS peak at {dims} d", share)


def measured(rows: int, questions: int, dims: int) -> tuple[float, float, float, float, float]:
    """Seconds and rate of the ground truth, rate of the same matrix product, the peak, and the share of the peak."""
    import numpy as np

    from evals.ground_truth import BLOCK_ROWS, Block, exact_top_k

    random = np.random.default_rng(1)
    corpus = unit(random.standard_normal((rows, dims), dtype=np.float32))
    asked = unit(random.standard_normal((questions, dims), dtype=np.float32))
    names = np.frombuffer(random.bytes(32 * rows), dtype="V32")

    def blocks() -> Iterator[Block]:
        for start in range(0, rows, BLOCK_ROWS):
            yield names[start : start + BLOCK_ROWS], corpus[start : start + BLOCK_ROWS]

    def product() -> None:
        for start in range(0, rows, BLOCK_ROWS):
            asked @ corpus[start : start + BLOCK_ROWS].T

    side = 4096
    left = random.standard_normal((side, side), dtype=np.float32)
    right = random.standard_normal((side, side), dtype=np.float32)
    work = 2.0 * rows * questions * dims / 1e9
    truth = seconds(lambda: exact_top_k(blocks(), asked, k=K))
    plain = seconds(product)
    peak = 2.0 * side**3 / 1e9 / seconds(lambda: left @ right)
    return truth, work / truth, work / plain, peak, work / truth / peak


def unit(vectors: Vectors) -> Vectors:
    """Rows of length one."""
    import numpy as np

    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def seconds(work: Callable[[], object]) -> float:
    """Median of some rounds after one to warm up."""
    work()
    taken: list[float] = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return median(taken)


if __name__ == "__main__":
    main()
