"""The model of a provider's bucket, the size of requests, concurrency, and what errors of a provider mean."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from embed_helpers import KEY, ProviderServer, Store, config_for, pending, vector

from kb_pipeline.config.schema import EmbedderConfig
from kb_pipeline.embed.answers import SpoiltAnswer, read_answer
from kb_pipeline.embed.batch_api import queue_limit
from kb_pipeline.embed.faults import duration_s, retry_after
from kb_pipeline.embed.input_limit import InputLimit
from kb_pipeline.embed.lane import Pending
from kb_pipeline.embed.limits import Concurrency, RateLimits, Told, ToldBucket, reset_hint_s
from kb_pipeline.embed.packing import RequestSize, packed
from kb_pipeline.embed.registry import make_embedder, resolve_spec
from kb_pipeline.embed.sizing import Sizing
from kb_pipeline.embed.sync_lane import SyncLane


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KB_TEST_EMBED_KEY", KEY)


def told(remaining: float, *, limit: float = 6000, reset_s: float | None = None) -> Told:
    return Told(limit=limit, remaining=remaining, reset_s=reset_s)


def test_an_unknown_bucket_never_waits() -> None:
    assert ToldBucket().wait_s(1e9, now=0.0) == 0.0


def test_a_slow_answer_does_not_make_the_bucket_look_emptier() -> None:
    bucket = ToldBucket()
    first = bucket.send(0, now=0.0)
    bucket.answered(first, 0.0, told(1000), taken=True)
    booking = bucket.send(1000, now=0.0)
    # the provider had 0 left when the request came; ten seconds later 1,000 have flowed in again (100 a second)
    bucket.answered(booking, 10.0, told(0), taken=True)
    assert bucket.wait_s(1000, now=10.0) == pytest.approx(0.0)
    assert bucket.wait_s(1100, now=10.0) == pytest.approx(1.0)


def test_less_than_thought_is_believed_once_not_for_every_answer() -> None:
    bucket = ToldBucket()
    bucket.answered(bucket.send(0, now=0.0), 0.0, told(5000), taken=True)
    one, two = bucket.send(100, now=0.0), bucket.send(100, now=0.0)
    # somebody else used 1,000 of the same account before both requests
    bucket.answered(one, 0.0, told(3900), taken=True)
    bucket.answered(two, 0.0, told(3800), taken=True)
    assert bucket.level == pytest.approx(3800)


def test_a_refused_request_used_nothing() -> None:
    bucket = ToldBucket()
    bucket.answered(bucket.send(0, now=0.0), 0.0, told(500), taken=True)
    bucket.answered(bucket.send(400, now=0.0), 0.0, told(500), taken=False)
    assert bucket.level == pytest.approx(500)


def test_the_bucket_may_hold_less_than_a_minute() -> None:
    bucket = ToldBucket()
    bucket.answered(bucket.send(100, now=0.0), 0.0, told(400, reset_s=1.0), taken=True)
    assert bucket.capacity == pytest.approx(500)
    assert bucket.wait_s(10_000, now=0.0) == pytest.approx(1.0)


def test_headers_in_odd_units_are_no_reason_to_wait() -> None:
    limits = RateLimits()
    odd = {"limit": "many", "remaining": "nan", "reset": "1763654400"}
    headers = {f"x-ratelimit-{name}-{what}": value for name, value in odd.items() for what in ("requests", "tokens")}
    limits.answered(limits.send(100, 0.0), 0.0, headers, taken=True)
    assert limits.told_wait_s(100_000, 0.0) == 0.0
    limits.answered(limits.send(1, 0.0), 0.0, {"x-ratelimit-limit-tokens": "0"}, taken=True)
    assert limits.told_wait_s(100_000, 0.0) == 0.0
    assert reset_hint_s({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "59000"}) == 60.0


def test_requests_follow_both_limits() -> None:
    assert math.isinf(RateLimits().request_tokens())
    assert RateLimits(tokens_per_minute=120_000).request_tokens() == pytest.approx(9_800)
    scarce = RateLimits(requests_per_minute=10, tokens_per_minute=120_000)
    assert scarce.request_tokens() == pytest.approx(15_000)


def test_concurrency_halves_once_for_one_wave() -> None:
    concurrency = Concurrency(16, limit=8)
    for _ in range(5):
        concurrency.shrink(sent_at=1.0, now=2.0)
    assert concurrency.allowed() == 4
    concurrency.shrink(sent_at=3.0, now=4.0)
    assert concurrency.allowed() == 2
    for _ in range(1000):
        concurrency.grow()
    assert concurrency.allowed() == 16


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1s", 1.0),
        ("6m0s", 360.0),
        ("1h2m3.5s", 3723.5),
        ("120ms", 0.12),
        ("7", 7.0),
        ("", None),
        ("soon", None),
        ("5min", None),
        ("1763654400", None),
        ("nan", None),
    ],
)
def test_durations(text: str, seconds: float | None) -> None:
    assert duration_s(text) == seconds


def test_retry_after_in_its_three_forms() -> None:
    assert retry_after({"retry-after": "20"}) == 20.0
    assert retry_after({"retry-after-ms": "1500", "retry-after": "20"}) == 1.5
    assert retry_after({"retry-after": "Thu, 01 Jan 1970 00:01:40 GMT"}, now=40.0) == 60.0
    assert retry_after({"retry-after": "100"}, now=40.0) == retry_after({"retry-after": "1m40s"}) == 100.0
    assert retry_after({"retry-after": "1763654460"}, now=1763654400.0) == 60.0
    assert retry_after({"retry-after": "-5"}) == 0.0
    for nonsense in ("later", "nan", "inf", "Thu, 99 Jan"):
        assert retry_after({"retry-after": nonsense}) is None
    assert retry_after({}) is None


def test_a_size_that_was_cut_grows_again() -> None:
    sizing = Sizing(EmbedderConfig(provider="openai"), dims=1536)

    def tokens() -> int:
        return sizing.present(first=False, told_tokens=math.inf).tokens

    whole = tokens()
    sizing.taken_in_part(100)
    assert tokens() == 100
    sizing.taken_in_part(400)  # a larger part of the same request was taken too
    assert tokens() == 400
    for _ in range(8):
        sizing.answered(1)
    assert tokens() == 800
    for _ in range(200):
        sizing.answered(1)
    assert tokens() == whole


def run_of(server: ProviderServer, texts: list[str], **options: Any) -> tuple[Store, dict[str, int | None]]:
    """One run of the lane, and what it says of how many texts the server takes at once."""
    config = config_for(server, max_batch_inputs=2048, max_concurrency=2)
    store, heard = Store(), dict[str, int | None]()
    lane = SyncLane(config, resolve_spec(config), max_input_tokens=8192, on_inputs=heard.__setitem__, **options)
    lane.run(pending(texts), on_batch=store.keep, on_refused=store.refuse)
    store.holds(server, texts)
    return store, heard


@pytest.mark.parametrize(
    ("words", "found"),
    [("batch size {texts} > maximum allowed batch size {most}", 32), ("the request was not valid", 25)],
    ids=["text-embeddings-inference", "a server that names no number"],
)
def test_a_server_that_takes_few_texts_is_found_out_once(words: str, found: int) -> None:
    texts = [f"text {number} has a few words" for number in range(1200)]
    with ProviderServer() as server:
        server.max_inputs, server.too_many = 32, (413, words)
        store, heard = run_of(server, texts[:600])
        assert (store.refused, server.ledger.paid_twice()) == ({}, 0)
        (limit,) = heard.values()
        assert limit is not None and found // 2 < limit <= 32
        refused = server.ledger.statuses[413]
        assert refused < 60
        store, heard = run_of(server, texts[600:], known_inputs={server.url: limit})
        assert (store.refused, heard) == ({}, {})
        assert server.ledger.statuses[413] == refused


def test_a_limit_of_a_server_that_was_set_up_anew_is_tried_out_again() -> None:
    heard: list[int | None] = []
    limit = InputLimit(100, 32, heard.append)
    for _ in range(64):
        limit.answered(32)
    assert (limit.most, heard) == (64, [])
    limit.answered(64)
    assert heard == [64]
    for _ in range(63):
        limit.answered(64)
    assert (limit.most, heard) == (100, [64, None])


def test_one_refusal_that_names_no_number_is_no_limit() -> None:
    heard: list[int | None] = []
    limit = InputLimit(100, None, heard.append)
    limit.refused(2, taken=1, words="400: Bad Request")
    assert (limit.most, heard) == (100, [])
    limit.refused(90, taken=45, words="413: at most 64 texts")
    assert (limit.most, heard) == (64, [64])


def test_questions_too_are_asked_in_requests_that_the_server_takes() -> None:
    with ProviderServer() as server:
        server.max_inputs, server.too_many = 32, (422, "too many")
        embedder = make_embedder(config_for(server, max_batch_inputs=2048))
        questions = [f"question {number}" for number in range(100)]
        vectors = embedder.embed_queries(questions).vectors
        np.testing.assert_allclose(vectors[99], vector("question 99", server.dims), atol=1e-5)
        assert server.ledger.paid_twice() == 0


def test_packing_keeps_order_and_both_limits() -> None:
    texts = [Pending(bytes([n]), "x", tokens, "d", n) for n, tokens in enumerate([5, 5, 5, 100, 1, 1, 1, 1])]
    lists = list(packed(texts, size=lambda: RequestSize(inputs=3, tokens=10)))
    assert [[one.tokens for one in each] for each in lists] == [[5, 5], [5], [100], [1, 1, 1], [1]]
    assert [one for each in lists for one in each] == texts


@pytest.mark.parametrize("body", [b"", b"[]", b'{"data": [{"ind', b'{"data": null}', b'{"error": {}}', b"<html>"])
def test_a_body_that_is_no_answer(body: bytes) -> None:
    with pytest.raises(SpoiltAnswer):
        read_answer(body, count=1, dims=2, normalize=True)


def test_rows_are_judged_one_by_one() -> None:
    body = b"""{"data": [{"index": 2, "embedding": [3, 4]}, {"index": 0, "embedding": "!!"},
        {"index": 1, "embedding": [1, 2, 3]}]}"""
    answer = read_answer(body, count=4, dims=2, normalize=True)
    assert answer.good.tolist() == [False, False, True, False]
    np.testing.assert_allclose(answer.vectors[2], [0.6, 0.8], atol=1e-6)
    assert answer.tokens is None and answer.problem


@pytest.mark.parametrize("last", ["2", "-1", '"1"', "null"])
def test_an_index_outside_of_the_request_makes_the_whole_answer_doubtful(last: str) -> None:
    body = f'{{"data": [{{"index": 1, "embedding": [3, 4]}}, {{"index": {last}, "embedding": [4, 3]}}]}}'.encode()
    answer = read_answer(body, count=2, dims=2, normalize=True)
    assert not answer.good.any() and "was not asked for" in answer.problem


@pytest.mark.parametrize(
    ("words", "tokens"),
    [
        ("Enqueued token limit reached for m in organization org-1. Limit: 2,000,000 enqueued tokens.", 2_000_000),
        ("The number of enqueued tokens has surpassed the configured limit of 30K for the deployment", 30_000),
        ("Enqueued request limit reached for m. Limit: 1,000,000 enqueued requests. Please", None),
        ("Too many tokens are enqueued.", None),
    ],
)
def test_what_a_provider_says_of_its_queue(words: str, tokens: int | None) -> None:
    assert queue_limit(words) == tokens
