"""Processes that belong to another one."""

from __future__ import annotations

import os
import sys


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
