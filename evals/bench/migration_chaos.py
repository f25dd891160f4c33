"""`kill -9` of `kb migrate` and `kb maintain --repack`, and of Postgres, at random moments, searched all the time.

`python -m evals.bench.migration_chaos [--kills 40] [--postgres 0.2] [--seed 1]`. After each kill `kb migrate` starts
again until it ends; then the next change begins, with documents changed and the old version's soak over. In the end
every content has the live version's vector, nothing is left half made, no text was sent again but those in flight,
and no search failed while the server answered.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path

from evals.bench.chaos import change_documents, write_documents
from evals.bench.common import header, ratio, table
from evals.bench.models import LOG, PROJECTED
from evals.bench.workspace import KB, Workspace, workspace

TENANT = "stormy"
BATCH = 64
IN_FLIGHT = 3
"""Batches at most: one with the embedder, one waiting to be committed, one being read."""
DIMS = (384, 768, 512)
COMMANDS = (("migrate",), ("maintain", "--repack"))
"""What is killed, one after the other, until it ends."""
TOML = """
[embedder]
provider = "{provider}"
model = "p{dims}"
dims = {dims}
max_batch_inputs = {batch}
[index]
exact_below = 0
[eval]
queries = 20
recall_floor = 0.0
latency_tolerance = 1000.0
[promotion]
soak = "0d"
[migration]
texts_per_minute = {rate}
[tenants.stormy]
source = "{source}"
"""


LEFT = (
    "SELECT (SELECT count(*) FROM pg_class WHERE relname ~ '_repack' AND relkind = 'r') + "
    "(SELECT count(*) FROM pg_trigger WHERE tgname = 'kb_repack')"
)


class Searcher:
    """Searches without a pause; a failure counts when the server answers."""

    def __init__(self, dsn: str, config: Path) -> None:
        self.asked = 0
        self.away = 0
        self.failures: list[str] = []
        self._dsn, self._config = dsn, config
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Stop."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        import psycopg
        import psycopg_pool

        from kb_pipeline.config.load import load
        from kb_pipeline.search.retriever import Retriever
        from kb_pipeline.store.database import Database

        with Retriever(Database(self._dsn), load(self._config).settings) as retriever:
            while not self._stop.wait(0.02):
                self.asked += 1
                try:
                    if not retriever.search("added later", tenant=TENANT, k=5):
                        self.failures.append("no result")
                except (psycopg.OperationalError, psycopg_pool.PoolTimeout, psycopg_pool.PoolClosed):
                    self.away += 1
                except Exception as error:
                    self.failures.append(f"{type(error).__name__}: {error}")


def main() -> None:
    """Kill, go on, look; ends with 1 when something is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--postgres", type=float, default=0.2, help="share of the kills that hit Postgres")
    parser.add_argument("--documents", type=int, default=150)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--smoke", action="store_true", help="three kills")
    args = parser.parse_args()
    header("kill -9 during changes of model")
    with workspace() as made:
        log = made.folder / "texts.log"
        space = Workspace(made.folder, {LOG: str(log)})
        docs = made.folder / "docs"
        write_documents(docs, args.documents, args.seed)
        broken = _storm(space, docs, log, 3 if args.smoke else args.kills, args.postgres, args.seed)
    if broken:
        raise SystemExit("\n".join(broken))


def _storm(space: Workspace, docs: Path, log: Path, kills: int, postgres: float, seed: int) -> list[str]:
    source = random.Random(seed)

    def configure(number: int) -> None:
        dims = DIMS[number % len(DIMS)]
        space.configure(TOML.format(provider=PROJECTED, dims=dims, batch=BATCH, rate=20_000, source=docs))

    configure(0)
    space.kb("run")
    whole, hit, changes = dict.fromkeys(COMMANDS, 12.0), [0, 0], 0
    searcher = Searcher(space.dsn(), space.folder / "kb.toml")
    while sum(hit) < kills:
        changes += 1
        configure(changes)
        change_documents(docs, seed + changes)
        for command in COMMANDS:
            while True:
                process = subprocess.Popen(
                    [*KB, *command], env=dict(space.env), cwd=space.folder, stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL, start_new_session=True,
                )  # fmt: skip
                started = time.monotonic()
                try:
                    process.wait(timeout=source.uniform(0.1, 1.0) * whole[command] if sum(hit) < kills else None)
                    if process.returncode == 0:
                        whole[command] = max(time.monotonic() - started, 4.0)
                        break
                except subprocess.TimeoutExpired:
                    server = source.random() < postgres
                    hit[server] += 1
                    if server:
                        _kill_server(space)
                    process.send_signal(signal.SIGKILL)
                    process.wait()
                    space.kb("db", "start")
        space.kb("maintain")
    searcher.end()
    return _judge(space, log, searcher, hit[0], hit[1], changes)


def _judge(space: Workspace, log: Path, searcher: Searcher, killed: int, servers: int, changes: int) -> list[str]:
    version = int(space.query("SELECT version FROM kb.live")[0][0])
    lacking = f"SELECT count(*) FROM kb.contents WHERE orphaned_at IS NULL AND embedding_v{version} IS NULL"
    missing = int(space.query(lacking)[0][0])
    invalid = int(space.query("SELECT count(*) FROM pg_index WHERE NOT indisvalid")[0][0])
    unfinished = int(space.query("SELECT count(*) FROM kb.builds WHERE state = 'building'")[0][0])
    columns = int(space.query("SELECT count(*) FROM kb.embedding_versions WHERE column_state = 'present'")[0][0])
    strays = int(space.query(LEFT)[0][0])
    sent = Counter(log.read_text(encoding="utf-8").split())
    # A version that was given up after its soak is paid for again when the model comes back.
    rounds = -(-(changes + 1) // len(DIMS))
    twice = sum(max(count - rounds, 0) for count in sent.values())
    allowed = (killed + servers) * BATCH * IN_FLIGHT
    table(
        ("kills of kb", "kills of Postgres", "changes of model", "searches", "server away", "failed", "sent again",
         "may be", "columns"),
        [(killed, servers, changes, searcher.asked, searcher.away, len(searcher.failures), twice, allowed, columns)],
    )  # fmt: skip
    ratio("failed searches while the server answered", len(searcher.failures), limit=0)
    found = [f"search failed: {failure}" for failure in searcher.failures[:3]]
    found += [f"{missing} contents have no vector of v{version}"] * bool(missing)
    found += [f"{invalid} INVALID indexes are left"] * bool(invalid)
    found += [f"{strays} tables and triggers of a repack are left"] * bool(strays)
    found += [f"{unfinished} builds are left in state building"] * bool(unfinished)
    found += [f"{twice} texts were sent again, {allowed} could be in flight"] * (twice > allowed)
    return found


def _kill_server(space: Workspace) -> None:
    """The postmaster; its children notice at once. Where nobody reaps the dead, its lock file would name a process that
    seems to live, so it is removed once nothing of the server runs."""
    import psutil

    lock = next(space.home.rglob("postmaster.pid"))
    server = psutil.Process(int(lock.read_text(encoding="utf-8").split()[0]))
    children = server.children(recursive=True)
    server.kill()
    psutil.wait_procs(children, timeout=20)
    if not server.is_running() or server.status() == psutil.STATUS_ZOMBIE:
        lock.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
