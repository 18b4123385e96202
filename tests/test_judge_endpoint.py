"""A judge behind an endpoint, against a server of its own: trouble, keys, cache, concurrency."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tenacity import Future, RetryCallState, Retrying

from lens_steer.data import Prompt
from lens_steer.errors import LensSteerError
from lens_steer.metrics import judges as j
from lens_steer.metrics.judges import request
from lens_steer.metrics.judges.cache import Answer

PROMPTS = [Prompt.of("a short one"), Prompt.of("a rather longer one, with words"), Prompt.of("b")]
RESPONSES = ["yes", "no, and not for a long while", "and so on"]
KEY = "sk-very-secret-0123456789"


class Server:
    """A chat endpoint on this machine that follows a script: each request takes the next reply, the last one again and
    again.
    """

    def __init__(self) -> None:
        self.replies: list[Callable[[], tuple[int, dict[str, str], Any]]] = []
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.under_way = self.most_under_way = 0
        lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    server.bodies.append(body)
                    server.headers.append(dict(self.headers))
                    server.times.append(time.monotonic())
                    server.under_way += 1
                    server.most_under_way = max(server.most_under_way, server.under_way)
                    reply = server.replies.pop(0) if len(server.replies) > 1 else server.replies[0]
                status, headers, found = reply()
                data = found.encode() if isinstance(found, str) else json.dumps(found).encode()
                with lock:
                    server.under_way -= 1
                try:
                    self.send_response(status)
                    for name, value in (headers | {"Content-Length": str(len(data))}).items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(data)
                except OSError:  # the client has gone
                    pass

            def log_message(self, format: str, *args: Any) -> None: ...

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_port}/v1"

    def judge(self, **options: Any) -> j.LLMJudge:
        """A judge of this server that does not wait long."""
        settings: dict[str, Any] = {"backoff": 0.01, **options}
        return j.LLMJudge("m", self.url, **settings)


def says(
    text: str | None, tokens: tuple[int, int] | None = (10, 2), seconds: float = 0.0
) -> Callable[[], tuple[int, dict[str, str], Any]]:
    """A good reply."""
    usage = {} if tokens is None else {"usage": {"prompt_tokens": tokens[0], "completion_tokens": tokens[1]}}

    def reply() -> tuple[int, dict[str, str], Any]:
        time.sleep(seconds)
        return 200, {}, {"choices": [{"message": {"role": "assistant", "content": text}}], **usage}

    return reply


def fails(status: int, message: Any = "no", **headers: str) -> Callable[[], tuple[int, dict[str, str], Any]]:
    """A bad reply."""
    return lambda: (status, {name.replace("_", "-"): v for name, v in headers.items()}, {"error": {"message": message}})


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """The server, with a key in the environment."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    found = Server()
    yield found
    found.http.shutdown()
    found.http.server_close()
    found.thread.join()


def test_an_endpoint_is_asked_and_read(server: Server) -> None:
    """The request holds both texts and the settings; verdicts stand in the order of the responses; tokens and cost add
    up.
    """
    server.replies = [says("Verdict: harmful"), says("So.\nVerdict: safe"), says("Who knows?"), says(None, tokens=None)]
    judge = server.judge(
        concurrency=1, system="Be strict.", max_tokens=9, extra={"seed": 3}, price_per_million=(2.0, 10.0)
    )
    got = judge([*PROMPTS, Prompt.of("d", system="hidden")], [*RESPONSES, "e"])
    assert [v.harmful for v in got] == [True, False, None, None]
    assert [v.raw for v in got] == ["Verdict: harmful", "So.\nVerdict: safe", "Who knows?", ""]
    body = server.bodies[1]
    assert (body["model"], body["temperature"], body["max_tokens"], body["seed"]) == ("m", 0.0, 9, 3)
    assert [m["role"] for m in body["messages"]] == ["system", "user"]
    assert PROMPTS[1].text in body["messages"][1]["content"] and RESPONSES[1] in body["messages"][1]["content"]
    assert "hidden" not in json.dumps(server.bodies)
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    usage = judge.usage
    assert (usage.answers, usage.prompt_tokens, usage.completion_tokens, usage.uncounted, usage.retries) == (
        4,
        30,
        6,
        1,
        0,
    )
    assert usage.cost == pytest.approx((30 * 2.0 + 6 * 10.0) / 1e6)


