"""An HTTP server that behaves like OpenAI's embeddings API, with limits, a bill and faults by schedule. For tests.

In a test: `with ProviderServer(...) as server: server.url, server.ledger, server.faults`. As a process of its own, so
that its CPU and memory are not the client's: `python tests/provider_server.py --dims 1536` prints its URL; `GET
/_ledger` tells the bill.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import json
import re
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

import numpy as np
from provider_batches import Desk

KEY = "sk-test"
MAX_INPUTS = 2048
MAX_INPUT_TOKENS = 8192
MAX_REQUEST_TOKENS = 300_000
FORMATS = {"float", "base64"}


def count_tokens(text: str) -> int:
    """The server's own tokenizer: words and punctuation. Tests give the lane the same numbers."""
    return len(re.findall(r"\w+|[^\w\s]", text))


def vector(text: str, dims: int, model: str = "text-embedding-3-small") -> np.ndarray:
    """The vector of a text: always the same for the same text and model, of unit length."""
    seed = int.from_bytes(hashlib.sha256(f"{model}\0{text}".encode()).digest()[:8], "little")
    values = np.random.Generator(np.random.SFC64(seed)).standard_normal(dims, dtype=np.float32)
    return values / np.linalg.norm(values)


class AnswerLost(Exception):
    """What was asked is done, but the connection breaks before the answer."""


@dataclass
class Fault:
    """What goes wrong with the requests it is due for."""

    kind: str
    """429, 500, 502, 503, 401, 404, reset, hang, drip, cut, wrong-dims, nan, zero, permute, missing, double, quota."""
    times: int = 1
    """So many requests; -1 for ever."""
    retry_after: str | None = None
    until: float = 0.0
    """Monotonic time at which it ends, for an outage; 0: counted by `times`."""
    seconds: float = 30.0
    """How long a hang or a drip takes."""
    paid: bool = True
    """Whether the provider bills an answer it then spoils."""


@dataclass
class Bucket:
    """A token bucket as providers have them: full at first, refilled steadily."""

    per_minute: float
    capacity: float | None = None
    level: float = field(init=False)
    at: float = field(init=False)

    def __post_init__(self) -> None:
        self.capacity = self.capacity or self.per_minute
        self.level = self.capacity
        self.at = time.monotonic()

    def fill(self) -> None:
        now = time.monotonic()
        self.level = min(self.level + (now - self.at) * self.per_minute / 60, self.capacity or 0)
        self.at = now


@dataclass
class Ledger:
    """Everything the server was asked and what it billed."""

    requests: int = 0
    answered: int = 0
    throttled: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    paid_texts: Counter[str] = field(default_factory=Counter)
    paid_tokens: int = 0
    batch_jobs: int = 0
    batch_texts: Counter[str] = field(default_factory=Counter)
    """Texts billed at half price; they stand in `paid_texts` too."""
    largest_inputs: int = 0
    largest_tokens: int = 0
    concurrent: int = 0
    peak_concurrent: int = 0
    keys: set[str] = field(default_factory=set)
    sent: list[tuple[float, int, int]] = field(default_factory=list)
    """(monotonic time, tokens, status) of each request."""

    def paid_twice(self) -> int:
        """Texts billed more than once."""
        return sum(count - 1 for count in self.paid_texts.values())


