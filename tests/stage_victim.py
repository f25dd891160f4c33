"""A run that kills itself with SIGKILL at a given place: `python stage_victim.py WORLD_JSON PLACE NTH before|after`."""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from stage_world import World

from kb_pipeline.store.database import Database


def die_at(place: str, nth: int, when: str) -> None:
    """Replace the function or method at `module:name` by one that ends this process at its nth call."""
    module_name, _, name = place.partition(":")
    owner: Any = importlib.import_module(module_name)
    *parents, last = name.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    original = getattr(owner, last)
    calls = 0

    def deadly(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == nth and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*args, **options)
        if calls == nth:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, last, deadly)


def main() -> None:
    """Run and die."""
    facts = json.loads(sys.argv[1])
    world = World(Database(facts["dsn"]), Path(facts["root"]), facts["tenant_id"], facts["sections"], runs=100)
    die_at(sys.argv[2], int(sys.argv[3]), sys.argv[4])
    world.run()


if __name__ == "__main__":
    main()
