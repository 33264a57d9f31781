"""Log lines: their shape, what they keep to themselves, and that nobody waits for the sink."""

import asyncio
import fcntl
import json
import logging
import os
import select
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from pointsman import attempt, audit
from pointsman.exchange import AttemptRecord, Exchange
from pointsman.knobs import LogFormat
from pointsman.line_writer import LineWriter
from pointsman.log import AccessLog, Sink, configure

JSON, TEXT = LogFormat.JSON, LogFormat.TEXT
CHAT = "/v1/chat/completions"


@dataclass
class Pipe:
    """A small pipe as a sink; the kernel holds 4096 bytes of it."""

    end_r: int
    end_w: int

    def drain(self) -> bytes:
        """All that was written; closes the writing end first, so that the reading ends."""
        self.close_writer()
        with open(self.end_r, "rb", closefd=False) as reader:
            return reader.read()

    def close_writer(self) -> None:
        if self.end_w >= 0:
            os.close(self.end_w)
            self.end_w = -1


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    end_r, end_w = os.pipe()
    fcntl.fcntl(end_w, fcntl.F_SETPIPE_SZ, 4096)
    made = Pipe(end_r, end_w)
    yield made
    made.close_writer()
    os.close(end_r)


def streamed(**facts: object) -> Exchange:
    good = Exchange(
        "0123abcd",
        CHAT,
        "POST",
        100.0,
        client="203.0.113.9",
        model_id="gemma",
        replica_id="gemma-1",
        stream=True,
        status=200,
        sent_at=100.002,
        first_event_at=100.25,
        ended_at=101.23456,
        answer_bytes=9000,
        events=53,
        prompt_tokens=20,
        completion_tokens=50,
        attempts=[AttemptRecord("gemma-0", attempt.CONNECT), AttemptRecord("gemma-1", attempt.OK)],
    )
    return msgspec.structs.replace(good, **facts)


def written(pipe: Pipe, *exchanges: Exchange, form: LogFormat = JSON, level: str = "INFO") -> list[bytes]:
    """The lines that these exchanges leave."""

    async def observe_all() -> None:
        log = AccessLog(form, level, pipe.end_w)
        log.start(asyncio.get_running_loop())
        for exchange in exchanges:
            log.observe(exchange)
        log.close()
        assert log.dropped == 0

    asyncio.run(observe_all())
    return pipe.drain().splitlines()


def test_the_fields_of_a_line(pipe: Pipe) -> None:
    """A line is one JSON object with all facts of the exchange, in this order, and the time in UTC."""
    (line,) = written(pipe, streamed())
    fields: dict[str, Any] = json.loads(line)
    stamp = datetime.fromisoformat(fields.pop("timestamp"))
    age_s = time.monotonic() - 101.23456  # the exchange ended so long ago
    assert abs((datetime.now(UTC) - stamp).total_seconds() - age_s) < 5
    assert fields == {
        "level": "INFO",
        "logger": "pointsman.access",
        "message": "POST /v1/chat/completions - 200",
        "request_id": "0123abcd",
        "client": "203.0.113.9",
        "method": "POST",
        "route": CHAT,
        "status": 200,
        "status_code": 200,
        "model": "gemma",
        "wanted_model": "",
        "replica": "gemma-1",
        "attempts": 2,
        "end": "ok",
        "error_code": "",
        "stream": True,
        "cache": "",
        "ttft_ms": 250.0,
        "queued_ms": None,
        "duration_ms": 1234.56,
        "latency_ms": 1234.56,
        "prompt_tokens": 20,
        "completion_tokens": 50,
        "bytes": 9000,
    }
    assert line.startswith(b'{"timestamp":"')
    assert b'Z","level":"INFO",' in line


def test_what_never_came_is_null(pipe: Pipe) -> None:
    """An exchange without a first event has no TTFT, and not a TTFT of 0."""
    (line,) = written(pipe, streamed(first_event_at=0.0))
    assert json.loads(line)["ttft_ms"] is None


def test_a_wait_for_a_slot_is_told(pipe: Pipe) -> None:
    """In milliseconds, within the whole time."""
    (line,) = written(pipe, streamed(queued_s=0.25))
    assert json.loads(line)["queued_ms"] == 250.0


def test_what_the_cache_did_is_told(pipe: Pipe) -> None:
    """In the words of the answer's header."""
    (line,) = written(pipe, streamed(cache="bypass;unavailable"))
    assert json.loads(line)["cache"] == "bypass;unavailable"


