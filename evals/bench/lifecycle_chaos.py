"""`kill -9` of a run or of Postgres at random moments of build, evaluation, promotion and drop, while searches go on.

`python -m evals.bench.lifecycle_chaos [--kills 200] [--postgres 0.2] [--rows 3000] [--seed 1] [--seconds 0]`: a command
is killed, and half of the time the one after it too, and so on; then one run must repair everything: one live build, no
INVALID or orphaned index, no build left `building`, and every answer right all along. The commands are forks of a
process that has imported everything, so a kill costs little.
"""

from __future__ import annotations

import argparse
import random
import time
from collections import Counter
from typing import Any

from evals.bench.chaos import kill_server
from evals.bench.common import header, table
from evals.bench.forked import Child, Forks, announce
from evals.bench.large import TENANT, large_tenant, questions
from evals.bench.search_load import Load, search_load
from evals.bench.workspace import Workspace

PARTS = {
    "build": "kb_pipeline.stages.hnsw_index:run",
    "evaluation": "evals.run:evaluate",
    "promotion": "kb_pipeline.stages.live_index:run",
    "drop": "kb_pipeline.stages.live_index:drop_past_soak",
    "maintenance": "kb_pipeline.maintenance:maintain",
}
"""Where each part begins. The previous build is dropped by the run itself, or by maintenance where it has a soak."""
TOML = """
[index]
exact_below = 0
preset = "dev"
[eval]
queries = 3
recall_floor = 0.5
latency_tolerance = 1e9
latency_seconds = 0.3
[promotion]
soak = "{soak}"
[tenants.{tenant}]
source = "{source}"
"""
CHECKS = {
    "INVALID indexes": "SELECT count(*) FROM pg_index WHERE NOT indisvalid",
    "builds left building": "SELECT count(*) FROM kb.builds WHERE state = 'building'",
    "indexes without a build": "SELECT count(*) FROM pg_class c WHERE relkind = 'i' AND "
    "starts_with(relname, 'kb_build_') AND NOT EXISTS (SELECT FROM kb.builds b WHERE b.index_name = "
    "c.relname AND b.state IN ('candidate', 'live', 'previous'))",
    "standing builds without an index": "SELECT count(*) FROM kb.builds WHERE method = 'hnsw' AND state IN "
    "('candidate', 'live', 'previous') AND to_regclass('kb.' || index_name) IS NULL",
}
"""What a repaired database must not have."""
LIVE = (
    "SELECT count(*) FROM kb.builds b JOIN kb.live l USING (build_id) WHERE b.state = 'live' AND "
    "(SELECT count(*) FROM kb.builds WHERE state = 'live') = 1"
)
"""Builds that are live, by both accounts of it."""


def prepare() -> None:
    """In the process that the commands are forked from: all that they load, and each part says when it begins."""
    from kb_pipeline.config.schema import EmbedderConfig
    from kb_pipeline.embed.registry import make_embedder

    make_embedder(EmbedderConfig()).embed_queries(["a text"])
    for name, place in PARTS.items():
        announce(place, name)
    from kb_pipeline.definitions import defs

    defs().resolve_job_def("kb_rebuild")


