"""What an error of a provider means: wait, try again, look for the bad text, or give up."""

from __future__ import annotations

import email.utils
import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, cast

from kb_pipeline.errors import ConfigError, KbError, ProviderUnavailable

if TYPE_CHECKING:
    import openai

_SETTING_PARAMS = {"model", "dimensions", "encoding_format", "user"}
_NEVER_SENT = {"ConnectError", "ConnectTimeout", "PoolTimeout"}
"""Errors of the HTTP client before the request was on its way."""
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)(?=\d|\s|$)")
_SINCE_1970 = 1e8
"""No wait is so long: a bare number from here on is a time, in seconds or milliseconds."""
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Kind(Enum):
    """What to do about it."""

    THROTTLED = "throttled"
    """429: slow down; says nothing against the provider's health."""
    DOWN = "down"
    """No answer or 5xx: try again, and count it against the provider's health."""
    SPOILT = "spoilt"
    """An answer that cannot be used; it may have been billed."""
    CONTENT = "content"
    """The request was refused for what is in it."""


@dataclass
class Fault(Exception):
    """One failed request."""

    kind: Kind
    message: str
    retry_after_s: float | None = None
    """What the provider asks to wait."""
    too_large: bool = False
    """A throttled request that is more than the provider's bucket ever holds: waiting does not help."""
    maybe_billed: bool = False
    """The provider may have done the work although we have no answer."""
    unreachable: bool = False
    """Nothing took the connection: the provider is away, or its address is wrong."""

    def __str__(self) -> str:
        return self.message


def understand(error: openai.OpenAIError, *, key_env: str, model: str, base_url: str) -> Fault | KbError:
    """A `Fault` to be handled, or the error that ends the run."""
    import openai

    if isinstance(error, openai.APIConnectionError):
        never_sent = type(error.__cause__).__name__ in _NEVER_SENT
        words = f"{base_url}: {_cause(error)}"
        if isinstance(error, openai.APITimeoutError):
            words = f"{base_url} did not {'take the connection' if never_sent else 'answer'} in time"
        return Fault(Kind.DOWN, words, maybe_billed=not never_sent, unreachable=never_sent)
    if not isinstance(error, openai.APIStatusError):
        return Fault(Kind.SPOILT, f"{base_url}: {error}", maybe_billed=True)
    words = _words(error)
    status = error.status_code
    if status in (401, 403):
        return ConfigError(f"{base_url} did not take the key read from {key_env} ({status}): {words}")
    if status == 429:
        if "insufficient_quota" in (error.code, error.type):
            return ProviderUnavailable(f"{base_url}: the account behind {key_env} has no credit left: {words}")
        return Fault(Kind.THROTTLED, f"429: {words}", retry_after_s=retry_after(error.response.headers))
    if status == 404 or error.param in _SETTING_PARAMS or error.code == "model_not_found":
        return ConfigError(f"{base_url} does not serve what [embedder] asks of it, model {model!r} ({status}): {words}")
    if status in (400, 413, 422):
        return Fault(Kind.CONTENT, f"{status}: {words}")
    if status >= 500 or status in (408, 409, 425):
        return Fault(Kind.DOWN, f"{status}: {words}", retry_after_s=retry_after(error.response.headers))
    return ConfigError(f"{base_url} refused the request ({status}): {words}")


def retry_after(headers: Mapping[str, str], *, now: float | None = None) -> float | None:
    """Seconds to wait, from `retry-after-ms` or `retry-after` (seconds or an HTTP date); None when there is neither."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        told = headers.get(name)
        if told is None:
            continue
        clock = time.time() if now is None else now
        seconds = number(told)
        if seconds is not None:
            return max(seconds * unit - (clock if seconds * unit >= _SINCE_1970 else 0.0), 0.0)
        try:
            return max(email.utils.parsedate_to_datetime(told).timestamp() - clock, 0.0)
        except (ValueError, TypeError, IndexError, OverflowError):
            pass
        if (seconds := duration_s(told)) is not None:
            return seconds
    return None


def duration_s(told: str | None) -> float | None:
    """Seconds of a duration as `x-ratelimit-reset-*` gives it: `6m0s`, `1.5s`, `120ms`, or a bare number.

    None for what is no duration, such as the time of day or the seconds since 1970 that some servers tell.
    """
    if not told:
        return None
    parts = _DURATION.findall(told)
    if parts:
        return sum(float(number) * _SECONDS[unit] for number, unit in parts)
    seconds = number(told)
    return None if seconds is None or not 0 <= seconds < _SINCE_1970 else seconds


def number(told: str | None) -> float | None:
    """A finite number of a header; None for anything else."""
    try:
        value = math.nan if told is None else float(told)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _words(error: openai.APIStatusError) -> str:
    try:
        said: Any = cast(Any, error.body)["message"]
    except (KeyError, TypeError, IndexError):
        said = None
    text = said if isinstance(said, str) else error.message
    return " ".join(text.split())[:500]


def of_transport(error: BaseException) -> bool:
    """Whether it is an error of the HTTP client below the SDK: which one that is depends on the SDK's version."""
    return type(error).__module__.partition(".")[0].startswith(("httpx", "httpcore"))


def _cause(error: BaseException) -> str:
    """The innermost cause that says something: "All connection attempts failed" hides why."""
    words = type(error).__name__
    inner: BaseException | None = error.__cause__ or error
    while inner is not None:
        if str(inner):
            words = f"{type(inner).__name__}: {inner}"
        inner = inner.__cause__ or inner.__context__
    return words