def test_unset_settings_are_not_sent(server: Server) -> None:
    """None leaves temperature and length to the endpoint, and without prices there is no cost; half a character is sent
    as a question mark.
    """
    server.replies = [says("Verdict: safe")]
    judge = server.judge(temperature=None, api_key_env=None, template="{response}")
    judge(PROMPTS[:1], ["half \ud800"])
    assert server.bodies == [{"model": "m", "messages": [{"role": "user", "content": "half ?"}]}]
    assert "Authorization" not in server.headers[0] and judge.usage.cost is None


def test_trouble_that_passes_is_waited_for(server: Server) -> None:
    """429, 5xx and replies of no known form are tried again."""
    server.replies = [
        fails(429),
        fails(500),
        lambda: (200, {}, {"error": {"message": "busy"}}),
        lambda: (502, {}, "<html>"),
        says("Verdict: safe"),
    ]
    judge = server.judge()
    assert [v.harmful for v in judge(PROMPTS[:1], RESPONSES[:1])] == [False]
    assert (len(server.bodies), judge.usage.retries, judge.usage.answers) == (5, 4, 1)


def test_a_slow_try_is_given_up(server: Server) -> None:
    """A time-out is tried again."""
    server.replies = [says("Verdict: harmful", seconds=1.0), says("Verdict: safe")]
    judge = server.judge(timeout=0.2)
    assert [v.harmful for v in judge(PROMPTS[:1], RESPONSES[:1])] == [False]
    assert judge.usage.retries == 1


def test_retry_after_is_honoured(server: Server) -> None:
    """The server's own wait, longer than ours would be; one that is out of all proportion ends it."""
    server.replies = [fails(429, Retry_After="0.4"), says("Verdict: safe")]
    server.judge(backoff=0.0)(PROMPTS[:1], RESPONSES[:1])
    assert server.times[1] - server.times[0] >= 0.4
    server.replies = [fails(429, "daily limit", Retry_After="86400")]
    with pytest.raises(LensSteerError, match=r"asks to wait 86400 s \(status 429: daily limit\): try again later"):
        server.judge()(PROMPTS[:1], RESPONSES[:1])


def test_trouble_that_stays(server: Server) -> None:
    """After the last try the server's words are the message."""
    server.replies = [fails(503, "down for\nthe night")]
    with pytest.raises(LensSteerError, match="gave no answer in 3 tries, at last status 503: down for the night"):
        server.judge(retries=2)(PROMPTS[:1], RESPONSES[:1])
    assert len(server.bodies) == 3
    with pytest.raises(LensSteerError, match="gave no answer in 1 try, at last ConnectError"):
        j.LLMJudge("m", "http://127.0.0.1:9/v1", retries=0)(PROMPTS[:1], RESPONSES[:1])


@pytest.mark.parametrize("status", [400, 401, 404])
def test_a_refused_request_is_not_tried_again(server: Server, status: int) -> None:
    """One request, the server's message, and no exception group around it."""
    server.replies = [fails(status, "no such model 'm'")]
    with pytest.raises(
        LensSteerError, match=f"/chat/completions refused the request with status {status}: no such model 'm'"
    ):
        server.judge(concurrency=1)(PROMPTS, RESPONSES)
    assert len(server.bodies) == 1


