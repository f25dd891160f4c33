"""`kill -9` at random moments of `kb run`, then again, until one run ends: does the state equal an undisturbed run's?

`python -m evals.bench.chaos [--kills N] [--seed S]`. Also used by the tests. The embedder writes down every text it
is given, so that what was paid twice is counted and not believed.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evals.bench.common import header, table
from evals.bench.workspace import KB, Workspace, workspace

BATCH = 16
CONCURRENCY = 2

EMBEDDER = '''
"""An embedder that writes down the SHA-256 of every text before it answers, and takes its time."""
import hashlib
import os
import time

import numpy as np


class Recording:
    dims = 32
    model = "recording"

    def embed_documents(self, texts):
        log = os.open(os.environ["CHAOS_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(log, b"".join(digest(text).hex().encode() + b"\\n" for text in texts))
        os.close(log)
        time.sleep(0.02)
        return self.embed_queries(texts)

    def embed_queries(self, texts):
        seeds = [int.from_bytes(digest(text)[:8], "big") for text in texts]
        return np.stack([np.random.default_rng(seed).standard_normal(32) for seed in seeds]).astype("f4")


def digest(text):
    return hashlib.sha256(text.encode()).digest()
'''

TOML = """
[embedder]
provider = "python:recording_embedder:Recording"
dims = 32
max_batch_inputs = {batch}
max_concurrency = {concurrency}
[index]
exact_below = 0
[eval]
queries = 20
recall_floor = 0.0
latency_tolerance = 1e9
[tenants.stormy]
source = "{source}"
[tenants.calm]
source = "{source}"
"""


@dataclass(frozen=True, slots=True)
class Chaos:
    """What came of one disturbed history."""

    kills: int
    """Processes that were killed before they ended by themselves."""
    texts: int
    """Distinct texts that were embedded."""
    twice: int
    """How many more times a text was embedded than once."""
    chunks: list[dict[str, Any]]
    invalid_indexes: int
    missing_vectors: int
    staged_left: int
    """Builds that were left in the state `building`."""

    def allowed_twice(self) -> int:
        """Texts that may have been in flight at the kills: requests at work and an answer about to be committed."""
        return self.kills * BATCH * (CONCURRENCY + 1)


def write_documents(folder: Path, count: int, seed: int) -> None:
    """`count` Markdown files with sections of random words and one paragraph that all share."""
    source = random.Random(seed)
    vocabulary = ["".join(source.choices("abcdefghijklmnop", k=7)) for _ in range(500)]
    shared = " ".join(source.choices(vocabulary, k=60))
    for number in range(count):
        path = folder / f"part{number % 5}" / f"{number:04}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        sections = [f"## Section {n}\n\n{' '.join(source.choices(vocabulary, k=80))}\n" for n in range(6)]
        path.write_text(f"# Document {number}\n\n{shared}\n\n" + "\n".join(sections), encoding="utf-8")


def change_documents(folder: Path, seed: int) -> None:
    """Edit, delete, rename and add a few files."""
    source = random.Random(seed)
    files = sorted(folder.rglob("*.md"))
    source.shuffle(files)
    for path in files[:10]:
        path.write_text(
            path.read_text(encoding="utf-8") + f"\n## Later {seed}\n\nAdded {source.random()}.\n", encoding="utf-8"
        )
    for path in files[10:13]:
        path.unlink()
    for path in files[13:16]:
        path.rename(path.with_name(f"renamed-{seed}-{path.name}"))
    (folder / f"new-{seed}.md").write_text(f"# New {seed}\n\nText {source.random()}.\n", encoding="utf-8")


def settings(folder: Path) -> dict[str, str]:
    """Environment that makes the recording embedder importable and names its log; writes its module."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recording_embedder.py").write_text(EMBEDDER, encoding="utf-8")
    return {"PYTHONPATH": str(folder), "CHAOS_LOG": str(folder / "embedded.log")}


