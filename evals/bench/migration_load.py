"""A change of model under load: 256 d vector -> 1,536 d halfvec -> back and forward -> 384 d vector, always searched.

`python -m evals.bench.migration_load [--rate 50] [--docs 0]`. PowerShell documentation, a nightly update in the middle
of the first back-fill. Every search is held against the exact answers of each version before and after the update, the
best of these counts: a result is right when it is what one version's exact scan gives. Searches that are due while the
clients are busy wait, and their waiting is part of their latency.
"""

from __future__ import annotations

import argparse
import subprocess
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evals.bench.common import header, ratio, skip, table
from evals.bench.corpora import clone, data_folder, missing_data
from evals.bench.models import PROJECTED
from evals.bench.workspace import Workspace, workspace

TENANT = "docs"
K = 10
THREADS = 4
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


@dataclass(frozen=True, slots=True)
class Search:
    """One search of the load."""

    due: float
    ms: float
    question: int
    texts: tuple[str, ...]
    failed: str = ""


@dataclass(slots=True)
class Load:
    """Clients that search at a fixed rate until they are told to stop."""

    search: Callable[[str], Sequence[str]]
    questions: list[str]
    per_second: float
    done: list[Search] = field(default_factory=list[Search])
    _next: int = 0
    _stop: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def running(self) -> Generator[None]:
        """Load while the block runs."""
        self._stop, started, first = False, time.monotonic(), self._next
        threads = [threading.Thread(target=self._client, args=(started, first), daemon=True) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop = True
            for thread in threads:
                thread.join()

    def _client(self, started: float, first: int) -> None:
        while not self._stop:
            with self._lock:
                number = self._next
                self._next += 1
            due = started + (number - first) / self.per_second
            time.sleep(max(0.0, due - time.monotonic()))
            question, texts, failed = number % len(self.questions), (), ""
            try:
                texts = tuple(self.search(self.questions[question]))
            except Exception as error:
                failed = f"{type(error).__name__}: {error}"
            self.done.append(Search(due, (time.monotonic() - due) * 1000, question, texts, failed))


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
    from kb_pipeline.search.retriever import Retriever
    from kb_pipeline.session import open_session
    from kb_pipeline.store.database import Database

    corpus = clone("powershell", space.folder, data=data)
    source = space.folder / "source"
    _copy(corpus.checkout(corpus.revisions[0]), source, docs)

    def configure(embedder: str) -> None:
        limit = "" if workers is None else f"build_workers = {workers}"
        space.configure(TOML.format(embedder=embedder, source=source, workers=limit))

    configure(FIRST)
    space.kb("run")
    questions = _questions(space)
    truths: list[list[set[str]]] = [_truth(space, 1, questions)]
    marks: list[tuple[str, float, float]] = []
    builds: list[tuple[float, float]] = []
    with Retriever(Database(space.dsn()), open_session(space.folder / "kb.toml").settings) as retriever:
        load = Load(lambda text: [hit.text for hit in retriever.search(text, tenant=TENANT, k=K)], questions, rate)
        with load.running(), _watched(space, builds):
            time.sleep(3)  # connections and caches
            with _mark(marks, "before"):
                time.sleep(quiet)
            with _mark(marks, "to 1,536 d halfvec, nightly in it"):
                configure(f'provider = "{PROJECTED}"\nmodel = "p1536"\ndims = 1536\nstorage = "halfvec"')
                migration = space.start("migrate")
                _until(space, "SELECT count(*) > 0 FROM kb.migrations WHERE rows_done > 0", migration)
                _copy(corpus.checkout(corpus.revisions[1]), source, docs)
                nightly = space.start("run")
                _ended(space, nightly)
                _ended(space, migration)
            with _mark(marks, "soak"):
                time.sleep(quiet / 2)
        truths += [_truth(space, 1, questions), _truth(space, 2, questions)]
        with load.running(), _watched(space, builds):
            with _mark(marks, "rollback"):
                space.kb("rollback", "--tenant", TENANT)
                time.sleep(quiet / 4)
            with _mark(marks, "forward again"):
                space.kb("rollback", "--tenant", TENANT)
                time.sleep(quiet / 4)
            with _mark(marks, "to 384 d vector"):
                configure(f'provider = "{PROJECTED}"\nmodel = "p384"\ndims = 384')
                _ended(space, space.start("migrate"))
            with _mark(marks, "after"):
                time.sleep(quiet / 2)
        truths.append(_truth(space, 3, questions))
    _tell(space, load.done, marks, builds, truths)


def _tell(
    space: Workspace,
    done: list[Search],
    marks: list[tuple[str, float, float]],
    builds: list[tuple[float, float]],
    truths: list[list[set[str]]],
) -> None:
    def recall(one: Search) -> float:
        return max(len(set(one.texts) & truth[one.question]) / K for truth in truths)

    def p99(some: list[Search]) -> float:
        return sorted(one.ms for one in some)[int(len(some) * 0.99)] if some else 0.0

    def building(one: Search) -> bool:
        return any(begin <= one.due <= end for begin, end in builds)

    failed = [one for one in done if one.failed]
    short = [one for one in done if not one.failed and len(one.texts) < K]
    rows = [
        (name, end - begin, len(some), p99([one for one in some if not building(one)]),
         p99([one for one in some if building(one)]))
        for name, begin, end in marks
        for some in [[one for one in done if begin <= one.due < end]]
    ]  # fmt: skip
    table(("stage", "seconds", "searches", "p99 ms", "p99 ms while an index is built"), rows)
    base = rows[0][3]
    windows: dict[int, list[float]] = {}
    for one in done:
        if not one.failed:
            windows.setdefault(int(one.due // WINDOW_S), []).append(recall(one))
    lowest = min((sum(values) / len(values), len(values)) for values in windows.values() if len(values) >= K)
    print(f"contents: {space.query('SELECT contents FROM kb.tenants')[0][0]:,}; searches: {len(done):,}")
    print("index builds: " + ", ".join(f"{end - begin:.1f} s" for begin, end in builds))
    for one in failed[:3]:
        print(f"failed: {one.failed}")
    ratio("failed searches", len(failed), limit=0)
    ratio("short results", len(short), limit=0)
    ratio(f"lowest mean recall@10 of {len(windows)} windows of 10 s", lowest[0], at_least=0.95)
    outside = [one for one in done if one.due >= marks[1][1] and not building(one)]
    within = [one for one in done if building(one)]
    ratio("p99 outside index builds / before", p99(outside) / base, limit=2)
    ratio("p99 during index builds / before", p99(within) / base, limit=5)


@contextmanager
def _mark(marks: list[tuple[str, float, float]], name: str) -> Generator[None]:
    begin = time.monotonic()
    yield
    marks.append((name, begin, time.monotonic()))
    print(f"{name}: {time.monotonic() - begin:.1f} s", flush=True)


@contextmanager
def _watched(space: Workspace, builds: list[tuple[float, float]]) -> Generator[None]:
    """Notes when an index is being built."""
    import psycopg

    stop = threading.Event()

    def watch() -> None:
        with psycopg.connect(space.dsn(), autocommit=True) as conn:
            since: float | None = None
            while not stop.wait(0.05):
                row = conn.execute("SELECT count(*) FROM pg_stat_progress_create_index").fetchone()
                if row and row[0] and since is None:
                    since = time.monotonic()
                elif row and not row[0] and since is not None:
                    builds.append((since, time.monotonic()))
                    since = None

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _ended(space: Workspace, process: subprocess.Popen[bytes]) -> None:
    if process.wait() not in (0, 3):
        said = "".join(log.read_text(encoding="utf-8")[-1500:] for log in space.folder.glob("*.log"))
        raise SystemExit(f"{process.args!r} ended with {process.returncode}: {said}")


def _until(space: Workspace, query: str, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None and not space.query(query)[0][0]:
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
