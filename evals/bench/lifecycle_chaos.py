"""`kill -9` of a run or of Postgres at random moments of build, evaluation, promotion and drop, while searches go on.

`python -m evals.bench.lifecycle_chaos [--kills 200] [--postgres 0.2] [--rows 3000]`: after each kill one run must
repair everything: one live build, no INVALID or orphaned index, no build left `building`, and every answer
right all along.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

from evals.bench.common import header, table
from evals.bench.large import TENANT, large_tenant, questions
from evals.bench.search_load import search_load
from evals.bench.workspace import Workspace

PARTS = ("build", "evaluation", "promotion", "drop")
TOML = """
[index]
exact_below = 0
preset = "dev"
[eval]
queries = 20
recall_floor = 0.5
latency_tolerance = 1000.0
[promotion]
soak = "0s"
[tenants.{tenant}]
source = "{source}"
"""


def main() -> None:
    """Kill, repair, compare; end with 1 when something is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--postgres", type=float, default=0.2, help="share of the kills that hit Postgres")
    parser.add_argument("--rows", type=int, default=3_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--smoke", action="store_true", help="six kills")
    parser.add_argument("--cycle", action="store_true", help="(the process that is killed)")
    args = parser.parse_args()
    if args.cycle:
        cycle()
        return
    kills = 6 if args.smoke else args.kills
    header(f"{kills} kills during build, evaluation, promotion and drop")
    with large_tenant(args.rows) as (space, _):
        broken = disturb(space, kills=kills, postgres=args.postgres, seed=args.seed)
    if broken:
        raise SystemExit("\n".join(broken))


def cycle() -> None:
    """One whole life-cycle in this process: recover, build, measure, promote, drop. Says which part it begins.

    Latency is measured for a shorter time than in a run, because it is the longest part and changes nothing.
    """
    from functools import partial

    import evals.run
    from evals.run import evaluate
    from kb_pipeline.maintenance import maintain
    from kb_pipeline.session import open_session
    from kb_pipeline.stages import hnsw_index, live_index

    evals.run.measure_latency = partial(evals.run.measure_latency, seconds=0.3, throughput_s=0.1)
    session = open_session()
    ctx = session.stage(TENANT, f"cycle-{os.getpid()}")
    for name, part in (
        (PARTS[0], lambda: hnsw_index.run(ctx, rebuild=True)),
        (PARTS[1], lambda: evaluate(ctx)),
        (PARTS[2], lambda: live_index.run(ctx, by="bench")),
        (PARTS[3], lambda: maintain(session)),
    ):
        print(name, flush=True)
        part()
    print("end", flush=True)


def disturb(space: Workspace, *, kills: int, postgres: float, seed: int) -> list[str]:
    """Every broken promise as a sentence."""
    from kb_pipeline.config.schema import EmbedderConfig
    from kb_pipeline.embed.registry import make_embedder
    from kb_pipeline.index.exact import nearest_distances
    from kb_pipeline.store.database import Database
    from kb_pipeline.store.eval_vectors import vector_blocks

    source = random.Random(seed)
    space.configure(TOML.format(tenant=TENANT, source=space.folder / "records.jsonl"))
    space.kb("run")
    run_cycle(space, None)
    lasting = run_cycle(space, None)[1]
    db = Database(space.dsn())
    vectors = make_embedder(EmbedderConfig()).embed_queries(questions(50)).vectors
    with db.connect("owner") as conn:
        blocks = vector_blocks(conn, TENANT, 1, dims=vectors.shape[1], storage="vector", block_rows=8192)
        exact = nearest_distances((block for _, block in blocks), vectors, 10)
    broken: list[str] = []
    hit: Counter[str] = Counter()
    down: list[tuple[float, float]] = []
    with search_load(db, TENANT, vectors, exact, version=1, rate=10) as load:
        for number in range(kills):
            of_postgres = source.random() < postgres
            began = time.monotonic()
            part = PARTS[number % len(PARTS)]
            moment = (part, source.uniform(0.0, 1.1) * lasting[part])
            part, _, _ = run_cycle(space, moment, server=space.home if of_postgres else None)
            hit[f"{part}{' (Postgres)' if of_postgres else ''}"] += 1
            if of_postgres:
                start_again(space)
                down.append((began, time.monotonic() + 1))
            left = live_builds(space)
            if left != 1:
                broken.append(f"kill {number} ({part}): {left} live builds before the repair")
            code = run_cycle(space, None)[2]
            if code:
                broken.append(f"kill {number} ({part}): the run after it ended with {code}")
            broken += [f"kill {number} ({part}): {fault}" for fault in faults(space)]
            print(f"kill {number}: {part}{' of Postgres' if of_postgres else ''}, {len(broken)} faults", flush=True)
        answers = list(load.answers)
    wrong = [
        one
        for one in answers
        if not any(start <= one.at <= end for start, end in down) and (one.error or one.results < 10)
    ]
    good = [one.recall for one in answers if not one.error]
    table(("killed during", "times"), sorted(hit.items()))
    mean = sum(good) / max(len(good), 1)
    print(f"{len(answers):,} searches meanwhile, {len(wrong)} failed or short with Postgres up, mean recall {mean:.4f}")
    if wrong:
        broken.append(f"{len(wrong)} searches failed or were short, such as: {wrong[0].error or wrong[0].results}")
    if mean < 0.5:
        broken.append(f"mean recall {mean:.3f}")
    return broken


def run_cycle(
    space: Workspace, moment: tuple[str, float] | None, *, server: Path | None = None
) -> tuple[str, dict[str, float], int]:
    """Run one cycle, killed (or its Postgres) so many seconds after it began a part: the part it was in then, the
    seconds each part took, and its exit status."""
    with tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "evals.bench.lifecycle_chaos", "--cycle"],
            env={**space.env, "PYTHONPATH": str(Path(__file__).parents[2]), "KB_CONFIG": str(space.folder / "kb.toml")},
            stdout=subprocess.PIPE, stderr=err, text=True,
        )  # fmt: skip
        began: dict[str, float] = {}
        killer: threading.Timer | None = None
        assert process.stdout is not None
        for line in process.stdout:
            if not (name := line.strip()):
                continue
            began[name] = time.perf_counter()
            if moment is not None and name == moment[0]:
                killer = threading.Timer(moment[1], kill, (process, server))
                killer.start()
        process.wait()
        if killer is not None:
            killer.join()
        if process.returncode and moment is None:
            err.seek(0)
            print(err.read()[-1500:], file=sys.stderr)
    names = list(began)
    seconds = {one: began[after] - began[one] for one, after in pairwise(names)}
    return (names or ["start"])[-1], seconds, process.returncode


