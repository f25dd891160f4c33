"""`kill -9` of `kb migrate` and `kb maintain --repack`, and of Postgres, in every part of them, searched all the time.

`python -m evals.bench.migration_chaos [--kills 40] [--postgres 0.2] [--seed 1] [--seconds 0]`. A command is killed at a
random moment of one of its parts and started again, and killed in the next part, until it ends; then the next change of
model begins, with documents changed and the old version's soak over. In the end every content has the live version's
vector, nothing is left half made, no text was sent again but those in flight, and no search failed while the server
was up.
"""

from __future__ import annotations

import argparse
import logging
import random
import threading
import time
from collections import Counter
from pathlib import Path

from evals.bench.chaos import change_documents, kill_server, write_documents
from evals.bench.common import header, ratio, table
from evals.bench.forked import Child, Forks, announce
from evals.bench.models import LOG, PROJECTED
from evals.bench.workspace import Workspace, workspace

TENANT = "stormy"
BATCH = 16
IN_FLIGHT = 3
"""Batches at most: one with the embedder, one waiting to be committed, one being read."""
BACK_S = 20.0
"""In so many seconds after Postgres was started again, a search must have been answered."""
DIMS = (384, 768, 512)
PARTS = {
    ("migrate",): {
        "documents": "kb_pipeline.stages.documents:run",
        "expand": "kb_pipeline.stages.embeddings:ensure_version",
        "new texts": "kb_pipeline.stages.embedding:Embedding.embed_change_set",
        "commit": "kb_pipeline.stages.embeddings:apply_change_set",
        "back-fill": "kb_pipeline.stages.embedding:Embedding.backfill",
        "build": "kb_pipeline.stages.hnsw_index:run",
        "measure": "evals.run:evaluate",
        "promote": "kb_pipeline.stages.live_index:run",
    },
    ("maintain", "--repack"): {
        "drop builds": "kb_pipeline.maintenance:_builds",
        "contract": "kb_pipeline.migrate.contract:contract",
        "vacuum": "kb_pipeline.maintenance:_tables",
        "repack": "kb_pipeline.migrate.repack:repack_partition",
        "its indexes": "kb_pipeline.migrate.repack:_build_all",
        "swap": "kb_pipeline.store.repack_swap:swap",
    },
}
"""Commands, and where each part of them begins."""
EMBEDS = ("expand", "new texts", "commit", "back-fill")
"""Parts in which texts may be with the embedder."""
TOML = """
[embedder]
provider = "{provider}"
model = "p{dims}-{number}"
dims = {dims}
max_batch_inputs = {batch}
[index]
exact_below = 0
[eval]
queries = 20
recall_floor = 0.0
latency_tolerance = 1e9
latency_seconds = 0.3
[promotion]
soak = "0d"
[migration]
texts_per_minute = {rate}
[tenants.stormy]
source = "{source}"
"""
FAULTS = {
    "INVALID indexes": "SELECT count(*) FROM pg_index WHERE NOT indisvalid",
    "builds left in state building": "SELECT count(*) FROM kb.builds WHERE state = 'building'",
    "tables of a repack": "SELECT count(*) FROM pg_class WHERE relname ~ '_repack' AND relkind = 'r'",
    "triggers of a repack": "SELECT count(*) FROM pg_trigger WHERE tgname = 'kb_repack'",
    "columns that nothing refers to": "SELECT count(*) - 1 FROM pg_attribute WHERE attrelid = 'kb.contents'::regclass "
    "AND attname ~ '^embedding_v' AND NOT attisdropped",
    "chunks without a content": "SELECT count(*) FROM kb.chunks p LEFT JOIN kb.contents c USING (tenant_id, "
    "fingerprint) WHERE c.fingerprint IS NULL OR c.orphaned_at IS NOT NULL",
    "contents without a chunk": "SELECT count(*) FROM kb.contents c WHERE orphaned_at IS NULL AND NOT EXISTS (SELECT "
    "FROM kb.chunks p WHERE (p.tenant_id, p.fingerprint) = (c.tenant_id, c.fingerprint))",
}
"""What must not be there when both commands have ended."""


