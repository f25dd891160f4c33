"""The sync lane against a server that behaves like the real one on a bad day."""

from __future__ import annotations

import pytest
from embed_helpers import KEY, ProviderServer, Store, config_for, run_lane

from kb_pipeline.errors import ConfigError, EmbedderError, ProviderUnavailable

TEXTS = [f"text {number} of a small corpus" for number in range(400)]


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KB_TEST_EMBED_KEY", KEY)
    monkeypatch.setattr("kb_pipeline.embed.asking.PAUSE_S", 0.05)


def test_all_texts_come_back_and_are_paid_once() -> None:
    with ProviderServer() as server:
        store = Store()
        report = run_lane(config_for(server), store, TEXTS)
        store.holds(server, TEXTS)
        assert server.ledger.paid_twice() == 0
        assert store.tokens == server.ledger.paid_tokens == report.tokens
        assert (report.texts, report.retries, report.refused) == (400, 0, 0)
        assert server.ledger.largest_inputs <= 50
        assert store.progress[-1].texts == 400


def test_float_lists_are_taken_too() -> None:
    with ProviderServer() as server:
        server.only_floats = True
        store = Store()
        run_lane(config_for(server), store, TEXTS)
        store.holds(server, TEXTS)


@pytest.mark.parametrize("kind", ["429", "500", "502", "503", "reset"])
def test_unanswered_requests_are_sent_again_and_nothing_is_paid_twice(kind: str) -> None:
    with ProviderServer() as server:
        server.fail("ok", 2)
        server.fail(kind, 3)
        store = Store()
        report = run_lane(config_for(server), store, TEXTS)
        store.holds(server, TEXTS)
        assert report.retries == 3
        assert server.ledger.paid_twice() == 0


@pytest.mark.parametrize("kind", ["cut", "wrong-dims", "nan", "zero", "missing", "double"])
def test_only_texts_of_spoilt_answers_are_paid_again(kind: str) -> None:
    with ProviderServer() as server:
        server.fail("ok", 2)
        server.fail(kind, 3)
        store = Store()
        report = run_lane(config_for(server), store, TEXTS)
        store.holds(server, TEXTS)
        assert 0 < server.ledger.paid_twice() <= report.sent_again_texts <= 150


def test_order_of_items_does_not_matter() -> None:
    with ProviderServer() as server:
        server.fail("permute", -1)
        store = Store()
        assert run_lane(config_for(server), store, TEXTS).retries == 0
        store.holds(server, TEXTS)


@pytest.mark.parametrize("kind", ["hang", "drip"])
def test_a_request_has_a_deadline(kind: str) -> None:
    with ProviderServer() as server:
        server.fail(kind, 2, seconds=3600)
        store = Store()
        run_lane(config_for(server, request_timeout_s=1.0), store, TEXTS)
        store.holds(server, TEXTS)


def test_a_429_with_retry_after_is_kept_by_all_requests() -> None:
    with ProviderServer() as server:
        server.fail("ok", 3)
        server.fail("429", 1, retry_after="1")
        store = Store()
        report = run_lane(config_for(server, max_concurrency=1), store, TEXTS)
        store.holds(server, TEXTS)
        refused_at = next(at for at, _, status in server.ledger.sent if status == 429)
        after = min(at for at, _, _ in server.ledger.sent if at > refused_at)
        assert after - refused_at >= 0.99
        assert (report.throttled, report.breaker_opened) == (1, 0)


def test_a_503_with_retry_after_is_kept_too() -> None:
    with ProviderServer() as server:
        server.fail("503", 1, retry_after="1")
        store = Store()
        run_lane(config_for(server, max_concurrency=1), store, TEXTS)
        store.holds(server, TEXTS)
        refused_at, after = (at for at, _, _ in server.ledger.sent[:2])
        assert after - refused_at >= 0.99


