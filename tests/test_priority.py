"""Who goes first on a machine with few cores."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from kb_pipeline.processes import NICE, behind_searches, follow_priority
from kb_pipeline.store.database import Database


@pytest.mark.skipif(sys.platform != "linux", reason="priorities of other processes are read from /proc")
def test_what_a_run_asks_of_postgres_lets_searches_go_first(db: Database) -> None:
    here = os.getpriority(os.PRIO_PROCESS, os.getpid())

    def run() -> tuple[int, int]:
        with behind_searches(), replace(db, embedded=True).connect("owner") as conn:
            follow_priority(os.getpid())  # no server process: a number of another container, say
            return os.getpriority(os.PRIO_PROCESS, 0), os.getpriority(os.PRIO_PROCESS, conn.info.backend_pid)

    with ThreadPoolExecutor(1) as other:  # a priority is the thread's, and not everybody may take it back
        assert other.submit(run).result() == (max(here, NICE),) * 2
    assert os.getpriority(os.PRIO_PROCESS, os.getpid()) == here