@pytest.mark.parametrize(
    ("facts", "level"),
    [
        ({"status": 200}, "INFO"),
        ({"status": 499, "end": attempt.CLIENT_ABORT}, "INFO"),
        ({"status": 503, "end": attempt.NO_ENDPOINT}, "WARNING"),
        ({"status": 500, "end": attempt.BUG}, "ERROR"),
    ],
)
def test_the_level_follows_the_answer(pipe: Pipe, facts: dict[str, object], level: str) -> None:
    """Answers from 500 up are warnings, bugs are errors."""
    (line,) = written(pipe, streamed(**facts))
    assert json.loads(line)["level"] == level


def test_lower_levels_are_left_out(pipe: Pipe) -> None:
    """At level WARNING only answers from 500 up leave a line."""
    lines = written(pipe, streamed(), streamed(status=502), level="WARNING")
    assert [json.loads(line)["status"] for line in lines] == [502]


def test_details_of_attempts_are_kept_back(pipe: Pipe) -> None:
    """What an engine or a connection said goes nowhere near the line."""
    secret = AttemptRecord("gemma-0", attempt.CONNECT, "http://10.1.2.3:8000 said CANARY")
    for form in LogFormat:
        end_r, end_w = os.pipe()
        own = Pipe(end_r, end_w)
        (line,) = written(own, streamed(attempts=[secret]), form=form)
        os.close(end_r)
        assert b"CANARY" not in line
        assert b"10.1.2.3" not in line


def test_text_lines(pipe: Pipe) -> None:
    """The text form has time, level, logger and message first, then the fields that have a value."""
    (line,) = written(pipe, streamed(ended_at=102.0), form=TEXT)
    stamp, rest = line.split(b" ", 1)
    assert stamp.endswith(b"Z")
    assert rest == (
        b"INFO pointsman.access POST /v1/chat/completions - 200 request_id=0123abcd client=203.0.113.9"
        b" method=POST route=/v1/chat/completions status=200 status_code=200 model=gemma replica=gemma-1"
        b" attempts=2 end=ok stream=true ttft_ms=250.0 duration_ms=2000.0 latency_ms=2000.0"
        b" prompt_tokens=20 completion_tokens=50 bytes=9000"
    )


@pytest.mark.parametrize("form", list(LogFormat))
def test_nothing_can_forge_a_line(pipe: Pipe, form: LogFormat) -> None:
    """Line ends, escapes and quotes within a value leave it one line, and one field."""
    (line,) = written(pipe, streamed(request_id='a\r\nb\x1b[2J "x" status=200'), form=form)
    assert b"\r" not in line
    assert b"\x1b" not in line
    if form is JSON:
        assert json.loads(line)["request_id"] == 'a\r\nb\x1b[2J "x" status=200'
    else:
        assert line.count(b" status=200") == 2
        assert b'request_id="a' in line


@pytest.mark.anyio
async def test_lines_come_soon_without_being_asked_for(pipe: Pipe) -> None:
    """A line is written within a moment, with those that came meanwhile, and later ones after it."""
    log = AccessLog(JSON, fd=pipe.end_w)
    log.start(asyncio.get_running_loop())
    for round_no in range(3):
        for number in range(3):
            log.observe(streamed(request_id=f"{round_no}-{number}"))
        lines = await asyncio.to_thread(read_lines, pipe.end_r, 3)
        ids = [json.loads(line)["request_id"] for line in lines]
        assert ids == [f"{round_no}-{number}" for number in range(3)]
    log.close()


@pytest.mark.anyio
async def test_a_blocked_sink_holds_up_nobody(pipe: Pipe) -> None:
    """While nobody reads, observing stays quick and lines are dropped; what was taken comes out whole."""
    log = AccessLog(JSON, fd=pipe.end_w, capacity=100)
    log.start(asyncio.get_running_loop())
    slowest = 0.0
    for batch in range(20):
        for number in range(50):
            began = time.thread_time()
            log.observe(streamed(request_id=f"{batch * 50 + number}"))
            slowest = max(slowest, time.thread_time() - began)
        log._flush()
        await asyncio.sleep(0)
    assert slowest < 0.05
    assert log.dropped == 900
    lines = await asyncio.to_thread(read_lines, pipe.end_r, 100)
    assert [json.loads(line)["request_id"] for line in lines] == [str(number) for number in range(100)]
    log.close()
    assert log.dropped == 900


def read_lines(fd: int, count: int) -> list[bytes]:
    """Read until so many lines are there, or nothing more has come for 5 s."""
    read = b""
    while read.count(b"\n") < count and select.select([fd], [], [], 5)[0]:
        read += os.read(fd, 4096)
    return read.splitlines()