def test_a_retry_after_of_nothing_is_no_leave_to_hammer() -> None:
    with ProviderServer() as server:
        server.outage(0.5, "429", retry_after="0")
        store = Store()
        report = run_lane(config_for(server), store, TEXTS)
        store.holds(server, TEXTS)
        assert report.throttled < 40


def test_a_retry_after_of_an_hour_ends_the_run_and_the_next_one_goes_on() -> None:
    with ProviderServer() as server:
        server.fail("ok", 3)
        server.fail("429", -1, retry_after="3600")
        store = Store()
        with pytest.raises(ProviderUnavailable, match="asks to wait 3600 s") as stopped:
            run_lane(config_for(server, max_wait_s=3500), store, TEXTS)
        assert stopped.value.exit_code == 75
        assert 0 < len(store.vectors) < len(TEXTS)
        server.faults.clear()
        run_lane(config_for(server), store, TEXTS)
        store.holds(server, TEXTS)
        assert server.ledger.paid_twice() == 0


def test_an_outage_opens_the_breaker_and_the_run_waits_it_out() -> None:
    with ProviderServer() as server:
        store = Store()
        server.fail("ok", 3)
        server.fail("503", 12)
        report = run_lane(config_for(server), store, TEXTS)
        store.holds(server, TEXTS)
        assert report.breaker_opened >= 1
        states = [state for _, state in store.breaker]
        assert states[0] == "open" and states[-1] == "closed" and "half-open" in states
        # while it is open nothing is sent: five failures open it, then one trial each time
        assert server.ledger.statuses[503] == 12
        assert server.ledger.paid_twice() == 0


def test_many_429_in_a_row_leave_the_breaker_closed() -> None:
    with ProviderServer() as server:
        server.fail("429", 12, retry_after="0.05")
        store = Store()
        report = run_lane(config_for(server), store, TEXTS)
        store.holds(server, TEXTS)
        assert report.throttled == 12 and report.breaker_opened == 0 and not store.breaker


def test_an_outage_longer_than_patience_ends_the_run_and_keeps_what_was_done() -> None:
    with ProviderServer() as server:
        server.fail("ok", 2)
        server.fail("503", -1)
        store = Store()
        with pytest.raises(ProviderUnavailable, match="What was done is kept"):
            run_lane(config_for(server, max_wait_s=2), store, TEXTS)
        assert store.vectors
        server.faults.clear()
        run_lane(config_for(server), store, TEXTS)
        store.holds(server, TEXTS)
        assert server.ledger.paid_twice() == 0


def test_poisoned_texts_are_found_and_only_they_are_refused() -> None:
    texts = [*TEXTS]
    texts[7] = "a POISON in the first batch"
    texts[333] = "another POISON"
    with ProviderServer() as server:
        store = Store()
        report = run_lane(config_for(server), store, texts)
        store.holds(server, texts)
        assert set(store.refused) == {texts[7], texts[333]}
        letter = store.refused[texts[7]]
        assert letter.pending.doc_id == "doc-7" and letter.reason == "refused-by-provider"
        assert "content filter" in letter.detail
        assert report.refused == 2 and server.ledger.paid_twice() == 0


def test_a_text_over_the_limit_is_refused_before_it_is_sent() -> None:
    long = "word " * 8193
    with ProviderServer() as server:
        store = Store()
        run_lane(config_for(server), store, [*TEXTS, long])
        store.holds(server, TEXTS)
        assert store.refused[long].reason == "too-long"
        assert "8193 tokens" in store.refused[long].detail and "8192" in store.refused[long].detail
        assert server.ledger.statuses.keys() == {200}


def test_a_text_that_makes_the_server_fail_is_found_too() -> None:
    with ProviderServer() as server:
        server.crashes_on = TEXTS[55]
        store = Store()
        run_lane(config_for(server, breaker_reset_s=0.01, max_batch_inputs=20), store, TEXTS[:60])
        store.holds(server, TEXTS[:60])
        assert set(store.refused) == {TEXTS[55]}


