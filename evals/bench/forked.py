"""`kb` commands as forks of a process that has imported everything: one starts in milliseconds, so a kill costs little.

For the storms of kills. `Forks(env, cwd, prepare="module:function")` starts that process; `start("migrate")` gives a
`Child`, which says what it comes to (`announce`) and is killed with `kill`. The function named by `prepare` runs once
before any child; what the first child imported is imported for the others.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn, Self

from evals.bench.common import REPOSITORY

KILLED = -signal.SIGKILL
_tell_to: list[int] = []
"""The pipe of this process, when it is a child."""


def announce(place: str, name: str) -> None:
    """Have the function or method at `module:path` say `name` whenever it is called. For `prepare`."""
    module, _, path = place.partition(":")
    owner: Any = import_module(module)
    *above, last = path.split(".")
    for part in above:
        owner = getattr(owner, part)
    work: Callable[..., Any] = getattr(owner, last)

    @wraps(work)
    def announced(*args: Any, **kwargs: Any) -> Any:
        _say("at", name)
        return work(*args, **kwargs)

    setattr(owner, last, announced)


class Child:
    """One command under way. Its exit status is `status` once `wait` has said so."""

    def __init__(self, pipe: int, on_modules: Callable[[list[str]], None]) -> None:
        self.began: dict[str, float] = {}
        """What it announced -> `time.monotonic()` then, the last time."""
        self.at = "start"
        """What it announced last."""
        self.status: int | None = None
        self._pipe, self._rest, self._pid, self._ended = pipe, b"", 0, KILLED
        self._on_modules = on_modules

    def wait(self, seconds: float | None = None, *, until: str | None = None) -> bool:
        """Whether it ended, or announced `until`, within so many seconds."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while self.status is None and (until is None or until not in self.began):
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0 or not select.select([self._pipe], [], [], left)[0]:
                return False
            self._read()
        return True

    def kill(self) -> None:
        """SIGKILL, and wait until nothing of it is left."""
        while not self._pid and self.status is None:
            self._read()
        if self.status is None:
            with suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            self.wait()

    def lasting(self) -> dict[str, float]:
        """Seconds from each announcement to the next, the last one's to now: for one that just ended."""
        moments = sorted((at, name) for name, at in self.began.items())
        ends = [at for at, _ in moments[1:]] + [time.monotonic()]
        return {name: end - at for (at, name), end in zip(moments, ends, strict=True)}

    def _read(self) -> None:
        data = os.read(self._pipe, 1 << 16)
        if not data:  # the process, and those it had forked, are gone
            os.close(self._pipe)
            self.status = self._ended
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            word, _, value = line.decode().partition(" ")
            if word == "at":
                self.at = value
                self.began[value] = time.monotonic()
            elif word == "pid":
                self._pid = int(value)
            elif word == "modules":
                self._on_modules(value.split())
            elif word == "end":
                self._ended = int(value)


class Forks:
    """The process that children are forked from; a context manager that ends it. `env` is its whole environment."""

    def __init__(self, env: Mapping[str, str], cwd: Path, *, prepare: str = "", log: Path | None = None) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._known = False
        self._log = log or cwd / "forked.log"
        with self._log.open("ab") as out, theirs:
            paths = [str(REPOSITORY), *env.get("PYTHONPATH", "").split(os.pathsep)]
            self._process = subprocess.Popen(
                [sys.executable, "-m", "evals.bench.forked", str(theirs.fileno()), prepare],
                env={**env, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
                cwd=cwd, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._process.wait()

    def start(self, *words: str) -> Child:
        """Run `kb WORDS`; what it says goes to the log."""
        ours, theirs = os.pipe()
        try:
            socket.send_fds(self._socket, [json.dumps({"words": words}).encode()], [theirs])
        finally:
            os.close(theirs)
        return Child(ours, self._import)

    def run(self, *words: str) -> Child:
        """The same to its end."""
        child = self.start(*words)
        child.wait()
        return child

    def well(self, child: Child) -> Child:
        """The child, which has ended. Raises `SystemExit` with what it said when that was not well."""
        if child.status:
            raise SystemExit(f"a command ended with {child.status} at {child.at!r}: {self.said()}")
        return child

    def said(self) -> str:
        """The end of the log."""
        return self._log.read_text(encoding="utf-8")[-2000:]

    def _import(self, modules: list[str]) -> None:
        if not self._known:
            self._known = True
            for at in range(0, len(modules), 200):
                self._socket.send(json.dumps({"modules": modules[at : at + 200]}).encode())


def _serve(channel: socket.socket, prepare: str) -> NoReturn:
    if prepare:
        module, _, name = prepare.partition(":")
        getattr(import_module(module), name)()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the dead are nobody's zombies
    while True:
        data, fds, _, _ = socket.recv_fds(channel, 1 << 17, 1)
        if not data:
            os._exit(0)
        asked = json.loads(data)
        for name in asked.get("modules", ()):
            with suppress(Exception):
                import_module(name)
        if fds:
            if os.fork() == 0:
                channel.close()
                _command(fds[0], asked["words"])
            os.close(fds[0])


def _command(pipe: int, words: list[str]) -> NoReturn:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    _tell_to.append(pipe)
    _say("pid", str(os.getpid()))
    before = set(sys.modules)
    status = 1
    try:
        from kb_pipeline.cli.app import main

        status = main(words)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        if status == 0:
            _say("modules", " ".join(sorted(set(sys.modules) - before)))
        _say("end", str(status))
        os._exit(status)


def _say(word: str, value: str) -> None:
    if _tell_to:
        os.write(_tell_to[0], f"{word} {value}\n".encode())


if __name__ == "__main__":
    import evals.bench.forked as own  # `announce` and the children must speak of the same pipe

    own._serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2])  # pyright: ignore[reportPrivateUsage]