@pytest.mark.anyio
async def test_closing_does_not_wait_for_ever(pipe: Pipe) -> None:
    """A sink that takes nothing delays the end by the timeout only, and the lines count as dropped."""
    log = AccessLog(JSON, fd=pipe.end_w)
    log.start(asyncio.get_running_loop())
    for _ in range(50):
        log.observe(streamed())
    began = time.monotonic()
    log.close(timeout_s=0.1)
    assert time.monotonic() - began < 2
    assert log.dropped == 50
    await asyncio.to_thread(read_lines, pipe.end_r, 50)  # lets the thread end
    await thread_ended()


async def thread_ended() -> None:
    """Wait at most 5 s until no writer's thread is left."""
    async with asyncio.timeout(5):
        while any(thread.name == "pointsman-log" for thread in threading.enumerate()):
            await asyncio.sleep(0.01)


@pytest.mark.anyio
async def test_a_sink_that_is_gone_is_counted(pipe: Pipe) -> None:
    """When the reader has left, lines are dropped and counted, and nothing is raised."""
    end_r, end_w = os.pipe()
    os.close(end_r)
    log = AccessLog(JSON, fd=end_w)
    log.start(asyncio.get_running_loop())
    for _ in range(7):
        log.observe(streamed())
    log.close()
    assert log.dropped == 7
    os.close(end_w)


@pytest.mark.anyio
async def test_a_non_blocking_sink_loses_nothing(pipe: Pipe) -> None:
    """A descriptor that somebody made non-blocking is waited for by the thread."""
    os.set_blocking(pipe.end_w, False)
    log = AccessLog(JSON, fd=pipe.end_w)
    log.start(asyncio.get_running_loop())
    for _ in range(60):
        log.observe(streamed())
    log._flush()
    lines = await asyncio.to_thread(read_lines, pipe.end_r, 60)
    log.close()
    assert len(lines) == 60
    assert log.dropped == 0


@pytest.mark.anyio
async def test_it_can_be_started_again(pipe: Pipe) -> None:
    """Lines outside of start and close are dropped and counted; a second start writes again."""
    log = AccessLog(JSON, fd=pipe.end_w)
    log.observe(streamed())
    for _ in range(2):
        log.start(asyncio.get_running_loop())
        log.observe(streamed())
        log.close()
        log.observe(streamed())
    assert log.dropped == 3
    assert len(pipe.drain().splitlines()) == 2


