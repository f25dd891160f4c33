"""Where a build goes: the slot that is free, and what has to leave for it."""

from __future__ import annotations

from collections.abc import Sequence

from kb_pipeline.store.builds import BuildRow

SLOTS = ("a", "b")


def free_slot(builds: Sequence[BuildRow], version: int) -> tuple[str, BuildRow | None]:
    """The slot of the version's column for a new build, and the build that has to be dropped first, if any.

    One slot is the live build's. A candidate that was never promoted gives way before the previous build does, which is
    only the way back; nothing is dropped while a slot is free.
    """
    taken = {build.slot: build for build in builds if build.version == version and build.slot is not None}
    for slot in SLOTS:
        if slot not in taken:
            return slot, None
    order = {"candidate": 0, "previous": 1, "building": 2, "live": 3}
    leaving = min((taken[slot] for slot in SLOTS), key=lambda build: (order[build.state], build.build_id))
    assert leaving.state in ("candidate", "previous"), (
        "one build of a tenant is live, and none is building under the lock"
    )
    return str(leaving.slot), leaving
