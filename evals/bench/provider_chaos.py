"""`kill -9` at random moments of a 20,000-text run with a paid provider: what is lost, and what is paid twice?

`python -m evals.bench.provider_chaos [--kills N] [--texts N] [--seed S]`. The provider is a process of its own and
keeps a bill, so what was paid twice is read there and not believed. A run that ends by itself before its kill gives the
next one new documents to do.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import time
from pathlib import Path

from evals.bench.common import header, table
from evals.bench.provider import KEY, Provider, provider
from evals.bench.workspace import KB, Workspace, workspace

INPUTS = 50
CONCURRENCY = 4
IN_FLIGHT = INPUTS * (CONCURRENCY + 1)
"""Texts that may be paid for and not committed: one request more than are under way may wait for its commit."""
PER_DOCUMENT = 100
ANY_TIME_S = 8.0
TOML = """
[embedder]
provider = "openai"
model = "text-embedding-3-small"
dims = 64
base_url = "{url}"
max_batch_inputs = {inputs}
max_concurrency = {concurrency}
[index]
exact_below = 10000000
[eval]
queries = 10
recall_floor = 0.0
[chunking]
max_tokens = 48
[tenants.default]
source = "{source}"
"""


def write_documents(folder: Path, first: int, count: int) -> None:
    """Documents of paragraphs that nobody else has, each too long to share a chunk."""
    folder.mkdir(exist_ok=True)
    for number in range(first, first + count):
        parts = [f"## Part {part}\n\nText {number} of part {part}: " + "and so on " * 8 for part in range(PER_DOCUMENT)]
        (folder / f"{number:05}.md").write_text(f"# Document {number}\n\n" + "\n\n".join(parts), encoding="utf-8")


def run_and_kill(space: Workspace, server: Provider, *, texts: int, after_s: float | None, delay_s: float) -> bool:
    """Start a run, kill it `delay_s` after so many more texts were billed, or `after_s` after its start; False when it
    ended before by itself.
    """
    until = server.ledger()["paid_texts"] + texts
    started = time.monotonic()
    process = subprocess.Popen(
        [*KB, "run", "--until", "embeddings"],
        env=dict(space.env),
        cwd=space.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while process.poll() is None:
        if after_s is None:
            due = server.ledger()["paid_texts"] >= until
        else:
            due = time.monotonic() - started >= after_s
        if due:
            time.sleep(delay_s)
            process.kill()
            return process.wait() < 0
        time.sleep(0.02)
    return False


def disturb(space: Workspace, server: Provider, docs: Path, *, kills: int, seed: int, texts: int) -> int:
    """Kill run after run at random places between its start and its end; the number of runs that were killed.

    Two of three die while texts are under way, the third at any time: reading, planning, committing.
    """
    source = random.Random(seed)
    killed = number = 0
    while killed < kills:
        after_s = source.uniform(0.0, ANY_TIME_S) if killed % 3 == 2 else None
        share = source.randrange(2 * texts // kills)
        if run_and_kill(space, server, texts=share, after_s=after_s, delay_s=source.uniform(0.0, 0.1)):
            killed += 1
        else:
            write_documents(docs, 90_000 + 10 * number, 10)
            number += 1
    return killed


def main() -> None:
    """Disturb, run to the end, read the bill; ends with 1 when a promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--texts", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--latency", type=float, default=0.2, help="seconds the provider takes for a request")
    parser.add_argument("--smoke", action="store_true", help="five kills, 2,000 texts")
    args = parser.parse_args()
    kills, texts = (5, 2_000) if args.smoke else (args.kills, args.texts)
    header("kill -9 during a paid run")
    started = time.monotonic()
    with (
        provider("--dims", "64", "--latency", str(args.latency)) as server,
        workspace() as made,
    ):
        space = Workspace(made.folder, {"OPENAI_API_KEY": KEY, "PATH": os.environ["PATH"]})
        docs = made.folder / "docs"
        write_documents(docs, 0, texts // PER_DOCUMENT)
        space.configure(TOML.format(url=server.url, inputs=INPUTS, concurrency=CONCURRENCY, source=docs))
        killed = disturb(space, server, docs, kills=kills, seed=args.seed, texts=texts)
        space.kb("run", "--until", "embeddings")
        status = space.json("status")["default"]
        again = sum(row["paid_again"] for row in space.json("spend", "--by", "run"))
        bill = server.ledger()
        orphans = int(space.query("SELECT count(*) FROM kb.contents WHERE orphaned_at IS NOT NULL")[0][0])
        settled = space.kb("run", "--until", "embeddings").stdout
        documents = len(list(docs.iterdir()))
    wanted = documents * PER_DOCUMENT
    twice = bill["paid_texts"] - bill["distinct"]
    table(
        ("kills", "texts", "paid twice", "said by kb spend", "could be in flight", "seconds"),
        [(killed, bill["distinct"], twice, again, killed * IN_FLIGHT, time.monotonic() - started)],
    )
    broken = [
        *([f"{status['missing_embeddings']} texts have no vector"] if status["missing_embeddings"] else []),
        *([f"{status['contents']} contents of {wanted}"] if status["contents"] < wanted or orphans else []),
        *([f"{bill['distinct']} texts paid"] if bill["distinct"] != status["contents"] else []),
        *([f"{twice} texts paid twice"] if twice > killed * IN_FLIGHT else []),
        *([f"{twice} paid twice, {again} were said"] if twice > again else []),
        *(["a further run had something to do"] if "nothing to do" not in settled else []),
    ]
    if broken:
        raise SystemExit("\n".join(broken))


if __name__ == "__main__":
    main()
