"""A chat request over the network, repeated after temporary errors; no message contains the key."""

from __future__ import annotations

import ipaddress
import math
import os
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from lens_steer.errors import LensSteerError
from lens_steer.metrics.judges.cache import Answer

if TYPE_CHECKING:
    import httpx
    from tenacity import RetryCallState

LONGEST_BACKOFF = 60.0  # seconds, where the server asks for no time
LONGEST_WAIT = 600.0  # seconds; a server that asks for a longer wait causes an error


class Secret(str):
    """A string that is hidden in its ``repr``, and so in tracebacks that print variables.

    >>> Secret("abc")
    '***'
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


def check_url(base_url: str) -> str:
    """Return the address of an endpoint without a slash at its end.

    Raises:
        LensSteerError: If it is no http(s) address, or if it contains a user name, a password, a query or a fragment.

    >>> check_url("http://localhost:8000/v1/")
    'http://localhost:8000/v1'
    """
    try:
        parts = urlsplit(base_url)
        well_formed = (
            parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
        )
    except ValueError:
        well_formed = False
    else:
        if parts.username or parts.password or parts.query or parts.fragment:
            raise LensSteerError(
                f"base_url at {parts.hostname!r} carries a user, a password, a query or a fragment: give the "
                "plain address, and the key in the environment"
            )
    if not well_formed:
        raise LensSteerError(
            f"base_url={base_url!r}: give an address such as https://api.openai.com/v1 or http://localhost:8000/v1"
        )
    return base_url.rstrip("/")


def is_local(url: str) -> bool:
    """Return True if the address is on this machine or in a private network.

    >>> is_local("http://localhost:8000/v1"), is_local("http://10.0.0.7/v1"), is_local("https://api.openai.com/v1")
    (True, True, False)
    """
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return host == "localhost" or host.endswith((".localhost", ".local"))


def read_key(url: str, variable: str | None) -> Secret | None:
    """Return the key from the environment; None if no key is needed.

    A local address needs no key; the variable may then be unset.

    Args:
        url: The address that the key is sent to.
        variable: The name of the environment variable. None if the endpoint needs no key.

    Raises:
        LensSteerError: If the key is missing for an address that is not local, if it has characters that cannot be sent
            in a header, or if it would be sent unencrypted. No message contains the key.
    """
    if variable is None:
        return None
    key = Secret(os.environ.get(variable, "").strip())
    if not key and is_local(url):
        return None
    if not key:
        raise LensSteerError(
            f"the environment variable {variable} is not set, and {url} needs a key: set it, or give api_key_env=None"
        )
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise LensSteerError(
            f"the key in the environment variable {variable} holds characters that no key has: set it again"
        )
    if urlsplit(url).scheme == "http" and not is_local(url):
        raise LensSteerError(
            f"base_url={url!r} would send the key unencrypted: use https, or api_key_env=None where no key is needed"
        )
    return key


def headers_for(key: Secret | None) -> dict[str, str]:
    """Return the HTTP headers that carry the key; empty without a key.

    >>> headers_for(Secret("abc"))
    {'Authorization': '***'}
    """
    return {} if key is None else {"Authorization": Secret(f"Bearer {key}")}


class TemporaryError(Exception):
    """A failed try that may succeed when it is repeated.

    Args:
        reason: What went wrong, without the key.
        wait: The seconds that the server asks to wait; None if it does not say.
    """

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


async def ask(
    client: httpx.AsyncClient,
    url: str,
    body: Mapping[str, Any],
    *,
    key: Secret | None = None,
    retries: int,
    backoff: float,
    on_retry: Callable[[], None] = lambda: None,
) -> Answer:
    """Send one request until it is answered.

    The request is repeated after status 429, status 5xx, time-outs, broken connections and answers of unknown form. The
    wait before the next try is that of the server's Retry-After header, or else of :func:`waits`. Every other status is
    final.

    Args:
        client: The client, with the headers set.
        url, body: The address and the body of the request.
        key: The key to remove from the server's messages.
        retries: The number of tries after the first.
        backoff: The base of the waiting time, in seconds.
        on_retry: A function that is called before each repetition.

    Raises:
        LensSteerError: If the status is final, if the server asks for a wait above 600 seconds, or if there is no
            answer after the last try. The message includes that of the server.
    """
    from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt

    repeated = AsyncRetrying(
        retry=retry_if_exception_type(TemporaryError),
        stop=stop_after_attempt(retries + 1),
        wait=waits(backoff),
        before_sleep=lambda _: on_retry(),
        reraise=True,
    )
    try:
        return await repeated(_try, client, url, body, key)
    except TemporaryError as error:
        tries = "1 try" if retries == 0 else f"{retries + 1} tries"
        raise LensSteerError(f"{url} gave no answer in {tries}, at last {error}") from None


async def _try(client: httpx.AsyncClient, url: str, body: Mapping[str, Any], key: Secret | None) -> Answer:
    """Send the request once.

    Raises:
        TemporaryError: If a repetition may help.
        LensSteerError: If no repetition helps, or only one after more than 600 seconds.
    """
    import httpx

    try:
        response = await client.post(url, json=body)
    except httpx.RequestError as error:
        raise TemporaryError(f"{type(error).__name__} {error}".strip()) from None
    if response.is_success:
        answer = read_answer(response)
        if answer is None:
            raise TemporaryError(f"an answer without choices: {_message(response, key)}")
        return answer
    reason = f"status {response.status_code}: {_message(response, key)}"
    if response.status_code != 429 and response.status_code < 500:
        raise LensSteerError(f"{url} refused the request with {reason}")
    wait = retry_after(response.headers.get("Retry-After"))
    if wait is not None and wait > LONGEST_WAIT:
        raise LensSteerError(f"{url} asks to wait {wait:.0f} s ({reason}): try again later")
    raise TemporaryError(reason, wait)


def waits(backoff: float) -> Callable[[RetryCallState], float]:
    """Return the function by which tenacity knows how long to wait after a failed try.

    That is ``min(60, backoff · 2^k) · U(½, 1)`` seconds after try k, counted from 0, unless the server asked for a
    time. The random factor U keeps many clients from repeating their requests at the same time.

    >>> from tenacity import Future, Retrying, RetryCallState
    >>> state = RetryCallState(Retrying(), None, (), {})
    >>> state.outcome = Future.construct(1, TemporaryError("busy"), has_exception=True)
    >>> 0.5 <= waits(1.0)(state) <= 1
    True
    """
    from tenacity import wait_exponential, wait_random_exponential

    # x · U(½, 1) is x/2 + U(0, x/2): one half of the wait is fixed, the other random
    half = {"multiplier": backoff / 2, "max": LONGEST_BACKOFF / 2}
    own = wait_exponential(**half) + wait_random_exponential(**half)

    def wait(state: RetryCallState) -> float:
        failure = state.outcome and state.outcome.exception()
        asked = failure.wait if isinstance(failure, TemporaryError) else None
        return own(state) if asked is None else asked

    return wait


def retry_after(value: str | None, now: float | None = None) -> float | None:
    """Return the seconds that a Retry-After header asks for.

    The header gives a number or a date. The value is None if the header is missing or unreadable.

    >>> retry_after("2"), retry_after("Thu, 01 Jan 1970 00:01:00 GMT", now=50.0), retry_after("soon")
    (2.0, 10.0, None)
    """
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - (time.time() if now is None else now)
        except ValueError:
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def read_answer(response: Any) -> Answer | None:
    """Return the text of the first choice and the token counts; None if the body has another form.

    A null text (of a filtered or truncated answer) is read as empty.
    """
    try:
        found = response.json()
        text = found["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError):
        return None
    usage = found.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    counts = [n if isinstance(n := usage.get(name), int) else None for name in ("prompt_tokens", "completion_tokens")]
    return Answer(text if isinstance(text, str) else "", *counts)


def _message(response: Any, key: Secret | None) -> str:
    """Return the server's error message on one line of at most 300 characters, with the key replaced by ``***``."""
    try:
        found = response.json()
        error = found.get("error", found) if isinstance(found, dict) else found
        text = error.get("message", error) if isinstance(error, dict) else error
    except ValueError:
        text = response.text
    words = " ".join(str(text).split())
    return (words.replace(str(key), "***") if key else words)[:300] or "(no message)"