def run_and_kill(space: Workspace, tenant: str, after_s: float) -> float | None:
    """Start `kb run` and kill it after so long. None; or the seconds it took, when it ended before by itself."""
    started = time.monotonic()
    process = subprocess.Popen(
        [*KB, "run", "--tenant", tenant],
        env=dict(space.env),
        cwd=space.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        process.wait(timeout=after_s)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return None
    return time.monotonic() - started


def disturb(
    space: Workspace, docs: Path, *, kills: int, seed: int, change_after: int | None = None
) -> tuple[Chaos, list[dict[str, Any]]]:
    """Index the folder as tenant `stormy` with kills and as `calm` without; what came of it, and calm's chunks.

    The kills are spread over the time that an undisturbed run takes.
    """
    source = random.Random(seed)
    space.configure(TOML.format(batch=BATCH, concurrency=CONCURRENCY, source=docs))
    log = Path(space.env["CHAOS_LOG"])
    whole = space.kb("run", "--tenant", "calm").seconds
    log.unlink(missing_ok=True)
    killed = 0
    for number in range(kills):
        if number == change_after:
            change_documents(docs, seed)
        took = run_and_kill(space, "stormy", source.uniform(0.15, 0.85) * whole)
        if took is None:
            killed += 1
        else:  # aim earlier, and give the next one something to do
            whole = took
            change_documents(docs, seed + number + 1)
    space.kb("run", "--tenant", "stormy")
    embedded = Counter(log.read_text(encoding="utf-8").split())
    found = Chaos(
        kills=killed,
        texts=len(embedded),
        twice=sum(embedded.values()) - len(embedded),
        chunks=space.chunks("--tenant", "stormy"),
        invalid_indexes=int(space.query("SELECT count(*) FROM pg_index WHERE NOT indisvalid")[0][0]),
        missing_vectors=int(tenant_status(space, "stormy")["missing_embeddings"]),
        staged_left=int(space.query("SELECT count(*) FROM kb.builds WHERE state = 'building'")[0][0]),
    )
    space.kb("run", "--tenant", "calm")
    return found, space.chunks("--tenant", "calm")


def tenant_status(space: Workspace, tenant: str) -> Mapping[str, Any]:
    """This tenant's part of `kb status --json`."""
    return space.json("status", "--tenant", tenant)[tenant]


def problems(found: Chaos, calm: list[dict[str, Any]]) -> list[str]:
    """Every broken promise as a sentence."""
    said: list[str] = []
    if found.chunks != calm:
        said.append(f"chunks differ from an undisturbed run's: {len(found.chunks)} and {len(calm)}")
    if found.invalid_indexes:
        said.append(f"{found.invalid_indexes} INVALID indexes are left")
    if found.staged_left:
        said.append(f"{found.staged_left} builds are left in state building")
    if found.missing_vectors:
        said.append(f"{found.missing_vectors} contents have no vector")
    if found.twice > found.allowed_twice():
        said.append(
            f"{found.twice} texts were embedded again, {found.allowed_twice()} could be in flight at {found.kills}"
        )
    return said


def main() -> None:
    """Disturb, compare, and end with 1 when something is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--documents", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--smoke", action="store_true", help="three kills")
    args = parser.parse_args()
    header("kill -9 during kb run")
    with workspace() as made:
        space = Workspace(made.folder, settings(made.folder / "embedder"))
        docs = made.folder / "docs"
        write_documents(docs, args.documents, args.seed)
        kills = 3 if args.smoke else args.kills
        found, calm = disturb(space, docs, kills=kills, seed=args.seed, change_after=kills // 2)
    table(
        ("kills", "chunks", "texts", "embedded again", "could be in flight", "INVALID indexes"),
        [(found.kills, len(found.chunks), found.texts, found.twice, found.allowed_twice(), found.invalid_indexes)],
    )
    broken = problems(found, calm)
    if broken:
        raise SystemExit("\n".join(broken))


def kill_server(space: Workspace) -> None:
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
