"""The sync lane: CPU for each 1,000 texts, peak memory of 100,000 texts, and how much of a token limit it uses.

`python -m evals.bench.lane [--texts N] [--seconds S]`. The provider is a server process that answers at once with
1,536-d vectors in base64; the lane runs in a process of its own and keeps nothing. A whole run with Postgres:
`--whole`, which indexes 100,000 texts and measures the `kb run` process.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
from collections.abc import Iterator

from evals.bench.common import header, measure, ratio, table
from evals.bench.provider import KEY, Provider, provider
from evals.bench.workspace import workspace

MODEL = "text-embedding-3-small"
DIMS = 1536
CPU_LIMIT_S = 0.25
MEMORY_LIMIT_MB = 700
RUN = "import sys; from evals.bench.lane import carry; carry(sys.argv[1])"

TOML = """
[embedder]
provider = "openai"
model = "{model}"
base_url = "{url}"
[chunking]
max_tokens = 96
[tenants.default]
source = "{source}"
"""


def carry(argument: str) -> None:
    """In the measured process: run the lane over made texts and print what it did as JSON."""
    import resource

    from kb_pipeline.config.schema import EmbedderConfig
    from kb_pipeline.embed.lane import Pending
    from kb_pipeline.embed.registry import make_embedder, make_lane

    asked = json.loads(argument)
    dims = asked.get("dims", DIMS)
    config = EmbedderConfig.model_validate(
        {"provider": "openai", "model": MODEL, "dims": dims, "base_url": asked["url"], **asked.get("config", {})}
    )
    source = random.Random(1)

    def texts() -> Iterator[Pending]:
        sent = number = 0
        while number < asked["texts"] and sent < asked.get("tokens", float("inf")):
            words = source.randint(20, 380) if "tokens" in asked else 200
            yield Pending(number.to_bytes(32, "big"), f"{number} " + "word " * (words - 1), words, "document", number)
            sent, number = sent + words, number + 1

    lane = make_lane(config, make_embedder(config))
    import openai  # noqa: F401  # imported before the clock starts: a run pays for it once

    before = resource.getrusage(resource.RUSAGE_SELF)
    report = lane.run(texts(), on_batch=lambda _: None, on_refused=print)
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(json.dumps({"texts": report.texts, "seconds": report.seconds, "cpu": cpu, "throttled": report.throttled}))


def lane_process(server: Provider, **asked: object) -> tuple[dict[str, float], float]:
    """What the lane did, and the peak memory of its process in MB."""
    env = {**os.environ, "OPENAI_API_KEY": KEY}
    run = measure([sys.executable, "-c", RUN, json.dumps({"url": server.url, **asked})], env=env)
    return run.last_json(), run.peak_mb


def token_bucket(seconds: float, per_minute: float) -> tuple[object, ...]:
    """Share of a token bucket's supply that the lane uses, and of its requests that were answered 429."""
    with provider("--dims", "64", "--same", "--tpm", str(per_minute)) as server:
        supply = per_minute + per_minute / 60 * seconds
        done, _ = lane_process(server, texts=10**9, tokens=supply, dims=64)
        ledger = server.ledger()
    possible = per_minute + per_minute / 60 * ledger["span_s"]
    return ledger["answered_tokens"] / possible, ledger["throttled"] / ledger["requests"], ledger["span_s"]


def whole_run(texts: int) -> tuple[float, float, int]:
    """Seconds and peak MB of `kb run --until embeddings` over that many texts, and vectors in Postgres.

    A part has about 70 tokens, so that two of them never share a chunk.
    """
    with provider("--dims", str(DIMS), "--same") as server, workspace() as space:
        docs = space.folder / "docs"
        docs.mkdir()
        for number in range(texts // 100):
            parts = [f"## Part {part}\n\nText {number} {part} " + "and more words " * 20 for part in range(100)]
            (docs / f"{number}.md").write_text(f"# Document {number}\n\n" + "\n\n".join(parts), encoding="utf-8")
        space.configure(TOML.format(model=MODEL, url=server.url, source=docs))
        run = space.kb("run", "--until", "embeddings", env={"OPENAI_API_KEY": KEY})
        found = int(space.query("SELECT count(*) FROM kb.contents WHERE embedding_v1 IS NOT NULL")[0][0])
    return run.seconds, run.peak_mb, found


def measure_lane(texts: int, seconds: float, *, smoke: bool) -> None:
    """CPU and memory without limits, then what is used of two limits."""
    with provider("--dims", str(DIMS), "--same") as server:
        done, peak = lane_process(server, texts=texts)
    cpu = done["cpu"] / done["texts"] * 1000
    table(
        ("texts", "dims", "seconds", "texts/s", "CPU s / 1,000 texts", "peak MB"),
        [(texts, DIMS, done["seconds"], done["texts"] / done["seconds"], cpu, peak)],
    )
    rates = [(f"{rate:,} tokens/min", *token_bucket(seconds, rate)) for rate in (1_000_000, 150_000)]
    table(("limit", "used", "answered 429", "seconds"), rates)
    ratio("CPU seconds for 1,000 texts", cpu, limit=CPU_LIMIT_S if not smoke else None)
    ratio("peak memory of the lane's process, MB", peak, limit=MEMORY_LIMIT_MB)
    if not smoke:
        for name, used, throttled, _ in rates:
            ratio(f"{name}: used", float(str(used)), at_least=0.95)
            ratio(f"{name}: answered 429", float(str(throttled)), limit=0.01)


def main() -> None:
    """Measure and print, beside what is expected."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long a token bucket is worked against")
    parser.add_argument("--whole", action="store_true", help="measure a whole `kb run` too (minutes)")
    parser.add_argument("--only-whole", action="store_true", help="measure nothing else")
    parser.add_argument("--smoke", action="store_true", help="2,000 texts, five seconds")
    args = parser.parse_args()
    texts, seconds = (2_000, 5.0) if args.smoke else (args.texts, args.seconds)
    header("The sync lane")
    if not args.only_whole:
        measure_lane(texts, seconds, smoke=args.smoke)
    if args.whole or args.only_whole:
        run_seconds, run_peak, found = whole_run(texts)
        table(("texts", "vectors", "seconds", "peak MB"), [(texts, found, run_seconds, run_peak)])
        if found < texts:
            raise SystemExit(f"only {found} of {texts} texts came to vectors")
        ratio("peak memory of `kb run`, MB", run_peak, limit=MEMORY_LIMIT_MB)


if __name__ == "__main__":
    main()
