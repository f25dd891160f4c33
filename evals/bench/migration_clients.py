"""Clients that search at a fixed rate while a model changes, and what is said of their answers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kb_pipeline.search.retriever import Retriever
    from kb_pipeline.store.database import Database

K = 10
THREADS = 4
Answer = Callable[[str], tuple[int, Sequence[str]]]
"""Question -> version that answered, texts."""


@dataclass(frozen=True, slots=True)
class Search:
    """One search of the load."""

    due: float
    ms: float
    question: int
    version: int
    """The question was made with."""
    texts: tuple[str, ...]
    failed: str = ""


@dataclass(slots=True)
class Load:
    """Clients that search at a fixed rate until they are told to stop."""

    search: Answer
    questions: list[str]
    per_second: float
    done: list[Search] = field(default_factory=list[Search])
    _next: int = 0
    _stop: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def running(self) -> Generator[None]:
        """Load while the block runs."""
        self._stop, started, first = False, time.monotonic(), self._next
        threads = [threading.Thread(target=self._client, args=(started, first), daemon=True) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop = True
            for thread in threads:
                thread.join()

    def _client(self, started: float, first: int) -> None:
        while not self._stop:
            with self._lock:
                number = self._next
                self._next += 1
            due = started + (number - first) / self.per_second
            time.sleep(max(0.0, due - time.monotonic()))
            question, version, texts, failed = number % len(self.questions), 0, (), ""
            try:
                version, found = self.search(self.questions[question])
                texts = tuple(found)
            except Exception as error:
                failed = f"{type(error).__name__}: {error}"
            self.done.append(Search(due, (time.monotonic() - due) * 1000, question, version, texts, failed))


@contextmanager
def answering(db: Database, settings: Any, tenant: str) -> Generator[Answer]:
    """A `Retriever`, and with each answer the version whose model made the question."""
    from kb_pipeline.search.retriever import Retriever

    used = threading.local()
    with Retriever(db, settings) as retriever:
        _note(retriever, used)

        def answer(question: str) -> tuple[int, list[str]]:
            texts = [hit.text for hit in retriever.search(question, tenant=tenant, k=K)]
            return used.version, texts

        yield answer


def _note(retriever: Retriever, used: threading.local) -> None:
    ask: Any = getattr(retriever, "_ask")  # noqa: B009 (the last one asked with is the one that answered)

    def noting(tenant: str, version: int, *rest: Any, **options: Any) -> Any:
        used.version = version
        return ask(tenant, version, *rest, **options)

    setattr(retriever, "_ask", noting)  # noqa: B010


def p99(some: Iterable[Search]) -> float:
    """Milliseconds; 0 without searches."""
    times = sorted(one.ms for one in some)
    return times[int(len(times) * 0.99)] if times else 0.0


def p50(some: Iterable[Search]) -> float:
    """Milliseconds; 0 without searches."""
    times = sorted(one.ms for one in some)
    return times[len(times) // 2] if times else 0.0