def main() -> None:
    """Kill, repair, look; end with 1 when something is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--postgres", type=float, default=0.2, help="share of the kills that hit Postgres")
    parser.add_argument("--rows", type=int, default=3_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.0, help="no kill later than this; 0: until all are done")
    parser.add_argument("--smoke", action="store_true", help="six kills")
    args = parser.parse_args()
    header("kills during build, evaluation, promotion and drop")
    with large_tenant(args.rows) as (space, _):
        configure(space, "1h")
        with Forks(space.env, space.folder, prepare="evals.bench.lifecycle_chaos:prepare") as forks:
            storm = Storm(space, forks, random.Random(args.seed), args.postgres)
            storm.rage(6 if args.smoke else args.kills, args.seconds or 1e9)
    if storm.broken:
        raise SystemExit("\n".join(storm.broken))


def configure(space: Workspace, soak: str) -> None:
    """Write kb.toml: how long a previous build is kept."""
    space.configure(TOML.format(tenant=TENANT, source=space.folder / "records.jsonl", soak=soak))


class Storm:
    """A history of rebuilds with kills in it."""

    def __init__(self, space: Workspace, forks: Forks, source: random.Random, postgres: float) -> None:
        self._space, self._forks, self._source, self._postgres = space, forks, source, postgres
        self._dsn = space.dsn()
        self._lasting: dict[str, float] = {}
        self.broken: list[str] = []
        """Every broken promise as a sentence."""
        forks.well(forks.run("run"))
        for soak, command in (("0s", "rebuild"), ("1h", "rebuild"), ("0s", "maintain")):
            configure(space, soak)
            self._lasting |= forks.well(forks.run(command)).lasting()

    def rage(self, kills: int, seconds: float) -> None:
        """Kill so many times, and tell what came of it."""
        from kb_pipeline.config.schema import EmbedderConfig
        from kb_pipeline.embed.registry import make_embedder
        from kb_pipeline.index.exact import nearest_distances
        from kb_pipeline.store.database import Database
        from kb_pipeline.store.eval_vectors import vector_blocks

        db = Database(self._dsn)
        vectors = make_embedder(EmbedderConfig()).embed_queries(questions(50)).vectors
        with db.connect("owner") as conn:
            blocks = vector_blocks(conn, TENANT, 1, dims=vectors.shape[1], storage="vector", block_rows=8192)
            exact = nearest_distances((block for _, block in blocks), vectors, 10)
        hit: Counter[str] = Counter()
        of_postgres: Counter[str] = Counter()
        down: list[tuple[float, float]] = []
        ends = time.monotonic() + seconds
        missed = number = 0
        with search_load(db, TENANT, vectors, exact, version=1, rate=10) as load:
            while hit.total() < kills and time.monotonic() < ends:
                aim = list(PARTS)[number % len(PARTS)]
                number += 1
                child = self._aimed(aim)
                if child is None:
                    missed += 1
                    continue
                hit[child.at] += 1
                began = time.monotonic()
                if self._source.random() < self._postgres:
                    of_postgres[child.at] += 1
                    kill_server(self._space)
                    if self._source.random() < 0.5:  # the command sees its server gone, or goes with it
                        child.wait(30)
                    child.kill()
                    self._forks.well(self._forks.run("db", "start"))
                    down.append((began, time.monotonic() + 1))
                else:
                    child.kill()
                if (left := self._count(LIVE)) != 1:
                    self.broken.append(f"kill {hit.total()} ({child.at}): {left} live builds")
                if self._source.random() < 0.5:
                    self._repair(f"kill {hit.total()} ({child.at})")
                print(f"kill {hit.total()}: {child.at}, {len(self.broken)} faults", flush=True)
            self._repair("the end")
        self._tell(load, down, hit, of_postgres, missed)

    def _aimed(self, part: str) -> Child | None:
        """A command at a random moment of the part; None when it ended before."""
        if part == "maintenance":
            configure(self._space, "1h")  # so that there is something to drop
            self._forks.well(self._forks.run("rebuild"))
        configure(self._space, "0s")
        child = self._forks.start("maintain" if part == "maintenance" else "rebuild")
        child.wait(until=part)
        if child.status is None and not child.wait(self._source.uniform(0.0, 1.1) * self._lasting[part]):
            return child
        self._forks.well(child)
        return None

    def _repair(self, kill: str) -> None:
        """One run, and what is wrong after it."""
        child = self._forks.run(self._source.choice(("run", "rebuild")))
        found = [f"the run after it ended with {child.status}: {self._forks.said()}"] * bool(child.status)
        found += [f"{count} {name}" for name, query in CHECKS.items() if (count := self._count(query))]
        live = self._count(LIVE)
        found += [f"{live} live builds"] * (live != 1)
        self.broken += [f"{kill}: {fault}" for fault in found]

    def _tell(
        self,
        load: Load,
        down: list[tuple[float, float]],
        hit: Counter[str],
        of_postgres: Counter[str],
        missed: int,
    ) -> None:
        answers = list(load.answers)
        wrong = [
            one
            for one in answers
            if not any(start <= one.at <= end for start, end in down) and (one.error or one.results < 10)
        ]
        good = [one.recall for one in answers if not one.error]
        mean = sum(good) / max(len(good), 1)
        table(("killed during", "times", "of these Postgres"), [(part, hit[part], of_postgres[part]) for part in hit])
        if wrong:
            self.broken.append(f"{len(wrong)} searches failed or were short, such as: {wrong[0]}")
        if mean < 0.95:
            self.broken.append(f"mean recall {mean:.3f}")
        each = ", ".join(f"{part} {hit[part]}" for part in (*PARTS, "start") if hit[part])
        print(f"sum: {hit.total()} kills ({each}), {of_postgres.total()} of Postgres, {missed} too late, "
              f"{len(self.broken)} faults, {len(answers):,} searches, recall {mean:.4f}")  # fmt: skip

    def _count(self, query: str) -> int:
        import psycopg

        with psycopg.connect(self._dsn, autocommit=True) as conn:
            row: Any = conn.execute(query.encode()).fetchone()
            return int(row[0])


if __name__ == "__main__":
    main()
