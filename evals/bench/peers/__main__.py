"""The same corpus through LangChain's `index()`, LlamaIndex's `IngestionPipeline`, CocoIndex and `kb run`, in one run.

`python -m evals.bench.peers [--weeks N]`: Markdown of the PowerShell documentation, pieces of 1,200 characters, the
free 256 d embedder, no vector index, one Postgres server, whole processes. Each peer gets a virtual environment of
its own from `requirements-NAME.txt` (kept under `--venvs`, default: a folder in the user's cache); its settings stand
in its script. LangChain runs twice, with its default batches of 100 and, as `langchain-1000`, with batches that make
it faster. `kb run --until embeddings` runs with its own chunker at the default 320 tokens, which is about 1,200
characters.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from evals.bench.common import header, measure, ratio, skip, table
from evals.bench.corpora import Corpus, clone, data_folder, missing_data
from evals.bench.runs import configure
from evals.bench.workspace import Workspace, workspace

HERE = Path(__file__).parent
PEERS = ("cocoindex", "llamaindex", "langchain")
VARIANTS: dict[str, tuple[str, ...]] = {"langchain-1000": ("langchain", "--batch", "1000")}
"""A peer's script with other settings."""
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kb-bench-venvs"


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one tool."""

    seconds: float
    cpu_seconds: float
    """Of the process alone, not of the server."""
    peak_mb: float
    texts: int


Tool = Callable[[Path], Run]


def peer_python(name: str, venvs: Path) -> Path:
    """The peer's interpreter; its environment is made when its requirements are new."""
    requirements = HERE / f"requirements-{name}.txt"
    mark = hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]
    folder = venvs / f"{name}-{mark}"
    done = folder / "complete"
    if not done.exists():
        print(f"making the virtual environment of {name} ...", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        install = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "-r", str(requirements)]
        installed = subprocess.run(install, capture_output=True, text=True, check=False)
        if installed.returncode:
            raise SystemExit(f"{name}: pip could not install {requirements}:\n{installed.stderr[-2000:]}")
        done.touch()
    return folder / "bin" / "python"


def peer(name: str, space: Workspace, state: Path, python: Path) -> Tool:
    """A tool that runs a peer's script on a database and a state folder of its own."""
    import psycopg
    from psycopg import sql
    from psycopg.conninfo import conninfo_to_dict

    script, *options = VARIANTS.get(name, (name,))
    parts = conninfo_to_dict(space.dsn())
    database = f"bench_{name}"
    with psycopg.connect(space.dsn(), autocommit=True) as conn:
        conn.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(database)))
        conn.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database)))
    secret = f":{parts['password']}" if parts.get("password") else ""
    host, port = parts.get("host", ""), parts.get("port", "5432")
    where = f"/{database}?host={host}&port={port}" if str(host).startswith("/") else f"{host}:{port}/{database}"
    dsn = f"postgresql://{parts.get('user', 'postgres')}{secret}@{where}"
    env = {
        **space.env,
        "COCOINDEX_DISABLE_USAGE_TRACKING": "1",
        "LANGSMITH_TRACING": "false",
        "TOKENIZERS_PARALLELISM": "true",
    }

    def run(tree: Path) -> Run:
        command = [python, HERE / f"{script}_run.py", "--docs", tree, "--dsn", dsn, "--state", state / name, *options]
        done = measure(command, env=env)
        return Run(done.seconds, done.cpu_seconds, done.peak_mb, int(done.last_json()["texts"]))

    return run


def ours(space: Workspace) -> Tool:
    """`kb run --until embeddings`."""

    def run(_tree: Path) -> Run:
        before = space.texts_embedded()
        done = space.kb("run", "--until", "embeddings")
        return Run(done.seconds, done.cpu_seconds, done.peak_mb, space.texts_embedded() - before)

    return run


def tools(space: Workspace, corpus: Corpus, state: Path, pythons: dict[str, Path]) -> dict[str, Tool]:
    """Every tool with nothing indexed yet."""
    configure(space, corpus.tree)
    peers = {name: peer(name, space, state, python) for name, python in pythons.items()}
    return {"kb": ours(space), **peers}


def rounds(everyone: dict[str, Tool], tree: Path) -> dict[str, Run]:
    """One run of each tool on the tree as it stands, one after the other."""
    return {name: tool(tree) for name, tool in everyone.items()}


def main() -> None:
    """Measure every tool on the same revisions, then print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weeks", type=int, default=12, help="revisions, the base included")
    parser.add_argument(
        "--colds", type=int, default=3, help="cold runs of each, on databases of their own; the median counts"
    )
    parser.add_argument("--venvs", type=Path, default=CACHE, help="where the peers' virtual environments are kept")
    parser.add_argument("--only", nargs="*", default=list(PEERS), choices=PEERS)
    parser.add_argument("--smoke", action="store_true", help="two weeks of the smallest corpus")
    args = parser.parse_args()
    data = data_folder()
    if data is None:
        skip(missing_data())
    name, weeks, colds_wanted = ("prometheus", 2, 1) if args.smoke else ("powershell", args.weeks, args.colds)
    pythons = {peer_name: peer_python(peer_name, args.venvs) for peer_name in args.only}
    pythons |= {variant: pythons[of] for variant, (of, *_) in VARIANTS.items() if of in pythons}
    header(f"Peers on {name}")
    for peer_name in args.only:
        pins = (HERE / f"requirements-{peer_name}.txt").read_text().split()
        heads = ("cocoindex==", "llama-index", "langchain")
        print(f"{peer_name}: {', '.join(pin for pin in pins if pin.startswith(heads))}")
    with TemporaryDirectory() as folder:
        corpus = clone(name, Path(folder), data=data)
        revisions = corpus.revisions[:weeks]
        corpus.checkout(revisions[0])
        colds: list[dict[str, Run]] = []
        for number in range(colds_wanted - 1):
            with workspace() as space:
                colds.append(rounds(tools(space, corpus, Path(folder) / f"state{number}", pythons), corpus.tree))
        with workspace() as space:
            everyone = tools(space, corpus, Path(folder) / "state", pythons)
            colds.append(rounds(everyone, corpus.tree))
            updates = [rounds(everyone, corpus.checkout(revision)) for revision in revisions[1:]]
            same = [rounds(everyone, corpus.tree) for _ in range(3)]
    print(f"\n{revisions[0].files} files, {revisions[0].bytes / 1e6:.1f} MB at the base; {len(updates)} updates\n")
    rows = [
        (
            tool,
            median(run[tool].seconds for run in colds),
            median(run[tool].cpu_seconds for run in colds),
            max(run[tool].peak_mb for run in (*colds, *updates, *same)),
            colds[-1][tool].texts,
            sum(run[tool].seconds for run in updates),
            sum(run[tool].texts for run in updates),
            median(run[tool].seconds for run in same),
            sum(run[tool].texts for run in same),
        )
        for tool in ("kb", *pythons)
    ]
    columns = ("tool", "cold s", "cpu s", "peak MB", "texts", "updates s", "texts", "unchanged s", "texts")
    table(columns, rows)
    mine, *others = rows
    if others:
        fastest = min((row for row in others if row[0] not in VARIANTS), key=lambda row: float(str(row[1])))
        for row in others:
            expected = 3.0 if row is fastest else None
            ratio(f"cold run, {row[0]} / kb", float(str(row[1])) / float(str(mine[1])), at_least=expected)
        ratio("updates, texts of the best peer / kb", min(int(str(r[6])) for r in others) / max(1, int(str(mine[6]))))
    ratio("unchanged run of kb, seconds", float(str(mine[7])), limit=2.5)


if __name__ == "__main__":
    main()
