"""Processes that belong to another one, and who goes first on a machine with few cores."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

NICE = 10


def end_with_parent() -> None:
    """To be called in a forked process: when its parent is killed the kernel kills it too (on Linux).

    A killed `kb run` lets go of the tenant's lock, so nothing of it may go on.
    """
    import ctypes
    import signal

    if sys.platform != "linux":
        return
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() == 1:
        os._exit(1)


@contextmanager
def behind_searches() -> Generator[None]:
    """Runs let what searches on the same machine go first; with nothing else to do they lose nothing.

    Connections made meanwhile do the same (`follow_priority`). To be entered after the session is open: a server that
    it had to start would inherit it.
    """
    before = os.getpriority(os.PRIO_PROCESS, 0)
    os.setpriority(os.PRIO_PROCESS, 0, max(before, NICE))
    try:
        yield
    finally:
        with suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, 0, before)


def follow_priority(backend: int) -> None:
    """Give a process of the embedded server the priority of this one, when that is a lowered one (on Linux).

    What a run costs is for the most part spent in Postgres. A number that is no server process of this machine (the
    server runs in another container) is left alone.
    """
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    if nice <= 0:
        return
    with suppress(OSError):
        if Path(f"/proc/{backend}/comm").read_text(encoding="utf-8").strip() == "postgres":
            os.setpriority(os.PRIO_PROCESS, backend, nice)
