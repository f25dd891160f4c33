"""Latency and throughput through the serving path, builds in turn, so that a busy machine is busy for all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from threading import Lock

import numpy as np
import numpy.typing as npt

from evals.measured import Latency, Throughput
from evals.searchers import OpenSearcher, Searcher
from kb_pipeline.embed.protocol import Vectors

CALLERS = (1, 2, 4)
WARM_UP = 50
BLOCK = 25
"""Successive queries that are drawn together for the interval of p95."""
MAX_RATE = 400.0
"""Queries per second; above it the load generator itself would be what is measured."""


def measure_latency(
    builds: Mapping[str, OpenSearcher],
    questions: Mapping[str, Vectors],
    *,
    k: int = 10,
    seconds: float = 2.0,
    rounds: int = 2,
    throughput_s: float = 0.4,
    workers: int = 8,
    seed: int = 7,
) -> dict[str, Latency]:
    """Latency of each build with the default profile under the same offered load: half of what the slowest can take.

    Open loop: queries are due at random moments fixed beforehand (Poisson), and their latency counts from that moment,
    so a stall is felt by every query that it held up (no coordinated omission, Tene 2015). `questions` are vectors for
    each build, since builds may be of different models. `seconds` is per build, over all rounds.
    """
    with ExitStack() as stack:
        pools = {name: [stack.enter_context(opened()) for _ in range(workers)] for name, opened in builds.items()}
        for name, searchers in pools.items():
            for searcher in searchers:
                for question in questions[name][: WARM_UP // workers + 1]:
                    searcher(question, k, None)
        throughput = {
            name: tuple(
                Throughput(callers, _closed_loop(pool[:callers], questions[name], k, throughput_s))
                for callers in CALLERS
            )
            for name, pool in pools.items()
        }
        slowest = min(max(level.per_second for level in levels) for levels in throughput.values())
        rate = min(MAX_RATE, max(2.0, slowest / 2))
        waits: dict[str, list[npt.NDArray[np.float64]]] = {name: [] for name in pools}
        rng = np.random.default_rng(seed)
        for turn in range(rounds):
            due = np.cumsum(rng.exponential(1 / rate, size=max(20, int(rate * seconds / rounds))))
            for name in list(pools) if turn % 2 == 0 else list(pools)[::-1]:
                waits[name].append(_open_loop(pools[name], questions[name], k, due))
    return {name: _summary(np.concatenate(waits[name]), rate, throughput[name]) for name in pools}


def _summary(waits: npt.NDArray[np.float64], rate: float, throughput: tuple[Throughput, ...]) -> Latency:
    p50, p95, p99 = (float(value) * 1000 for value in np.percentile(waits, (50, 95, 99)))
    low, high = p95_interval(waits)
    return Latency(p50, p95, p99, rate, int(waits.size), throughput, low * 1000, high * 1000)


def p95_interval(waits: npt.NDArray[np.float64], *, resamples: int = 1_000) -> tuple[float, float]:
    """Where p95 would fall in 95 of 100 such loads: blocks of successive queries are drawn, since they wait together
    (moving-block bootstrap, Kunsch 1989)."""
    block = min(BLOCK, len(waits))
    rng = np.random.default_rng(7)
    starts = rng.integers(0, len(waits) - block + 1, size=(resamples, -(-len(waits) // block)))
    drawn = waits[(starts[:, :, None] + np.arange(block)).reshape(resamples, -1)]
    low, high = np.quantile(np.percentile(drawn, 95, axis=1), (0.025, 0.975))
    return float(low), float(high)


def _closed_loop(searchers: list[Searcher], questions: Vectors, k: int, seconds: float) -> float:
    """Answers per second when every caller asks again as soon as it is answered."""
    until = time.perf_counter() + seconds

    def call(number: int) -> int:
        asked = 0
        while time.perf_counter() < until:
            searchers[number](questions[(asked * len(searchers) + number) % len(questions)], k, None)
            asked += 1
        return asked

    began = time.perf_counter()
    total = sum(_in_threads(len(searchers), call))
    return total / (time.perf_counter() - began)


def _open_loop(
    searchers: list[Searcher], questions: Vectors, k: int, due: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Seconds from when each query was due until it was answered."""
    waits = np.zeros(len(due))
    turn, lock = iter(range(len(due))), Lock()
    began = time.perf_counter() + 0.01

    def serve(number: int) -> int:
        served = 0
        while True:
            with lock:
                query = next(turn, None)
            if query is None:
                return served
            moment = began + float(due[query])
            while (early := moment - time.perf_counter()) > 0:
                time.sleep(early)
            searchers[number](questions[query % len(questions)], k, None)
            waits[query] = time.perf_counter() - moment
            served += 1

    _in_threads(len(searchers), serve)
    return waits


def _in_threads(count: int, work: Callable[[int], int]) -> list[int]:
    """Results of `work(0)`, ..., `work(count - 1)`, each in its thread; the first error is raised."""
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(work, range(count)))
