"""What the lane promises its caller: one thread, flat memory, clean ends, limits kept, honest stand-ins."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from embed_helpers import KEY, ProviderServer, Store, config_for, count_tokens, pending, run_lane, vector

from kb_pipeline.config.schema import EmbedderConfig
from kb_pipeline.embed.lane import Finished, Pending
from kb_pipeline.embed.registry import make_embedder, make_lane
from kb_pipeline.errors import BudgetExceeded, ProviderUnavailable

TEXTS = [f"text {number} of a small corpus" for number in range(400)]


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KB_TEST_EMBED_KEY", KEY)


def test_reading_and_callbacks_happen_in_the_calling_thread() -> None:
    threads: set[threading.Thread] = set()

    def read() -> Iterator[Pending]:
        for one in pending(TEXTS):
            threads.add(threading.current_thread())
            yield one

    with ProviderServer() as server:
        config = config_for(server)
        make_lane(config, make_embedder(config)).run(
            read(),
            on_batch=lambda _: threads.add(threading.current_thread()),
            on_refused=lambda _: None,
            on_progress=lambda _: threads.add(threading.current_thread()),
            admit=lambda _: threads.add(threading.current_thread()),
        )
    assert threads == {threading.current_thread()}


def test_reading_waits_for_commits() -> None:
    read = committed = ahead = 0

    def count(texts: Sequence[str]) -> Iterator[Pending]:
        nonlocal read, ahead
        for one in pending(texts):
            read += 1
            ahead = max(ahead, read - committed)
            yield one

    def commit(batch: Finished) -> None:
        nonlocal committed
        time.sleep(0.005)
        committed += len(batch.fingerprints)

    with ProviderServer() as server:
        config = config_for(server, max_concurrency=4, max_batch_inputs=10)
        texts = [f"text {number}" for number in range(3000)]
        make_lane(config, make_embedder(config)).run(count(texts), on_batch=commit, on_refused=lambda _: None)
    assert committed == 3000
    assert ahead <= 10 * (4 + 2) + 1


def test_an_error_of_the_writer_ends_the_run() -> None:
    def fail(batch: Finished) -> None:
        raise RuntimeError("disk full")

    with ProviderServer(latency_s=0.1) as server:
        config = config_for(server)
        with pytest.raises(RuntimeError, match="disk full"):
            make_lane(config, make_embedder(config)).run(pending(TEXTS), on_batch=fail, on_refused=lambda _: None)
    assert not [thread for thread in threading.enumerate() if thread.name == "kb-lane"]


@pytest.mark.parametrize("provider", ["openai", "local"])
def test_a_budget_stops_between_batches_and_what_was_sent_is_delivered(provider: str) -> None:
    admitted: list[int] = []

    def admit(batch: Sequence[Pending]) -> None:
        if sum(admitted) + len(batch) > 150:
            raise BudgetExceeded("enough")
        admitted.append(len(batch))

    with ProviderServer() as server:
        config = config_for(server) if provider == "openai" else EmbedderConfig(max_batch_inputs=50)
        store = Store()
        with pytest.raises(BudgetExceeded):
            make_lane(config, make_embedder(config)).run(
                pending(TEXTS), on_batch=store.keep, on_refused=store.refuse, admit=admit
            )
        assert len(store.vectors) == sum(admitted) == 150


def test_the_limits_of_the_provider_are_kept_without_429() -> None:
    texts = [f"text {number} " + "word " * 100 for number in range(120)]
    used: list[float] = []
    while max(used, default=0.0) < 0.9:  # a machine that sleeps a second at the end of a run makes it look slow
        with ProviderServer(tokens_per_minute=60_000, burst_tokens=4_000, latency_s=0.05) as server:
            store = Store()
            report = run_lane(config_for(server), store, texts)
            store.holds(server, texts)
            answered = [(at, tokens) for at, tokens, status in server.ledger.sent if status == 200]
        elapsed = answered[-1][0] - answered[0][0]
        allowed = 4_000 + 1_000 * elapsed
        used.append(sum(tokens for _, tokens in answered) / allowed)
        assert report.throttled <= 1
        assert len(used) < 5, used


def test_a_request_larger_than_the_bucket_is_taken_apart() -> None:
    with ProviderServer(tokens_per_minute=120_000, burst_tokens=1_000) as server:
        texts = [f"text {number} " + "word " * 100 for number in range(60)]
        store = Store()
        report = run_lane(config_for(server), store, texts)
        store.holds(server, texts)
        assert report.throttled <= 12


def test_configured_limits_are_kept_without_headers() -> None:
    # The bucket holds a second's worth more than the burst: the first request may be on its way for so long.
    with ProviderServer(tokens_per_minute=60_000, burst_tokens=6_000, headers=False) as server:
        texts = [f"text {number} " + "word " * 100 for number in range(100)]
        store = Store()
        report = run_lane(config_for(server, tokens_per_minute=60_000, max_concurrency=2), store, texts)
        store.holds(server, texts)
        assert report.throttled == 0


def test_requests_are_packed_to_the_provider_limits() -> None:
    with ProviderServer() as server:
        store = Store()
        texts = [f"text {number} " + "word " * 5_000 for number in range(80)]
        run_lane(config_for(server, max_batch_inputs=2048, max_batch_tokens=20_050), store, texts)
        store.holds(server, texts)
        assert 15_000 < server.ledger.largest_tokens <= 20_050


@pytest.mark.filterwarnings("ignore:open_binary is deprecated:DeprecationWarning")
def test_prefixes_are_sent_and_dimensions_only_where_the_model_takes_them() -> None:
    with ProviderServer(dims=256) as server:
        config = config_for(server, document_prefix="passage: ", query_prefix="query: ")
        seen: list[np.ndarray] = []
        make_lane(config, make_embedder(config)).run(
            pending(["one"]), on_batch=lambda batch: seen.append(batch.vectors[0]), on_refused=lambda _: None
        )
        np.testing.assert_allclose(seen[0], vector("passage: one", 256), atol=1e-5)
        query = make_embedder(config).embed_queries(["one"]).vectors[0]
        np.testing.assert_allclose(query, vector("query: one", 256), atol=1e-5)
        assert server.asked_dimensions == {256}
    with ProviderServer(dims=256, model="some-model") as server:
        run_lane(config_for(server), Store(), TEXTS)
        assert server.asked_dimensions == {None}


def samples(server: ProviderServer) -> list[tuple[str, np.ndarray]]:
    """What the database would give."""
    return [(text, vector(text, server.dims, server.model)) for text in TEXTS[:3]]


def test_another_endpoint_of_the_same_space_stands_in() -> None:
    with ProviderServer() as first, ProviderServer() as second:
        first.fail("ok", 2)
        first.fail("503", -1)
        store = Store()
        config = config_for(first, endpoints=(second.url,), breaker_reset_s=30)
        report = run_lane(config, store, TEXTS, samples=lambda: samples(first))
        store.holds(first, TEXTS)
        assert report.endpoints == {first.url: "used", second.url: "used"}
        assert second.ledger.answered > 1


def test_vectors_of_this_run_vouch_for_a_stand_in_when_nothing_is_stored() -> None:
    with ProviderServer() as first, ProviderServer() as second:
        first.fail("ok", 2)
        first.fail("429", -1, retry_after="3600")
        store = Store()
        run_lane(config_for(first, endpoints=(second.url,)), store, TEXTS)
        store.holds(first, TEXTS)


def test_an_endpoint_of_another_space_is_refused() -> None:
    def other(text: str, dims: int, model: str) -> np.ndarray:
        return vector(text, dims, "another-model")

    with ProviderServer() as first, ProviderServer(vectors=other) as second:
        first.fail("ok", 2)
        first.fail("503", -1)
        store = Store()
        config = config_for(first, endpoints=(second.url,), breaker_reset_s=30, max_wait_s=20)
        with pytest.raises(ProviderUnavailable):
            run_lane(config, store, TEXTS, samples=lambda: samples(first))
        assert second.ledger.answered == 1
        first.faults.clear()
        run_lane(config, store, TEXTS, samples=lambda: samples(first))
        store.holds(first, TEXTS)


def test_no_text_is_lost_when_faults_come_one_after_another() -> None:
    kinds = ["429", "500", "cut", "nan", "reset", "missing", "503", "permute", "wrong-dims", "zero", "double"]
    with ProviderServer() as server:
        for kind in itertools.chain.from_iterable(zip(kinds, ["ok"] * len(kinds), strict=True)):
            server.fail(kind, 1)
        store = Store()
        run_lane(config_for(server, max_batch_inputs=20), store, TEXTS)
        store.holds(server, TEXTS)
        assert server.ledger.paid_twice() <= 5 * 20
        assert store.tokens <= server.ledger.paid_tokens


def test_tokens_are_what_the_provider_bills() -> None:
    with ProviderServer() as server:
        store = Store()
        run_lane(config_for(server), store, TEXTS)
        assert store.tokens == sum(count_tokens(text) for text in TEXTS)
