"""The test provider as a process of its own, for benchmarks: its CPU and memory are not the measured process's."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from evals.bench.common import REPOSITORY

KEY = "sk-test"


@dataclass(frozen=True, slots=True)
class Provider:
    """A running server."""

    url: str

    def ledger(self) -> dict[str, Any]:
        """What it was asked and what it billed."""
        with urllib.request.urlopen(self.url.removesuffix("/v1") + "/_ledger", timeout=30) as answer:
            return json.load(answer)


@contextmanager
def provider(*options: str) -> Iterator[Provider]:
    """A server with these options of `tests/provider_server.py`, until the end of the block."""
    command = [sys.executable, str(REPOSITORY / "tests" / "provider_server.py"), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield Provider(process.stdout.readline().strip())
    finally:
        process.kill()
        process.wait()