class Searcher:
    """Searches without a pause; a failure counts while the server is up, and so does a server not reached in time."""

    def __init__(self, dsn: str, config: Path) -> None:
        self.asked = 0
        self.away = 0
        """Searches that failed because Postgres was killed."""
        self.longest_away = 0.0
        """Most seconds from the start of a killed server to the first answer."""
        self.failures: list[str] = []
        self._down = False
        self._up_since: float | None = None
        self._dsn, self._config = dsn, config
        self._stop = threading.Event()
        logging.getLogger("psycopg.pool").setLevel(logging.CRITICAL)  # it tells of every try while the server is away
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def server_dies(self) -> None:
        """To be told before Postgres is killed."""
        self._down, self._up_since = True, None

    def server_is_up(self) -> None:
        """To be told when it takes connections again."""
        self._up_since = time.monotonic()

    def answered_again(self) -> None:
        """Wait for the first answer of a server that was started again."""
        while self._down and self._up_since is not None and time.monotonic() - self._up_since < BACK_S:
            time.sleep(0.02)
        if self._down:
            self.failures.append(f"not answered within {BACK_S:g} s of the start of the server")

    def end(self) -> None:
        """Stop."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        from kb_pipeline.config.load import load
        from kb_pipeline.search.retriever import Retriever
        from kb_pipeline.store.database import Database

        with Retriever(Database(self._dsn), load(self._config).settings) as retriever:
            while not self._stop.wait(0.02):
                self.asked += 1
                began, down = time.monotonic(), self._down
                try:
                    found = len(retriever.search("added later", tenant=TENANT, k=5))
                except Exception as error:
                    if down or self._down:
                        self.away += 1
                    else:
                        self.failures.append(f"{type(error).__name__}: {error}")
                    continue
                if found < 5:
                    self.failures.append(f"{found} results")
                if self._up_since is not None and self._down and began >= self._up_since:
                    self.longest_away = max(self.longest_away, time.monotonic() - self._up_since)
                    self._down = False


def prepare() -> None:
    """In the process that the commands are forked from: the model loaded, each part says when it begins."""
    from evals.bench.models import Projected
    from kb_pipeline.config.schema import EmbedderConfig

    Projected(EmbedderConfig(dims=8)).embed_queries(["a text"])
    for parts in PARTS.values():
        for name, place in parts.items():
            announce(place, name)


def main() -> None:
    """Kill, go on, look; ends with 1 when something is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--postgres", type=float, default=0.2, help="share of the kills that hit Postgres")
    parser.add_argument("--documents", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.0, help="no kill later than this; 0: until all are done")
    parser.add_argument("--smoke", action="store_true", help="three kills")
    args = parser.parse_args()
    header("kill -9 during changes of model")
    with workspace() as made:
        log = made.folder / "texts.log"
        space = Workspace(made.folder, {LOG: str(log)})
        docs = made.folder / "docs"
        write_documents(docs, args.documents, args.seed)
        with Forks(space.env, space.folder, prepare="evals.bench.migration_chaos:prepare") as forks:
            storm = Storm(space, forks, docs, random.Random(args.seed), args.postgres)
            try:
                storm.rage(3 if args.smoke else args.kills, args.seed, args.seconds or 1e9)
            finally:
                storm.searcher.end()
        broken = storm.judge(log)
    if broken:
        raise SystemExit("\n".join(broken))


