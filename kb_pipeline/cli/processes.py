"""The processes behind `kb dev`: one code server that the webserver and the daemon share, watched until one ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kb_pipeline.cli.instance import dagster_environment, shipped
from kb_pipeline.errors import KbError
from kb_pipeline.home import kb_home
from kb_pipeline.session import Session

STOP_WAIT_S = 15.0


def serve(session: Session, *, host: str, port: int) -> None:
    """Run webserver and daemon in the foreground. Raises `KbError` naming the log when one of them ends by itself."""
    environment = os.environ | dagster_environment(session)
    logs = kb_home() / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    workspace = str(shipped("workspace.yaml"))
    shown = f"http://{'127.0.0.1' if host in ('0.0.0.0', '::') else host}:{port}"
    web = ["dagster_webserver", "-w", workspace, "-h", host, "-p", str(port)]
    daemon = ["dagster._daemon.cli", "run", "-w", workspace]
    with termination_as_interrupt(), running({"webserver": web, "daemon": daemon}, environment, logs) as processes:
        try:
            wait_until_up(shown, processes, logs)
            print(f"Dagster UI: {shown}   (logs: {logs}; Ctrl-C stops)", flush=True)
            while True:
                refuse_ended(processes, logs)
                time.sleep(0.5)
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


@contextmanager
def running(
    commands: dict[str, list[str]], environment: dict[str, str], logs: Path
) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """Start each module as a process with its own log file; stop them all, children included, at the end."""
    processes: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name, command in commands.items():
            with (logs / f"{name}.log").open("ab") as log:
                processes[name] = subprocess.Popen(
                    [sys.executable, "-m", *command],
                    env=environment,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        yield processes
    finally:
        for process in processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        end = time.monotonic() + STOP_WAIT_S
        for process in processes.values():
            try:
                process.wait(max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def wait_until_up(url: str, processes: dict[str, subprocess.Popen[bytes]], logs: Path) -> None:
    """Return when the UI answers."""
    print("starting the Dagster UI (about ten seconds)", flush=True)
    while True:
        refuse_ended(processes, logs)
        try:
            with urllib.request.urlopen(f"{url}/server_info", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.25)


def refuse_ended(processes: dict[str, subprocess.Popen[bytes]], logs: Path) -> None:
    """Raise `KbError` with the last lines of the log when a process has ended."""
    for name, process in processes.items():
        if process.poll() is not None:
            log = logs / f"{name}.log"
            last = "\n".join(log.read_text(errors="replace").splitlines()[-8:])
            raise KbError(f"the {name} ended with code {process.returncode}; the end of {log}:\n{last}")


@contextmanager
def termination_as_interrupt() -> Iterator[None]:
    """Let SIGTERM (a supervisor, a closed terminal) stop everything as Ctrl-C does."""

    def interrupt(_signal: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