def kill(process: subprocess.Popen[str], server: Path | None) -> None:
    """Kills the process, or its Postgres, and the process too when it does not end by itself."""
    if server is None:
        process.kill()
        return
    os.kill(int((server / "pg" / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)
    try:
        process.wait(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()


def start_again(space: Workspace) -> None:
    """Starts the server, as soon as the kernel has taken its killed process away."""
    for _ in range(30):
        if space.kb("db", "start", accept=(0, 1)).returncode == 0:
            return
        time.sleep(1)
    raise SystemExit("the server does not start again")


def live_builds(space: Workspace) -> int:
    """Builds that are live, by both accounts of it."""
    return int(
        space.query(
            "SELECT count(*) FROM kb.builds b JOIN kb.live l USING (build_id) WHERE b.state = 'live' AND "
            "(SELECT count(*) FROM kb.builds WHERE state = 'live') = 1"
        )[0][0]
    )


def faults(space: Workspace) -> list[str]:
    """What a repaired database must not have."""
    checks = {
        "INVALID indexes": "SELECT count(*) FROM pg_index WHERE NOT indisvalid",
        "builds left building": "SELECT count(*) FROM kb.builds WHERE state = 'building'",
        "indexes without a build": "SELECT count(*) FROM pg_class c WHERE relkind = 'i' AND "
        "starts_with(relname, 'kb_build_') AND NOT EXISTS (SELECT FROM kb.builds b WHERE b.index_name = "
        "c.relname AND b.state IN ('candidate', 'live', 'previous'))",
        "standing builds without an index": "SELECT count(*) FROM kb.builds WHERE method = 'hnsw' AND state IN "
        "('candidate', 'live', 'previous') AND to_regclass('kb.' || index_name) IS NULL",
    }
    found = [f"{count} {name}" for name, query in checks.items() if (count := int(space.query(query)[0][0]))]
    return found + ([] if live_builds(space) == 1 else [f"{live_builds(space)} live builds"])


if __name__ == "__main__":
    main()