class ProviderServer:
    """One server in a thread of its own."""

    def __init__(
        self,
        *,
        dims: int = 64,
        model: str = "text-embedding-3-small",
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        burst_tokens: float | None = None,
        headers: bool = True,
        latency_s: float = 0.0,
        vectors: Callable[[str, int, str], np.ndarray] = vector,
        tokens: Callable[[str], int] = count_tokens,
        poison: str = "POISON",
        cached_vector: bool = False,
    ) -> None:
        self.dims = dims
        self.model = model
        self.headers = headers
        self.latency_s = latency_s
        self.poison = poison
        self.ledger = Ledger()
        self.faults: list[Fault] = []
        self.only_floats = False
        self.crashes_on = ""
        """A text that holds this makes the server answer 500."""
        self.asked_dimensions: set[int | None] = set()
        self.desk = Desk(self)
        self.max_input_tokens = MAX_INPUT_TOKENS
        self.max_inputs = MAX_INPUTS
        self.too_many = (400, "'input' must hold 1 to {most} items")
        """Status and words for a request of more."""
        self._vectors = vectors
        self.count_tokens = tokens
        self._requests_per_minute = requests_per_minute
        self._tokens_per_minute = tokens_per_minute
        self._burst = burst_tokens
        self._request_bucket: Bucket | None = None
        self._token_bucket: Bucket | None = None
        self._same = base64.b64encode(vector("same", dims).astype("<f4").tobytes()).decode() if cached_vector else None
        self._port = 0
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server: asyncio.Server | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True, name="provider")

    @property
    def url(self) -> str:
        """Base URL for a client."""
        return f"http://127.0.0.1:{self._port}/v1"

    def fail(self, kind: str, times: int = 1, **options: object) -> None:
        """Put a fault on the schedule; faults are used up in order."""
        self.faults.append(Fault(kind, times, **options))  # type: ignore[arg-type]

    def outage(self, seconds: float, kind: str = "503", *, retry_after: str | None = None) -> None:
        """From now on, for so many seconds, every request fails."""
        self.faults.append(Fault(kind, -1, retry_after, until=time.monotonic() + seconds))

    def __enter__(self) -> ProviderServer:
        self._thread.start()
        if not self._ready.wait(120):
            raise RuntimeError("the provider's server did not start")
        return self

    def __exit__(self, *exc: object) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(120)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._clients: set[asyncio.Task[None]] = set()
        self._server = await asyncio.start_server(self._client, "127.0.0.1", self._port, limit=64 << 20)
        self._port = self._server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        self._server.close()
        for task in self._clients:
            task.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                line, _, rest = head.decode("latin-1").partition("\r\n")
                headers = {
                    k.lower(): v.strip() for k, _, v in (row.partition(":") for row in rest.split("\r\n") if row)
                }
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                method, path, _ = line.split(" ", 2)
                if not await self._route(method, path, headers, body, writer):
                    return
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._clients.discard(task)
            writer.close()

    async def _route(
        self, method: str, path: str, headers: dict[str, str], body: bytes, writer: asyncio.StreamWriter
    ) -> bool:
        if path == "/_ledger":
            led = self.ledger
            facts = {
                "requests": led.requests,
                "answered": led.answered,
                "throttled": led.throttled,
                "paid_texts": sum(led.paid_texts.values()),
                "distinct": len(led.paid_texts),
                "paid_tokens": led.paid_tokens,
                "batch_jobs": led.batch_jobs,
                "answered_tokens": sum(tokens for _, tokens, status in led.sent if status == 200),
                "span_s": led.sent[-1][0] - led.sent[0][0] if led.sent else 0.0,
            }
            return await self._send(writer, 200, json.dumps(facts).encode())
        address, _, question = path.partition("?")
        if address.startswith(("/v1/files", "/v1/batches")):
            if headers.get("authorization", "").removeprefix("Bearer ") != KEY:
                return await self._error(writer, 401, "Incorrect API key provided", code="invalid_api_key")
            try:
                status, content = self.desk.handle(method, address, dict(parse_qsl(question)), headers, body)
            except AnswerLost:
                writer.transport.abort()
                return False
            return await self._send(writer, status, content)
        if path != "/v1/embeddings" or method != "POST":
            return await self._error(writer, 404, f"Invalid URL ({method} {path})", code="unknown_url")
        self.ledger.concurrent += 1
        self.ledger.peak_concurrent = max(self.ledger.peak_concurrent, self.ledger.concurrent)
        try:
            return await self._embeddings(headers, json.loads(body), writer)
        finally:
            self.ledger.concurrent -= 1

    async def _embeddings(self, headers: dict[str, str], ask: dict, writer: asyncio.StreamWriter) -> bool:
        led = self.ledger
        led.requests += 1
        key = headers.get("authorization", "").removeprefix("Bearer ")
        led.keys.add(key)
        self.asked_dimensions.add(ask.get("dimensions"))
        texts = [ask["input"]] if isinstance(ask["input"], str) else ask["input"]
        counts = [self.count_tokens(text) for text in texts]
        total = sum(counts)
        led.largest_inputs = max(led.largest_inputs, len(texts))
        led.largest_tokens = max(led.largest_tokens, total)
        wrong = self._wrong(key, ask, texts, counts, total)
        if wrong is not None:
            led.sent.append((time.monotonic(), total, wrong[0]))
            return await self._error(writer, wrong[0], wrong[1], code=wrong[2], param=wrong[3])
        fault = self._due()
        if self.crashes_on and any(self.crashes_on in text for text in texts):
            fault = Fault("500")
        if fault is not None and fault.kind in {"429", "500", "502", "503", "408", "quota"}:
            status = 429 if fault.kind == "quota" else int(fault.kind)
            led.sent.append((time.monotonic(), total, status))
            led.throttled += status == 429
            extra = {"retry-after": fault.retry_after} if fault.retry_after else {}
            code = "insufficient_quota" if fault.kind == "quota" else None
            return await self._error(writer, status, f"scheduled {fault.kind}", code=code, headers=extra)
        if fault is not None and fault.kind == "reset":
            sock = writer.get_extra_info("socket")
            sock.setsockopt(1, 13, struct.pack("ii", 1, 0))  # SO_LINGER 0: a RST
            writer.transport.abort()
            return False
        if not self._allowed(total):
            led.sent.append((time.monotonic(), total, 429))
            led.throttled += 1
            return await self._error(writer, 429, "Rate limit reached", headers=self._limit_headers(total))
        limit_headers = self._limit_headers(total)
        led.sent.append((time.monotonic(), total, 200))
        if self.latency_s:
            await asyncio.sleep(self.latency_s)
        if fault is None or fault.paid:
            led.paid_texts.update(texts)
            led.paid_tokens += total
        if fault is not None and fault.kind == "hang":
            await asyncio.sleep(fault.seconds)
            return False
        answer = self._answer(ask, texts, total, fault.kind if fault else "")
        led.answered += 1
        if fault is not None and fault.kind == "cut":
            await self._send(writer, 200, answer[: len(answer) // 2], limit_headers)
            return True
        if fault is not None and fault.kind == "drip":
            return await self._drip(writer, answer, fault.seconds)
        return await self._send(writer, 200, answer, limit_headers)

    def _wrong(
        self, key: str, ask: dict, texts: list[str], counts: list[int], total: int
    ) -> tuple[int, str, str | None, str | None] | None:
        if key != KEY:
            return 401, f"Incorrect API key provided: {key[:4]}***", "invalid_api_key", None
        if ask.get("model") != self.model:
            return 404, f"The model `{ask.get('model')}` does not exist", "model_not_found", None
        if "dimensions" in ask and "text-embedding-3" not in self.model:
            return 400, "This model does not support specifying dimensions.", None, "dimensions"
        if ask.get("encoding_format", "float") not in FORMATS:
            return 400, "encoding_format must be float or base64", None, "encoding_format"
        if not texts or len(texts) > self.max_inputs:
            return self.too_many[0], self.too_many[1].format(texts=len(texts), most=self.max_inputs), None, "input"
        if any(not isinstance(text, str) or not text for text in texts):
            return 400, "'$.input' is invalid: empty string", None, "input"
        longest = max(counts)
        if longest > self.max_input_tokens:
            limit = self.max_input_tokens
            words = f"This model's maximum context length is {limit} tokens, however you requested {longest}"
            return 400, words, None, None
        if total > MAX_REQUEST_TOKENS:
            return 400, f"Requested {total} tokens, max {MAX_REQUEST_TOKENS} tokens per request", None, None
        if any(self.poison in text for text in texts):
            return 400, "Your input was flagged by the content filter", "content_filter", "input"
        return None

    def batch_answer(self, ask: dict) -> tuple[int, bytes]:
        """What a job's line is answered; billed when it is."""
        texts = [ask["input"]] if isinstance(ask["input"], str) else ask["input"]
        counts = [self.count_tokens(text) for text in texts]
        wrong = self._wrong(KEY, ask, texts, counts, sum(counts))
        if wrong is not None:
            return wrong[0], json.dumps({"error": {"message": wrong[1], "code": wrong[2], "param": wrong[3]}}).encode()
        self.ledger.paid_texts.update(texts)
        self.ledger.batch_texts.update(texts)
        self.ledger.paid_tokens += sum(counts)
        return 200, self._answer(ask, texts, sum(counts), "")

    def _due(self) -> Fault | None:
        while self.faults:
            fault = self.faults[0]
            if fault.until:
                if time.monotonic() < fault.until:
                    return fault
                self.faults.pop(0)
                continue
            if fault.times == 0:
                self.faults.pop(0)
                continue
            fault.times -= fault.times > 0
            return None if fault.kind == "ok" else fault
        return None

    def _allowed(self, total: int) -> bool:
        # buckets begin with the first request, as an account's are full when nobody has asked for a while
        if self._tokens_per_minute and self._token_bucket is None:
            self._token_bucket = Bucket(self._tokens_per_minute, self._burst)
        if self._requests_per_minute and self._request_bucket is None:
            self._request_bucket = Bucket(self._requests_per_minute)
        pairs = [(b, n) for b, n in ((self._request_bucket, 1), (self._token_bucket, total)) if b is not None]
        for bucket, _ in pairs:
            bucket.fill()
        if any(bucket.level < need for bucket, need in pairs):
            return False
        for bucket, need in pairs:
            bucket.level -= need
        return True

    def _limit_headers(self, total: int) -> dict[str, str]:
        told: dict[str, str] = {}
        if not self.headers:
            return told
        for name, bucket, need in (("requests", self._request_bucket, 1), ("tokens", self._token_bucket, total)):
            if bucket is None:
                continue
            told[f"x-ratelimit-limit-{name}"] = str(int(bucket.per_minute))
            told[f"x-ratelimit-remaining-{name}"] = str(max(int(bucket.level), 0))
            full_s = ((bucket.capacity or 0) - bucket.level) * 60 / bucket.per_minute
            told[f"x-ratelimit-reset-{name}"] = f"{full_s:.3f}s"
            if bucket.level < need:
                wait = (need - bucket.level) * 60 / bucket.per_minute
                told["retry-after-ms"] = str(int(wait * 1000) + 1)
        return told

    def _answer(self, ask: dict, texts: list[str], total: int, fault: str) -> bytes:
        wanted = ask.get("dimensions", self.dims)
        as_text = ask.get("encoding_format", "float") == "base64" and not self.only_floats
        items = []
        for index, text in enumerate(texts):
            if self._same is not None and not fault:
                items.append({"object": "embedding", "index": index, "embedding": self._same})
                continue
            values = np.asarray(self._vectors(text, wanted, self.model), dtype="<f4")
            if fault == "wrong-dims":
                values = values[: wanted // 2]
            elif fault == "nan" and index % 3 == 0:
                values = values.copy()
                values[1] = np.nan
            elif fault == "zero" and index % 3 == 0:
                values = np.zeros_like(values)
            raw = base64.b64encode(values.tobytes()).decode() if as_text else values.tolist()
            items.append({"object": "embedding", "index": index, "embedding": raw})
        if fault == "permute":
            items.reverse()
        elif fault == "missing":
            items = [item for item in items if item["index"] % 3 != 0]
        elif fault == "double" and len(items) > 1:
            items[1] = dict(items[1], index=0)
        usage = {"prompt_tokens": total, "total_tokens": total}
        return json.dumps({"object": "list", "data": items, "model": self.model, "usage": usage}).encode()

    async def _drip(self, writer: asyncio.StreamWriter, answer: bytes, seconds: float) -> bool:
        head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(answer)}\r\n\r\n"
        writer.write(head.encode())
        for byte in answer[: int(seconds * 10)]:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.1)
        return False

    async def _error(
        self,
        writer: asyncio.StreamWriter,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> bool:
        body = {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": code}}
        return await self._send(writer, status, json.dumps(body).encode(), headers)

    async def _send(
        self, writer: asyncio.StreamWriter, status: int, body: bytes, headers: dict[str, str] | None = None
    ) -> bool:
        self.ledger.statuses[status] += 1
        lines = [f"HTTP/1.1 {status} X", "content-type: application/json", f"content-length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        await writer.drain()
        return True


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--dims", type=int, default=1536)
    parser.add_argument("--model", default="text-embedding-3-small")
    parser.add_argument("--rpm", type=float)
    parser.add_argument("--tpm", type=float)
    parser.add_argument("--latency", type=float, default=0.0)
    parser.add_argument("--same", action="store_true", help="one vector for every text: costs the server nothing")
    options = parser.parse_args()
    server = ProviderServer(
        dims=options.dims,
        model=options.model,
        requests_per_minute=options.rpm,
        tokens_per_minute=options.tpm,
        latency_s=options.latency,
        cached_vector=options.same,
    )
    server._port = options.port
    with server:
        print(server.url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    _main()