def test_lines_of_many_threads_stay_whole(pipe: Pipe) -> None:
    """Threads may put lines at once; each comes out whole and once."""
    writer = LineWriter(pipe.end_w)

    def put(name: str) -> None:
        for number in range(100):
            writer.put(f"{name}{number}\n".encode())

    threads = [threading.Thread(target=put, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    writer.close()
    lines = pipe.drain().decode().splitlines()
    assert sorted(lines) == sorted(f"{name}{number}" for name in "abcd" for number in range(100))
    assert writer.dropped == 0
    writer.put(b"too late\n")
    assert writer.dropped == 1


def recorded(
    pipe: Pipe, log: Callable[[], None], level: str = "INFO", form: LogFormat = JSON
) -> list[dict[str, str]]:
    """The records that `log` leaves, as objects; text lines are under "line"."""
    sink = configure(level, form, pipe.end_w)
    try:
        log()
    finally:
        sink.close()
    lines = pipe.drain().splitlines()
    return [json.loads(line) if form is JSON else {"line": line.decode()} for line in lines]


def test_records_have_the_same_shape(pipe: Pipe) -> None:
    """A record of the standard library's logging is a line with time, level, logger and message."""
    (fields,) = recorded(pipe, lambda: logging.getLogger("pointsman.app").warning("no %s", "engines"))
    assert abs((datetime.now(UTC) - datetime.fromisoformat(fields.pop("timestamp"))).total_seconds()) < 60
    assert fields == {"level": "WARNING", "logger": "pointsman.app", "message": "no engines"}


def test_records_as_text(pipe: Pipe) -> None:
    """The text form of a record is one line, its control characters escaped."""
    (fields,) = recorded(pipe, lambda: logging.getLogger("pointsman.app").info("a\nb\x9bc"), form=TEXT)
    assert fields["line"].split(" ", 1)[1] == r"INFO pointsman.app a\x0ab\u009bc"


def test_who_may_speak_at_which_level(pipe: Pipe) -> None:
    """We and uvicorn from INFO; others from WARNING; lines with addresses or query strings never below it."""
    names = ("pointsman.x", "uvicorn", "uvicorn.error", "uvicorn.access", "httpx", "httpcore.http11", "other")

    def log() -> None:
        for name in names:
            logging.getLogger(name).debug("debug")
            logging.getLogger(name).info("info")
            logging.getLogger(name).warning("warning")

    heard = [(fields["logger"], fields["message"]) for fields in recorded(pipe, log)]
    talkative = ("pointsman.x", "uvicorn", "uvicorn.error")
    assert [name for name, text in heard if text == "info"] == list(talkative)
    assert [name for name, text in heard if text == "warning"] == list(names)
    assert not any(text == "debug" for _, text in heard)


def test_debug_does_not_make_httpx_talk(pipe: Pipe) -> None:
    """Even at DEBUG the loggers that name addresses stay at WARNING."""

    def log() -> None:
        logging.getLogger("httpx").info("GET http://10.0.0.1/health")
        logging.getLogger("httpcore.connection").debug("connect_tcp host=10.0.0.1")
        logging.getLogger("pointsman.x").debug("ours")

    assert [fields["message"] for fields in recorded(pipe, log, "DEBUG")] == ["ours"]


def fail() -> None:
    try:
        try:
            raise KeyError("CANARY one")
        except KeyError as error:
            raise ValueError("CANARY two") from error
    except ValueError:
        logging.getLogger("pointsman.x").exception("request failed")


def test_the_text_of_exceptions_is_kept_back(pipe: Pipe) -> None:
    """A trace names the kinds of errors and where they came from, but not what they say."""

    (fields,) = recorded(pipe, fail)
    assert fields["message"] == "request failed"
    assert "builtins.KeyError" in fields["exception"]
    assert fields["exception"].endswith("builtins.ValueError")
    assert "test_log.py" in fields["exception"]
    # The frames quote our source, so the text is looked for as an exception would print it.
    assert "ValueError: CANARY two" not in fields["exception"]


def test_debug_shows_the_text_of_exceptions(pipe: Pipe) -> None:
    """At DEBUG, which an operator has to choose, a trace is complete."""
    (fields,) = recorded(pipe, fail, "DEBUG")
    assert "ValueError: CANARY two" in fields["exception"]


def test_odd_records_do_no_harm(pipe: Pipe) -> None:
    """Wrong arguments, lone surrogates and control characters are written somehow, one line each."""
    odd = ("%d of %d", ("one",)), ("half \ud800 sign", ()), ("bell \x07, csi \x9b, line \u2028 end", ())

    def log() -> None:
        # Not through a logger: pytest's own handler would raise for the first of them.
        (handler,) = (one for one in logging.getLogger().handlers if type(one).__name__ == "_RecordHandler")
        for text, args in odd:
            handler.handle(logging.LogRecord("pointsman.x", logging.INFO, "x.py", 1, text, args, None))

    assert [fields["message"] for fields in recorded(pipe, log)] == [
        "%d of %d (its arguments do not fit)",
        "half \\ud800 sign",
        "bell \x07, csi \\u009b, line \\u2028 end",
    ]


def test_closing_puts_the_loggers_back(pipe: Pipe) -> None:
    """After close levels, handlers and propagation are what they were."""

    def state() -> list[tuple[int, list[logging.Handler], bool]]:
        loggers = [
            logging.getLogger(name) for name in ("", "pointsman", "uvicorn", "uvicorn.access", "httpx")
        ]
        return [(one.level, list(one.handlers), one.propagate) for one in loggers]

    own = logging.NullHandler()
    logging.getLogger("uvicorn.access").addHandler(own)
    before = state()
    sink: Sink = configure("INFO", JSON, pipe.end_w)
    assert state() != before
    sink.close()
    assert state() == before
    logging.getLogger("uvicorn.access").removeHandler(own)
    assert sink.dropped == 0


def test_the_audit_log_is_written_at_any_level(pipe: Pipe) -> None:
    """Its facts are fields of the line; as text they stand in the message."""
    (fields,) = recorded(pipe, lambda: audit.note("address ::1", "warm", "ok", "r-1"), "CRITICAL")
    del fields["timestamp"]
    assert fields == {
        "level": "INFO",
        "logger": "pointsman.audit",
        "message": "address ::1: warm: ok",
        "who": "address ::1",
        "what": "warm",
        "outcome": "ok",
        "request_id": "r-1",
    }


def test_the_audit_log_as_text(pipe: Pipe) -> None:
    """The facts stand in the message."""
    (text,) = recorded(pipe, lambda: audit.note("a", "b", "c"), "ERROR", LogFormat.TEXT)
    assert text["line"].endswith("INFO pointsman.audit a: b: c")