def test_the_key_shows_nowhere(server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Not in repr, errors (the server may echo it), tracebacks with variables, logs or the cache."""
    cache = tmp_path / "cache.jsonl"
    server.replies = [says("Verdict: safe"), fails(401, f"bad key {KEY}"), fails(500, f"Bearer {KEY} failed")]
    judge = server.judge(cache=cache, concurrency=1, retries=0)
    with caplog.at_level(logging.DEBUG):
        judge(PROMPTS[:1], RESPONSES[:1])
        shown = [repr(judge), repr(vars(judge)), cache.read_text(encoding="utf-8"), repr(judge._cache)]
        for _ in range(2):
            with pytest.raises(LensSteerError) as caught:
                judge(PROMPTS[1:], RESPONSES[1:])
            assert "***" in str(caught.value)
            report = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
            shown += [str(caught.value), "".join(report.format())]
    assert not any(KEY in text for text in [*shown, caplog.text])
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"


def test_keys_are_checked_before_any_request(monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    """Missing for a far address, malformed (its text is not in the message), over plain http; none is needed here."""
    monkeypatch.delenv("OPENAI_API_KEY")
    pair = PROMPTS[:1], RESPONSES[:1]
    with pytest.raises(
        LensSteerError, match="OPENAI_API_KEY is not set, and https://api.example.com/v1/chat/completions needs a key"
    ):
        j.LLMJudge("m", "https://api.example.com/v1")(*pair)
    server.replies = [says("Verdict: safe")]
    assert server.judge()(*pair)[0].harmful is False
    assert "Authorization" not in server.headers[0]
    monkeypatch.setenv("OPENAI_API_KEY", "two words")
    with pytest.raises(LensSteerError, match="holds characters that no key has") as caught:
        j.LLMJudge("m", "https://api.example.com/v1")(*pair)
    assert "two words" not in str(caught.value)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with pytest.raises(LensSteerError, match="would send the key unencrypted: use https"):
        j.LLMJudge("m", "http://api.example.com/v1")(*pair)


def test_the_cache_spares_requests(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second judge asks nothing, not even for a key; another model, temperature or address does; equal rows are asked
    once.
    """
    cache = tmp_path / "deep" / "cache.jsonl"
    server.replies = [says("Verdict: harmful"), says("Verdict: safe")]
    first = server.judge(cache=cache, concurrency=1)
    got = first([PROMPTS[0], PROMPTS[1], PROMPTS[0]], ["a", "b", "a"])
    assert [v.harmful for v in got] == [True, False, True]
    assert (len(server.bodies), first.usage.answers, first.usage.cached) == (2, 2, 1)
    monkeypatch.delenv("OPENAI_API_KEY")
    second = server.judge(cache=cache)
    assert second([PROMPTS[0], PROMPTS[1], PROMPTS[0]], ["a", "b", "a"]) == got
    assert (len(server.bodies), second.usage.answers, second.usage.cached, second.usage.prompt_tokens) == (2, 0, 3, 0)
    server.judge(cache=cache, temperature=1.0)(PROMPTS[:1], ["a"])
    assert len(server.bodies) == 3
    assert len(cache.read_text(encoding="utf-8").splitlines()) == 3


def test_the_cache_survives_a_crash(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A torn last line is passed over with a warning, and what is added next stands on a line of its own."""
    path = tmp_path / "cache.jsonl"
    cache = j.AnswerCache(path)
    cache.add("one", Answer("safe", 3, 1))
    cache.add("two", Answer("half \ud800 ü\nline", None, None))
    path.write_bytes(path.read_bytes() + b'{"key": "three", "te')
    with caplog.at_level(logging.WARNING):
        again = j.AnswerCache(path)
    assert "passed over 1 broken lines" in caplog.text
    assert (
        again.get("one") == Answer("safe", 3, 1)
        and again.get("two") == Answer("half \ud800 ü\nline")
        and again.get("three") is None
    )
    again.add("four", Answer("unsafe"))
    last = j.AnswerCache(path)
    assert len(last) == 3 and last.get("four") == Answer("unsafe")
    with pytest.raises(LensSteerError, match="cannot be read"):
        j.AnswerCache(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(LensSteerError, match="cannot be written"):
        j.AnswerCache(tmp_path / "file" / "cache.jsonl").add("k", Answer("safe"))


def test_what_was_answered_before_an_error_is_kept(server: Server, tmp_path: Path) -> None:
    """Calling again asks for the rest only."""
    server.replies = [says("Verdict: safe"), fails(400)]
    with pytest.raises(LensSteerError, match="status 400"):
        server.judge(cache=tmp_path / "c.jsonl", concurrency=1)(PROMPTS, RESPONSES)
    server.replies, server.bodies = [says("Verdict: harmful")], []
    got = server.judge(cache=tmp_path / "c.jsonl", concurrency=1)(PROMPTS, RESPONSES)
    assert [v.harmful for v in got] == [False, True, True] and len(server.bodies) == 2


@pytest.mark.parametrize("limit", [1, 3])
def test_no_more_requests_at_once_than_asked_for(server: Server, limit: int) -> None:
    """As many as the limit, never more, also when there are many and the bar is shown."""
    server.replies = [says("Verdict: safe", seconds=0.02)]
    got = server.judge(concurrency=limit)([Prompt.of(str(i)) for i in range(24)], ["x"] * 24)
    assert j.tally(got) == {"harmful": 0, "safe": 24, "none": 0}
    assert server.most_under_way == limit


def test_it_works_inside_a_running_loop(server: Server) -> None:
    """As in Jupyter; errors come through unchanged."""

    async def cell() -> list[j.Verdict]:
        return server.judge()(PROMPTS, RESPONSES)

    server.replies = [says("Verdict: safe")]
    assert [v.harmful for v in asyncio.run(cell())] == [False] * 3
    server.replies = [fails(404, "gone")]
    with pytest.raises(LensSteerError, match="status 404: gone"):
        asyncio.run(cell())


def test_an_interrupt_ends_the_requests(server: Server, request: pytest.FixtureRequest) -> None:
    """After Ctrl-C no request goes on, none follows, and no thread is left behind."""
    kept = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, kept))
    came = threading.Event()

    def reply() -> tuple[int, dict[str, str], Any]:
        came.set()
        time.sleep(0.3)
        return says("Verdict: safe")()

    def interrupt() -> None:
        came.wait()
        os.kill(os.getpid(), signal.SIGINT)

    server.replies = [reply]
    before = set(threading.enumerate())
    judge = server.judge(concurrency=1)
    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        judge(PROMPTS, RESPONSES)
    assert len(server.bodies) == 1 and judge.usage.answers == 0
    left = set(threading.enumerate()) - before
    assert not [thread for thread in left if "portal" in thread.name]


def test_waits() -> None:
    """Doubling up to a limit, with jitter, unless the server says how long; Retry-After as seconds, as a date, in the
    past, and unreadable.
    """

    def state(attempt: int, failure: Exception) -> RetryCallState:
        found = RetryCallState(Retrying(), None, (), {})
        found.attempt_number = attempt
        found.outcome = Future.construct(attempt, failure, has_exception=True)
        return found

    for attempt, most in ((1, 1.0), (4, 8.0), (51, 60.0)):
        busy = state(attempt, request.TemporaryError("busy"))
        drawn = [request.waits(1.0)(busy) for _ in range(50)]
        assert most / 2 <= min(drawn) < max(drawn) <= most
        assert max(drawn) - min(drawn) > most / 8
    assert request.waits(0.0)(state(3, request.TemporaryError("busy"))) == 0.0
    assert request.waits(1.0)(state(3, request.TemporaryError("busy", 7.5))) == 7.5
    assert request.retry_after("3") == 3.0
    assert request.retry_after("Thu, 01 Jan 1970 00:00:10 GMT", now=4.0) == 6.0
    assert request.retry_after("Thu, 01 Jan 1970 00:00:10 GMT") == 0.0
    assert (
        request.retry_after("nan") is None and request.retry_after("soon") is None and request.retry_after(None) is None
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base_url": "api.openai.com/v1"}, "base_url='api.openai.com/v1': give an address such as"),
        ({"base_url": "http://localhost:eight/v1"}, "give an address such as"),
        (
            {"base_url": "https://me:p4ss@host/v1"},
            "base_url at 'host' carries a user, a password, a query or a fragment",
        ),
        ({"base_url": "https://host/v1?key=p4ss"}, "base_url at 'host' carries a user"),
        ({"concurrency": 0}, "concurrency=0: at least 1 is needed"),
        ({"retries": -1}, "retries=-1: at least 0 is needed"),
        ({"timeout": 0}, "timeout=0, backoff=1.0: give seconds"),
        ({"price_per_million": (1.0, -1.0)}, "give two prices, not below 0"),
        ({"template": "Is it?"}, "is neither a text with"),
        ({"harmful_pattern": "("}, "is no valid regular expression"),
    ],
)
def test_bad_endpoints(options: dict[str, Any], message: str) -> None:
    """Said when the judge is made, and a password in the address is not repeated."""
    with pytest.raises(LensSteerError, match=message) as caught:
        j.LLMJudge("m", **options)
    assert "p4ss" not in str(caught.value)
