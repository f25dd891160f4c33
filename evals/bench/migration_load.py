"""A change of model under load: 256 d vector -> 1,536 d halfvec -> back and forward -> 384 d vector, always searched.

`python -m evals.bench.migration_load [--rate 50] [--docs 0]`. PowerShell documentation, a nightly update in the middle
of the first back-fill. Every search is held against the exact answers of the version it was made with: those before
the update, those after it, and while the update writes the better of the two. Searches that are due while the clients
are busy wait, and their waiting is part of their latency. It is told for every stage and every step of the runs in it.
"""

from __future__ import annotations

import argparse
import subprocess
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evals.bench.common import header, ratio, skip, table
from evals.bench.corpora import clone, data_folder, missing_data
from evals.bench.migration_clients import K, Load, Search, answering, p50, p99
from evals.bench.models import PROJECTED
from evals.bench.workspace import Workspace, workspace

TENANT = "docs"
QUESTIONS = 100
WINDOW_S = 10.0
TOML = """
[embedder]
{embedder}
[eval]
queries = 50
latency_tolerance = 100.0
[index]
exact_below = 0
{workers}
[tenants.docs]
source = "{source}"
"""
FIRST = 'provider = "local"'


@dataclass(slots=True)
class History:
    """What was done when, by `time.monotonic()`."""

    stages: list[tuple[str, float, float]] = field(default_factory=list[tuple[str, float, float]])
    builds: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    steps: list[tuple[str, float, float]] = field(default_factory=list[tuple[str, float, float]])
    """Of Dagster runs."""
    update: tuple[float, float] = (0.0, 0.0)
    before: list[set[str]] = field(default_factory=list[set[str]])
    """Exact answers of v1 before the update."""
    after: dict[int, list[set[str]]] = field(default_factory=dict[int, list[set[str]]])
    """The same of each version after it."""

    def recall(self, one: Search) -> float:
        """Recall@10 of an answer."""
        truths = [self.after[one.version]] if one.due + one.ms / 1000 > self.update[0] else []
        if one.version == 1 and one.due < self.update[1]:
            truths.append(self.before)
        return max(len(set(one.texts) & truth[one.question]) / K for truth in truths)

    def building(self, one: Search) -> bool:
        """Whether an index was being built."""
        return any(begin <= one.due + one.ms / 1000 and one.due <= end for begin, end in self.builds)


