"""Ends a run cleanly: whoever waits stops waiting, whoever has a request on its way sees it through."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


class Stopped(Exception):
    """The run is ending; nothing new is sent."""


class Stopping:
    """The first error wins. Belongs to one event loop."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self._event = asyncio.Event()

    def stop(self, error: Exception) -> None:
        """End the run with this error, unless it is ending already."""
        if self.error is None:
            self.error = error
            self._event.set()

    @property
    def stopped(self) -> bool:
        """Whether the run is ending."""
        return self._event.is_set()

    def check(self) -> None:
        """Raises `Stopped` when the run is ending."""
        if self.stopped:
            raise Stopped

    async def sleep(self, seconds: float) -> None:
        """Sleep that long. Raises `Stopped` as soon as the run is ending."""
        self.check()
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            return
        raise Stopped

    async def either(self, work: Coroutine[Any, Any, None]) -> None:
        """Wait for `work`. Raises `Stopped` as soon as the run is ending; `work` is then cancelled."""
        tasks = {asyncio.ensure_future(work), asyncio.ensure_future(self._event.wait())}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
        self.check()