@pytest.mark.parametrize("kind", ["cut", "wrong-dims"])
def test_no_text_is_refused_for_what_the_provider_spoils(kind: str) -> None:
    """Answers of one small request that are spoilt again and again, until the provider comes to itself."""
    with ProviderServer() as server:
        server.fail("ok", 1)
        server.fail(kind, 7)
        store = Store()
        run_lane(config_for(server, max_concurrency=1, max_batch_inputs=2, breaker_failures=50), store, TEXTS[:3])
        store.holds(server, TEXTS[:3])
        assert not store.refused


def test_a_text_that_always_comes_back_as_nan_is_refused_alone() -> None:
    import numpy as np
    from provider_server import vector

    def some_nan(text: str, dims: int, model: str) -> np.ndarray:
        return np.full(dims, np.nan, np.float32) if text == TEXTS[5] else vector(text, dims, model)

    for texts in (TEXTS, TEXTS[5:6]):
        with ProviderServer(vectors=some_nan) as server:
            store = Store()
            run_lane(config_for(server), store, texts)
            store.holds(server, texts)
            assert store.refused[TEXTS[5]].reason == "unusable-vector"


def test_a_model_of_other_dimensions_is_an_error_soon() -> None:
    with ProviderServer(dims=64, model="some-model") as server:
        store = Store()
        with pytest.raises(EmbedderError, match="64 dimensions instead of 32"):
            run_lane(config_for(server, dims=32), store, TEXTS)
        assert not store.vectors and not store.refused


def test_a_provider_that_refuses_everything_quarantines_nothing() -> None:
    with ProviderServer(poison="") as server:
        store = Store()
        with pytest.raises(ConfigError, match="refuses every text"):
            run_lane(config_for(server), store, TEXTS)
        assert not store.refused


def test_a_missing_key_is_one_line_that_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KB_TEST_EMBED_KEY")
    with ProviderServer() as server:
        with pytest.raises(ConfigError, match="KB_TEST_EMBED_KEY is not set") as missing:
            run_lane(config_for(server), Store(), TEXTS)
        assert "\n" not in str(missing.value) and server.ledger.requests == 0


def test_a_wrong_key_is_one_line_that_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KB_TEST_EMBED_KEY", "sk-wrong")
    with ProviderServer() as server:
        with pytest.raises(ConfigError, match="KB_TEST_EMBED_KEY") as wrong:
            run_lane(config_for(server), Store(), TEXTS)
        assert "\n" not in str(wrong.value) and server.ledger.requests <= 3


def test_no_credit_ends_the_run_at_once() -> None:
    with ProviderServer() as server:
        server.fail("quota", -1)
        with pytest.raises(ProviderUnavailable, match="no credit"):
            run_lane(config_for(server), Store(), TEXTS)
        assert server.ledger.requests <= 3


def test_an_unknown_model_is_a_configuration_error() -> None:
    with ProviderServer() as server:
        with pytest.raises(ConfigError, match="no-such-model"):
            run_lane(config_for(server, model="no-such-model"), Store(), TEXTS)


def test_a_server_that_is_not_there_is_named_soon_and_the_next_run_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kb_pipeline.embed.traffic._TICK_S", 0.02)
    monkeypatch.setattr("kb_pipeline.embed.asking.PAUSE_S", 0.5)
    with ProviderServer() as server:
        config = config_for(server, base_url="http://127.0.0.1:9/v1", first_answer_wait_s=1.5)
        store = Store()
        with pytest.raises(ProviderUnavailable, match=r"127.0.0.1:9/v1.*is embedder.base_url .* right\?") as gone:
            run_lane(config, store, TEXTS)
        assert "first_answer_wait_s = 1.5" in str(gone.value) and "ConnectionRefusedError" in str(gone.value)
        assert any("ConnectionRefusedError" in one.waiting for one in store.progress)
        run_lane(config_for(server), store, TEXTS)
        store.holds(server, TEXTS)
