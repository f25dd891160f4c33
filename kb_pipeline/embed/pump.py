"""Carries events from the lane's event loop to the thread that called it, where every callback happens."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

from kb_pipeline.embed.lane import Finished, Pending, Progress, Refused


@dataclass(frozen=True, slots=True)
class Want:
    """The loop has room for one more request."""


@dataclass(frozen=True, slots=True)
class BreakerChanged:
    """A circuit breaker changed its state."""

    endpoint: str
    state: str


@dataclass(frozen=True, slots=True)
class InputsLearned:
    """How many texts the server takes at once, as far as is known now; None: as many as are sent."""

    endpoint: str
    most: int | None


@dataclass(frozen=True, slots=True)
class Ended:
    """The loop has ended, well or with an error."""

    error: BaseException | None


Event = Want | Finished | Refused | Progress | BreakerChanged | InputsLearned | Ended


class Pump:
    """The two ends of a lane: `events()` in the caller's thread, everything else in the loop's.

    The loop asks for a batch only when it has room, and a batch's room is free again when its results were committed,
    so nothing piles up on either side.
    """

    def __init__(self) -> None:
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._thread: threading.Thread | None = None
        self.batches: asyncio.Queue[list[Pending] | None] = asyncio.Queue()
        """Batches for the loop; None when there are no more."""
        self.committed: asyncio.Queue[None] = asyncio.Queue()
        """One item for each `Finished` and `Refused` the caller has dealt with."""

    def start(self, main: Callable[[], Awaitable[None]]) -> None:
        """Run the coroutine function in a thread with an event loop of its own."""

        async def run() -> None:
            self._loop = asyncio.get_running_loop()
            self._task = asyncio.current_task()
            await main()

        def body() -> None:
            error: BaseException | None = None
            try:
                asyncio.run(run())
            except asyncio.CancelledError:
                pass
            except BaseException as raised:
                error = raised
            self._events.put(Ended(error))

        self._thread = threading.Thread(target=body, name="kb-lane", daemon=True)
        self._thread.start()

    def tell(self, event: Event) -> None:
        """Send an event to the caller. From any thread."""
        self._events.put(event)

    def events(self) -> Iterator[Event]:
        """All events up to and including `Ended`."""
        while True:
            event = self._events.get()
            yield event
            if isinstance(event, Ended):
                return

    def feed(self, batch: list[Pending] | None) -> None:
        """Give the loop a batch, or None for the end. From the caller's thread."""
        self._call(lambda: self.batches.put_nowait(batch))

    def commit(self) -> None:
        """Tell the loop that one result was dealt with. From the caller's thread."""
        self._call(lambda: self.committed.put_nowait(None))

    def cancel(self) -> None:
        """Give up what is in flight and wait for the thread. From the caller's thread; harmless when it has ended."""
        task = self._task
        if task is not None:
            self._call(lambda: task.cancel())
        if self._thread is not None:
            self._thread.join()

    def _call(self, action: Callable[[], object]) -> None:
        if self._loop is None:
            return
        try:
            self._loop.call_soon_threadsafe(action)
        except RuntimeError:  # the loop is closed already
            pass