class Storm:
    """A history of changes of model with kills in it."""

    def __init__(self, space: Workspace, forks: Forks, docs: Path, source: random.Random, postgres: float) -> None:
        self._space, self._forks, self._docs, self._source, self._postgres = space, forks, docs, source, postgres
        self._configure(0)
        forks.well(forks.run("run"))
        self._lasting: dict[str, float] = {}
        self._dsn = space.dsn()
        self._broken: list[str] = []
        self.hit: Counter[str] = Counter()
        self.of_postgres: Counter[str] = Counter()
        self.changes = 0
        self.searcher = Searcher(self._dsn, space.folder / "kb.toml")

    def rage(self, kills: int, seed: int, seconds: float) -> None:
        """Changes of model until there were so many kills."""
        deadline = time.monotonic() + seconds
        while self.changes < 1 or (self.hit.total() < kills and time.monotonic() < deadline):
            self.changes += 1
            self._configure(self.changes)
            change_documents(self._docs, seed * 1000 + self.changes)
            for command, parts in PARTS.items():
                # The first change shows how long each part takes.
                aims = list(parts) * (self.changes > 1)
                while True:
                    left = self.hit.total() < kills and time.monotonic() < deadline
                    child = self._forks.start(*command)
                    if aims and left and self._killed(child, aims.pop(0)):
                        continue
                    child.wait()
                    self._forks.well(child)
                    if self.changes == 1:
                        self._lasting |= child.lasting()
                    break
            self._look()

    def _killed(self, child: Child, part: str) -> bool:
        """Kill it at a random moment of the part; False when it ended before."""
        child.wait(until=part)
        if child.wait(self._source.uniform(0.0, 1.1) * self._lasting.get(part, 0.5)):
            return False
        self.hit[child.at] += 1
        if self._source.random() >= self._postgres:
            child.kill()
            return True
        self.of_postgres[child.at] += 1
        self.searcher.server_dies()
        kill_server(self._space)
        if self._source.random() < 0.5:  # the command sees its server gone, or goes with it
            child.wait(30)
        child.kill()
        self._forks.well(self._forks.run("db", "start"))
        self.searcher.server_is_up()
        self.searcher.answered_again()
        return True

    def _configure(self, number: int) -> None:
        dims = DIMS[number % len(DIMS)]
        self._space.configure(
            TOML.format(provider=PROJECTED, dims=dims, number=number, batch=BATCH, rate=30_000, source=self._docs)
        )

    def _look(self) -> None:
        import psycopg

        with psycopg.connect(self._dsn, autocommit=True) as conn:
            version = _number(conn, "SELECT version FROM kb.live")
            wanted = _number(conn, "SELECT max(version) FROM kb.embedding_versions")
            lacking = f"SELECT count(*) FROM kb.contents WHERE orphaned_at IS NULL AND embedding_v{version} IS NULL"
            checks = {**FAULTS, f"contents without a vector of v{version}": lacking}
            found = [f"{count} {name}" for name, query in checks.items() if (count := _number(conn, query))]
        found += [f"v{version} is live, v{wanted} was asked for"] * (version != wanted)
        self._broken += [f"change {self.changes}: {fault}" for fault in found]

    def judge(self, log: Path) -> list[str]:
        """Tell what came of it; every broken promise as a sentence."""
        twice = sum(count - 1 for count in Counter(log.read_text(encoding="utf-8").split()).values())
        allowed = sum(self.hit[part] for part in EMBEDS) * BATCH * IN_FLIGHT
        searcher = self.searcher
        named = [(part, self.hit[part], self.of_postgres[part]) for parts in PARTS.values() for part in parts]
        named += [(part, self.hit[part], self.of_postgres[part]) for part in self.hit if part == "start"]
        table(("killed in", "times", "of these Postgres"), named)
        table(
            ("kills", "of Postgres", "changes of model", "searches", "server away", "failed", "sent again", "may be",
             "faults", "longest until answered again s"),
            [(self.hit.total(), self.of_postgres.total(), self.changes, searcher.asked, searcher.away,
              len(searcher.failures), twice, allowed, len(self._broken), searcher.longest_away)],
        )  # fmt: skip
        ratio("failed searches while the server was up", len(searcher.failures), limit=0)
        found = [f"search failed: {failure}" for failure in searcher.failures[:3]] + self._broken
        return found + [f"{twice} texts were sent again, {allowed} could be in flight"] * (twice > allowed)


def _number(conn: object, query: str) -> int:
    from psycopg import Connection

    assert isinstance(conn, Connection)
    row = conn.execute(query.encode()).fetchone()
    return int(row[0]) if row and row[0] is not None else 0


if __name__ == "__main__":
    main()