def main() -> None:
    """The whole history once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=50.0, help="searches a second")
    parser.add_argument("--quiet", type=float, default=20.0, help="seconds of load before anything changes")
    parser.add_argument("--docs", type=int, default=0, help="only so many documents; 0: all")
    parser.add_argument("--workers", type=int, default=None, help="[index] build_workers")
    parser.add_argument("--smoke", action="store_true", help="300 documents")
    args = parser.parse_args()
    data = data_folder()
    if data is None:
        skip(missing_data())
    header(f"Change of model under {args.rate:g} searches/s")
    with workspace() as space:
        _history(space, data, args.rate, args.quiet, 300 if args.smoke else args.docs, args.workers)


def _history(space: Workspace, data: Path, rate: float, quiet: float, docs: int, workers: int | None) -> None:
    from kb_pipeline.config import load as configuration
    from kb_pipeline.store.database import Database

    corpus = clone("powershell", space.folder, data=data)
    source = space.folder / "source"
    _copy(corpus.checkout(corpus.revisions[0]), source, docs)

    def configure(embedder: str) -> None:
        limit = "" if workers is None else f"build_workers = {workers}"
        space.configure(TOML.format(embedder=embedder, source=source, workers=limit))

    configure(FIRST)
    space.kb("run")
    corpus.checkout(corpus.revisions[1])
    questions = _questions(space)
    history = History(before=_truth(space, 1, questions))
    dsn = space.dsn()  # a command, which in the middle of the load would be part of it
    with answering(Database(dsn), configuration.load(space.folder / "kb.toml").settings, TENANT) as answer:
        load = Load(answer, questions, rate)
        with load.running(), _watched(dsn, history):
            time.sleep(3)  # connections and caches
            with _stage(history, "before"):
                time.sleep(quiet)
            with _stage(history, "to 1,536 d halfvec, nightly in it"):
                configure(f'provider = "{PROJECTED}"\nmodel = "p1536"\ndims = 1536\nstorage = "halfvec"')
                migration = space.start("migrate")
                _until(dsn, "SELECT count(*) > 0 FROM kb.migrations WHERE rows_done > 0", migration)
                _copy(corpus.tree, source, docs)
                began = time.monotonic()
                _ended(space, space.start("run"))
                history.update = (began, time.monotonic())
                _ended(space, migration)
            with _stage(history, "soak"):
                time.sleep(quiet / 2)
        history.after = {version: _truth(space, version, questions) for version in (1, 2)}
        with load.running(), _watched(dsn, history):
            with _stage(history, "rollback"):
                space.kb("rollback", "--tenant", TENANT)
                time.sleep(quiet / 2)
            with _stage(history, "forward again"):
                space.kb("rollback", "--tenant", TENANT)
                time.sleep(quiet / 2)
            with _stage(history, "to 384 d vector"):
                configure(f'provider = "{PROJECTED}"\nmodel = "p384"\ndims = 384')
                _ended(space, space.start("migrate"))
            with _stage(history, "after"):
                time.sleep(quiet / 2)
        history.after[3] = _truth(space, 3, questions)
    history.steps = _steps(space)
    print(f"contents: {space.query('SELECT contents FROM kb.tenants')[0][0]:,}; searches: {len(load.done):,}")
    _tell(load.done, history)


def _tell(done: list[Search], history: History) -> None:
    _, begin, end = history.stages[0]
    base = p99(one for one in done if begin <= one.due < end)
    rows: list[tuple[str, float, int, float, float, float, float]] = []
    worst: dict[str, float] = {}
    for name, begin, end in history.stages:
        steps = [(f"    {step}", start, stop) for step, start, stop in history.steps if begin <= start < end]
        for part, start, stop in [(name, begin, end), *steps]:
            some = [one for one in done if start <= one.due < stop]
            outside = [one for one in some if not history.building(one)]
            at = p99(outside)
            if part == name and begin != history.stages[0][1]:
                worst[name] = at / base
            within = p99(one for one in some if history.building(one))
            rows.append((part, stop - start, len(outside), p50(outside), at, at / base, within))
    table(
        ("stage and steps", "seconds", "searches outside builds", "p50 ms", "p99 ms", "/ before", "p99 ms in builds"),
        rows,
    )
    windows: dict[int, list[float]] = {}
    versions: dict[int, list[float]] = {}
    for one in done:
        if not one.failed:
            windows.setdefault(int(one.due // WINDOW_S), []).append(history.recall(one))
            versions.setdefault(one.version, []).append(history.recall(one))
    lowest = min(sum(values) / len(values) for values in windows.values() if len(values) >= QUESTIONS)
    told = (f"v{version} {sum(values) / len(values):.4f}" for version, values in sorted(versions.items()))
    print(f"mean recall@10 of what each version answered, against its own exact answers: {', '.join(told)}")
    print("index builds: " + ", ".join(f"{end - begin:.1f} s" for begin, end in history.builds))
    failed = [one for one in done if one.failed]
    for one in failed[:3]:
        print(f"failed: {one.failed}")
    ratio("failed searches", len(failed), limit=0)
    ratio("short results", sum(len(one.texts) < K for one in done if not one.failed), limit=0)
    ratio(f"lowest mean recall@10 of {len(windows)} windows of 10 s", lowest, at_least=0.95)
    for name, share in worst.items():
        ratio(f"p99 outside index builds / before, {name}", share, limit=2)
    ratio("p99 during index builds / before", p99(one for one in done if history.building(one)) / base, limit=5)


@contextmanager
def _stage(history: History, name: str) -> Generator[None]:
    begin = time.monotonic()
    yield
    history.stages.append((name, begin, time.monotonic()))
    print(f"{name}: {time.monotonic() - begin:.1f} s", flush=True)


@contextmanager
def _watched(dsn: str, history: History) -> Generator[None]:
    """Notes when an index is being built."""
    import psycopg

    stop = threading.Event()

    def watch() -> None:
        with psycopg.connect(dsn, autocommit=True) as conn:
            since: float | None = None
            while not stop.wait(0.05):
                row = conn.execute("SELECT count(*) FROM pg_stat_progress_create_index").fetchone()
                if row and row[0] and since is None:
                    since = time.monotonic() - 0.05
                elif row and not row[0] and since is not None:
                    history.builds.append((since, time.monotonic()))
                    since = None

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _steps(space: Workspace) -> list[tuple[str, float, float]]:
    """Steps of all runs, from Dagster's event log, as monotonic time."""
    import psycopg
    from psycopg.conninfo import make_conninfo

    query = (
        "SELECT step_key, extract(epoch FROM min(timestamp) AT TIME ZONE 'UTC')::float8, "
        "extract(epoch FROM max(timestamp) AT TIME ZONE 'UTC')::float8 FROM event_logs "
        "WHERE dagster_event_type LIKE 'STEP_%' GROUP BY run_id, step_key ORDER BY 2"
    )
    offset = time.monotonic() - time.time()
    with psycopg.connect(make_conninfo(space.dsn(), dbname="dagster")) as conn:
        return [(step, begin + offset, end + offset) for step, begin, end in conn.execute(query)]


