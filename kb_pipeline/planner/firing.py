"""Which run a trigger asks for: its cause by name, the attempt, and when a failed one is tried again. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from kb_pipeline.planner.model import Actual, Desired
from kb_pipeline.planner.triggers import Trigger

FIRST_WAIT = timedelta(minutes=10)
LONGEST_WAIT = timedelta(days=1)

LastRun = Literal["none", "going", "failed", "succeeded"]
"""What came of the last run that was asked for with a run key."""


@dataclass(frozen=True, slots=True)
class Attempts:
    """Failed runs of one cause."""

    failed: int = 0
    last_at: datetime | None = None
    """When the last of them failed."""


@dataclass(frozen=True, slots=True)
class Firing:
    """What to do now about a trigger that is due."""

    run_key: str | None
    """Ask for a run with this key; None: not now."""
    attempts: Attempts
    """To be kept when it differs from what was given."""
    words: str = ""
    """Why not now."""


def cause_of(trigger: Trigger, desired: Desired, actual: Actual) -> str:
    """The name of a cause: a run key is used up for ever, so it names the live build and what is wanted of it.

    A build that was refused, or rolled back from, since the live one was made is part of it: what fires after that
    (more growth) is another cause.
    """
    live = 0 if actual.live is None else actual.live.build_id
    parts = [f"b{live}"]
    answered = [build.build_id for build in actual.builds if build.build_id > live and build.verdict is not None]
    if answered:
        parts.append(f"r{max(answered)}")
    if trigger.name == "model":
        parts.append(desired.spec.hash().hex()[:8])
    elif trigger.name == "parameters":
        parts.append(f"m{desired.index.m}-e{desired.index.ef_construction}-{desired.index.storage}")
    return ".".join(parts)


def run_key(trigger: str, tenant_id: str, cause: str, failed: int) -> str:
    """`trigger:tenant:cause:attempt`."""
    return f"{trigger}:{tenant_id}:{cause}:{failed}"


def wait_after(failed: int) -> timedelta:
    """How long a cause rests after so many failed runs: not after the first, then 10 minutes, 20, 40, ... a day."""
    if failed <= 1:
        return timedelta()
    return min(FIRST_WAIT * 2 ** min(failed - 2, 16), LONGEST_WAIT)


def firing(trigger: str, tenant_id: str, cause: str, attempts: Attempts, last: LastRun, *, now: datetime) -> Firing:
    """Decides from what came of the run with the present key. A cause whose run succeeded never fires again."""
    if last == "going":
        return Firing(None, attempts, "its run is queued or under way")
    if last == "succeeded":
        return Firing(None, attempts, "its run ended well and it is still due; `kb rebuild` asks for another")
    if last == "failed":
        attempts = Attempts(attempts.failed + 1, now)
    if attempts.last_at is not None and (due := attempts.last_at + wait_after(attempts.failed)) > now:
        when = due.isoformat(timespec="seconds")
        return Firing(None, attempts, f"{attempts.failed} runs failed, the next is tried at {when}")
    return Firing(run_key(trigger, tenant_id, cause, attempts.failed), attempts)
