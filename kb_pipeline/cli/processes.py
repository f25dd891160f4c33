"""The processes behind `kb dev`: code server, webserver and daemon, watched until one ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from kb_pipeline.cli.instance import dagster_environment
from kb_pipeline.errors import KbError
from kb_pipeline.home import kb_home
from kb_pipeline.session import Session

LOCATION = "kb_pipeline"
"""Name of the code location; workspace.yaml and pyproject.toml have the same."""
STOP_WAIT_S = 15.0


def serve(session: Session, *, host: str, port: int) -> None:
    """Run code server, webserver and daemon in the foreground. Raises `KbError` when one of them ends by itself."""
    environment = os.environ | dagster_environment(session)
    logs = kb_home() / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    shown = f"http://{'127.0.0.1' if host in ('0.0.0.0', '::') else host}:{port}"
    with (
        signals_as_interrupt(),
        tempfile.TemporaryDirectory(prefix="kb-dev-") as folder,
        Processes(environment, logs) as processes,
    ):
        try:
            print("starting the Dagster UI (about ten seconds)", flush=True)
            # One server for the code: a webserver and a daemon with a module in their workspace start one each, and the
            # daemon starts its own anew every minute.
            socket_path, workspace = Path(folder) / "code.sock", Path(folder) / "workspace.yaml"
            workspace.write_text(f"load_from:\n  - grpc_server: {{socket: {socket_path}, location_name: {LOCATION}}}\n")
            processes.start(
                "code-server", "dagster", "code-server", "start", "-m", "kb_pipeline.definitions",
                "-s", str(socket_path), "--location-name", LOCATION,
                "--use-python-environment-entry-point", "--inject-env-vars-from-instance",
            )  # fmt: skip
            processes.wait(lambda: socket_path.exists())
            processes.start("webserver", "dagster_webserver", "-w", str(workspace), "-h", host, "-p", str(port))
            processes.start("daemon", "dagster._daemon", "run", "-w", str(workspace))
            processes.wait(lambda: answers(f"{shown}/server_info"))
            print(f"Dagster UI: {shown}   (logs: {logs}; Ctrl-C stops)", flush=True)
            processes.wait(lambda: False)
        except KeyboardInterrupt:
            print("stopping", flush=True)


def free_port(host: str, wanted: int) -> int:
    """The wanted port, or the next free one after it. Raises `KbError` when twenty in a row are taken."""
    for port in range(wanted, wanted + 20):
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port
    raise KbError(f"no free port on {host} from {wanted} to {wanted + 19}; say another with --port")


class Processes:
    """Modules of this Python as processes, each with a log file of its own; all are stopped at the end."""

    def __init__(self, environment: dict[str, str], logs: Path) -> None:
        self._environment = environment
        self._logs = logs
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._running.values():
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        end = time.monotonic() + STOP_WAIT_S
        for process in self._running.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, end - time.monotonic()))
        for process in self._running.values():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # what it started and left
            process.wait()

    def start(self, name: str, module: str, *arguments: str) -> None:
        """Run `python -m module arguments` in a process group of its own."""
        with (self._logs / f"{name}.log").open("wb") as log:
            self._running[name] = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                env=self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait(self, condition: Callable[[], bool]) -> None:
        """Return when the condition holds. Raises `KbError` with the end of the log when a process has ended."""
        while not condition():
            for name, process in self._running.items():
                if process.poll() is not None:
                    log = self._logs / f"{name}.log"
                    last = "\n".join(log.read_text(errors="replace").splitlines()[-8:])
                    raise KbError(f"the {name} ended with code {process.returncode}; the end of {log}:\n{last}")
            time.sleep(0.25)


def answers(url: str) -> bool:
    """Whether something answers there."""
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except (urllib.error.URLError, OSError):
        return False


@contextmanager
def signals_as_interrupt() -> Generator[None]:
    """Let SIGTERM (a supervisor) and SIGHUP (a closed terminal) stop everything as Ctrl-C does."""

    def interrupt(_signal: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