def _ended(space: Workspace, process: subprocess.Popen[bytes]) -> None:
    if process.wait() not in (0, 3):
        said = "".join(log.read_text(encoding="utf-8")[-1500:] for log in space.folder.glob("*.log"))
        raise SystemExit(f"{process.args!r} ended with {process.returncode}: {said}")


def _until(dsn: str, query: str, process: subprocess.Popen[bytes]) -> None:
    import psycopg

    with psycopg.connect(dsn, autocommit=True) as conn:
        while process.poll() is None:
            row = conn.execute(query.encode()).fetchone()
            if row and row[0]:
                return
            time.sleep(0.1)


def _questions(space: Workspace) -> list[str]:
    from evals.questions import sampled_questions

    rows: list[Any] = space.query(
        "SELECT fingerprint, body FROM kb.contents WHERE orphaned_at IS NULL AND length(body) > 80 "
        f"ORDER BY fingerprint LIMIT {QUESTIONS}"
    )
    return [question.text for question in sampled_questions([(bytes(name), body) for name, body in rows])]


def _truth(space: Workspace, version: int, questions: list[str]) -> list[set[str]]:
    """The texts an exact scan finds for each question."""
    from evals.ground_truth import exact_top_k
    from kb_pipeline.config.schema import EmbedderConfig
    from kb_pipeline.embed.protocol import EmbedderSpec
    from kb_pipeline.embed.registry import make_embedder
    from kb_pipeline.stages.wanted import embedder_config
    from kb_pipeline.store.database import Database
    from kb_pipeline.store.eval_vectors import vector_blocks

    described = space.query("SELECT embedder FROM kb.embedding_versions WHERE version = %s", version)[0][0]
    spec = EmbedderSpec(**described)
    asked = make_embedder(embedder_config(EmbedderConfig(), spec)).embed_queries(questions).vectors
    with Database(space.dsn()).connect("owner") as conn:
        blocks = vector_blocks(conn, TENANT, version, dims=spec.dims, storage=spec.storage, block_rows=8192)
        truth = exact_top_k(blocks, asked, k=K + 10)
    names = {name for row in truth.fingerprints for name in row}
    rows = space.query("SELECT fingerprint, body FROM kb.contents WHERE fingerprint = ANY(%s)", list(names))
    bodies: dict[bytes, str] = {bytes(name): body for name, body in rows}
    # Equal texts under other headings are one result.
    return [set(list(dict.fromkeys(bodies[name] for name in row))[:K]) for row in truth.fingerprints]


def _copy(tree: Path, folder: Path, docs: int) -> None:
    """The Markdown files of the tree, only `docs` of them where that is not 0; what is gone there goes here."""
    wanted = sorted(tree.rglob("*.md"))[: docs or None]
    kept = {path.relative_to(tree) for path in wanted}
    for path in folder.rglob("*.md"):
        if path.relative_to(folder) not in kept:
            path.unlink()
    for path in wanted:
        place = folder / path.relative_to(tree)
        place.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_bytes()
        if not place.exists() or place.read_bytes() != text:
            place.write_bytes(text)


if __name__ == "__main__":
    main()
