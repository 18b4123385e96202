"""One chat request over the network: tried again where trying again helps, and with the key out of every message."""

from __future__ import annotations

import asyncio
import ipaddress
import math
import os
import random
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from lens_steer.errors import LensSteerError
from lens_steer.metrics.judges.cache import Answer

LONGEST_BACKOFF = 60.0  # seconds
LONGEST_WAIT = 600.0  # seconds that a server may ask for before it counts as an error


class Secret(str):
    """A string that does not show in a ``repr``, and so in no traceback that prints variables.

    >>> Secret("abc")
    '***'
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


def check_url(base_url: str) -> str:
    """The endpoint's address without a slash at its end.

    Raises:
        LensSteerError: no http(s) address, or one that carries a user name, a password, a query or a fragment.

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
    """Whether the address is this machine's or a private network's.

    >>> is_local("http://localhost:8000/v1"), is_local("http://10.0.0.7/v1"), is_local("https://api.openai.com/v1")
    (True, True, False)
    """
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return host == "localhost" or host.endswith((".localhost", ".local"))


def read_key(url: str, variable: str | None) -> Secret | None:
    """The key from the environment, where there is one.

    Args:
        url: where it is going to be sent.
        variable: the environment variable's name; None: the endpoint wants no key.

    Raises:
        LensSteerError: it is missing for an address that is not local, it could not stand in a header, it would travel
            unencrypted. The key is in no message.
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
    """The headers that carry the key.

    >>> headers_for(Secret("abc"))
    {'Authorization': '***'}
    """
    return {} if key is None else {"Authorization": Secret(f"Bearer {key}")}


async def ask(
    client: Any,
    url: str,
    body: Mapping[str, Any],
    *,
    key: Secret | None = None,
    retries: int,
    backoff: float,
    on_retry: Callable[[], None] = lambda: None,
) -> Answer:
    """Send one request until it is answered.

    Status 429, 5xx, time-outs, broken connections and answers of no known form are tried again after
    ``min(60, backoff · 2^k) · U(½, 1)`` seconds, or after what the server's Retry-After says. Every other status is
    final.

    Args:
        client: an ``httpx.AsyncClient`` with the headers set.
        url, body: of the request.
        key: what to strike out of the server's messages.
        retries: tries after the first.
        backoff: seconds.
        on_retry: called before each of them.

    Raises:
        LensSteerError: a final status, or no answer after the last try, with the server's message.
    """
    import httpx

    reason = ""
    for attempt in range(retries + 1):
        wait = None
        try:
            response = await client.post(url, json=body)
        except httpx.RequestError as error:
            reason = f"{type(error).__name__} {error}".strip()
        else:
            if response.is_success:
                answer = read_answer(response)
                if answer is not None:
                    return answer
                reason = f"an answer without choices: {_message(response, key)}"
            else:
                reason = f"status {response.status_code}: {_message(response, key)}"
                wait = retry_after(response.headers.get("Retry-After"))
                if response.status_code != 429 and response.status_code < 500:
                    raise LensSteerError(f"{url} refused the request with {reason}")
                if wait is not None and wait > LONGEST_WAIT:
                    raise LensSteerError(f"{url} asks to wait {wait:.0f} s ({reason}): try again later")
        if attempt < retries:
            on_retry()
            await asyncio.sleep(delay(attempt, backoff) if wait is None else wait)
    tries = "1 try" if retries == 0 else f"{retries + 1} tries"
    raise LensSteerError(f"{url} gave no answer in {tries}, at last {reason}")


def delay(attempt: int, backoff: float) -> float:
    """Seconds before the next try: doubling, with jitter, so that many clients do not come back at once.

    >>> 2 <= delay(2, 1.0) <= 4
    True
    """
    return min(LONGEST_BACKOFF, backoff * 2**attempt) * random.uniform(0.5, 1.0)


def retry_after(value: str | None, now: float | None = None) -> float | None:
    """Seconds that a Retry-After header asks for, given as a number or as a date; None without a readable one.

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
    """The first choice's text and the token counts; None where the body has another form. A null text (a filtered or
    cut answer) is empty.
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
    """The server's own words, on one line of at most 300 characters, the key struck out wherever they repeat it."""
    try:
        found = response.json()
        error = found.get("error", found) if isinstance(found, dict) else found
        text = error.get("message", error) if isinstance(error, dict) else error
    except ValueError:
        text = response.text
    words = " ".join(str(text).split())
    return (words.replace(str(key), "***") if key else words)[:300] or "(no message)"
