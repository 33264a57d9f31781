"""Log lines: one for each exchange, and the records of the standard library's loggers in the same shape.

No write waits for its sink: lines go through a bounded queue to a thread, and are dropped and counted when
the sink does not take them. Rules: `reliability.md` section 15; no line holds a prompt, a completion, a key,
a query string or an engine's address. Exchanges go to stdout, records to stderr.

Only generation routes have exchanges, so probes of `/health` and the like leave no line at any level.
"""

import asyncio
import logging
import time
import traceback

import msgspec

from pointsman import attempt, audit
from pointsman.exchange import Exchange
from pointsman.knobs import LogFormat
from pointsman.line_writer import CAPACITY, CLOSE_S, LineWriter

BATCH = 32  # exchanges whose lines are made together
FLUSH_S = 0.05  # a line of an exchange waits so long for company: waking a thread costs more than the line

_CONTROLS = {code: f"\\u{code:04x}" for code in (*range(0x7F, 0xA0), 0x2028, 0x2029)}
_ALL_CONTROLS = {code: f"\\x{code:02x}" for code in range(0x20)} | _CONTROLS  # JSON escapes its own
_MILLIS = tuple(f".{number:03d}Z" for number in range(1000))
_NAMES = {logging.INFO: "INFO", logging.WARNING: "WARNING", logging.ERROR: "ERROR"}
_encode = msgspec.json.Encoder().encode


class _Line(msgspec.Struct, gc=False):
    timestamp: str
    level: str
    logger: str
    message: str
    request_id: str
    client: str
    method: str
    route: str
    status: int
    status_code: int  # the same, and `latency_ms` below, by seed 002's names
    model: str
    wanted_model: str  # where another was asked for than answered
    replica: str
    attempts: int
    end: str
    error_code: str
    stream: bool
    cache: str  # as in `X-Pointsman-Cache`; empty: not asked
    ttft_ms: float | None  # to the first event with content; None: it never came
    queued_ms: float | None  # in the queue for a slot; None: it had one at once
    duration_ms: float
    latency_ms: float
    prompt_tokens: int
    completion_tokens: int
    bytes: int


class AccessLog:
    """Writes one line for each exchange.

    A bug of ours is logged as ERROR, other answers from 500 up as WARNING, all others as INFO.

    Args:
        level: name of the least level that is written.
        fd: where the lines go; stays open.
    """

    def __init__(self, form: LogFormat, level: str = "INFO", fd: int = 1, capacity: int = CAPACITY) -> None:
        self._text = form is LogFormat.TEXT
        self._least = _level(level)
        self._fd = fd
        self._capacity = capacity
        self._loop: asyncio.AbstractEventLoop | None = None
        self._writer: LineWriter | None = None
        self._ended: list[Exchange] = []
        self._lines: list[bytes] = []
        self._lost = 0
        self._second = 0
        self._stamp = ""

    @property
    def dropped(self) -> int:
        """Lines lost so far."""
        return self._lost + (self._writer.dropped if self._writer is not None else 0)

    def renew(self, level: str) -> None:
        """Write from another level on."""
        self._least = _level(level)

    @property
    def waiting(self) -> int:
        """Lines that wait to be made or written."""
        written = self._writer.waiting if self._writer is not None else 0
        return len(self._ended) + len(self._lines) + written

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to write. Lines of exchanges observed outside of start and close are dropped."""
        self._loop = loop
        self._writer = LineWriter(self._fd, self._capacity)

    def close(self, timeout_s: float = CLOSE_S) -> None:
        """Write what is there; what a blocked sink does not take within `timeout_s` is dropped."""
        self._flush()
        self._loop = None
        if self._writer is not None:
            writer, self._writer = self._writer, None
            writer.close(timeout_s)
            self._lost += writer.dropped

    def observe(self, exchange: Exchange) -> None:
        """Log an exchange that ended; on the loop's thread, once for each."""
        if _level_of(exchange) < self._least:
            return
        if self._loop is None:
            self._lost += 1
            return
        if not self._ended:
            if not self._lines:
                self._loop.call_later(FLUSH_S, self._flush)
        elif len(self._ended) >= BATCH:
            self._format()
        self._ended.append(exchange)

    def _format(self) -> None:
        """Make lines of what has ended: many together cost half of each by itself."""
        epoch = time.time() - time.monotonic()
        for exchange in self._ended:
            line = self._line(exchange, epoch + exchange.ended_at)
            self._lines.append(_as_text(line) if self._text else _encode(line) + b"\n")
        self._ended.clear()

    def _flush(self) -> None:
        self._format()
        if self._lines and self._writer is not None:
            self._writer.put(b"".join(self._lines), len(self._lines))
        self._lines.clear()

    def _line(self, exchange: Exchange, now: float) -> _Line:
        second = int(now)
        if second != self._second:
            self._second, self._stamp = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        started, first = exchange.started_at, exchange.first_event_at
        spent_ms = _ms(exchange.ended_at - started)
        return _Line(
            self._stamp + _MILLIS[int((now - second) * 1000)],
            _NAMES[_level_of(exchange)],
            "pointsman.access",
            f"{exchange.method} {exchange.route} - {exchange.status}",
            exchange.request_id,
            exchange.client,
            exchange.method,
            exchange.route,
            exchange.status,
            exchange.status,
            exchange.model_id,
            exchange.wanted_id,
            exchange.replica_id,
            len(exchange.attempts),
            exchange.end.label,
            exchange.error_code,
            exchange.stream,
            exchange.cache,
            _ms(first - started) if first else None,
            _ms(exchange.queued_s) if exchange.queued_s else None,
            spent_ms,
            spent_ms,
            exchange.prompt_tokens,
            exchange.completion_tokens,
            exchange.answer_bytes,
        )


def _ms(seconds: float) -> float:
    """Milliseconds to two decimals; `round` would be a tenth of a line's cost."""
    return int(seconds * 100_000 + 0.5) / 100


def _level_of(exchange: Exchange) -> int:
    if exchange.status < 500:
        return logging.INFO
    return logging.ERROR if exchange.end is attempt.BUG else logging.WARNING


def _level(name: str) -> int:
    return logging.getLevelNamesMapping()[name.upper()]


def _as_text(line: _Line) -> bytes:
    """`time LEVEL logger message name=value …`, empty values left out, odd ones quoted as JSON does."""
    named = msgspec.structs.asdict(line)
    head = [named.pop(name) for name in ("timestamp", "level", "logger", "message")]
    for name, value in named.items():
        if value is not None and value != "":
            shown = value if isinstance(value, str) else _encode(value).decode()
            odd = any(sign in shown for sign in ' "=')
            head.append(f"{name}={_encode(shown).decode() if odd else shown}")
    return _safe(" ".join(head).translate(_ALL_CONTROLS)) + b"\n"


def _safe(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")


class _RecordHandler(logging.Handler):
    """Hands records of the standard library's loggers to a writer."""

    full_errors = False  # their own text too

    def __init__(self, writer: LineWriter, form: LogFormat) -> None:
        super().__init__()
        self._writer = writer
        self._text = form is LogFormat.TEXT

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except (TypeError, ValueError, KeyError):
            message = f"{record.msg} (its arguments do not fit)"
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        fields = {
            "timestamp": stamp + _MILLIS[int(record.created % 1 * 1000)],
            "level": record.levelname,
            "logger": record.name,
            "message": message,
        }
        if record.exc_info and record.exc_info[1] is not None:
            fields["exception"] = _trace(record.exc_info[1], full=self.full_errors)
        if not self._text:
            fields |= getattr(record, "facts", {})  # of the audit log; in text they stand in the message
        if self._text:
            self._writer.put(_safe(" ".join(fields.values()).translate(_ALL_CONTROLS)) + b"\n")
        else:
            clean = {name: _safe(text).decode().translate(_CONTROLS) for name, text in fields.items()}
            self._writer.put(_encode(clean) + b"\n")


def _trace(error: BaseException, *, full: bool) -> str:
    """Where an error came from. Its own text may hold a prompt or an address: it is there only if `full`."""
    if full:
        return "".join(traceback.format_exception(error))
    parts: list[str] = []
    cause: BaseException | None = error
    while cause is not None and len(parts) < 10:
        frames = "".join(traceback.format_tb(cause.__traceback__))
        parts.append(f"{frames}{type(cause).__module__}.{type(cause).__qualname__}")
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return "\n".join(reversed(parts))


class Sink:
    """The configured standard library logging; `close` puts back what was there before."""

    def __init__(self, writer: LineWriter, handler: _RecordHandler, level: str) -> None:
        self._writer = writer
        self._handler = handler
        self._before = []
        for name in _levels(level):
            logger = logging.getLogger(name)
            self._before.append((logger, logger.level, logger.handlers, logger.propagate))
            if name:
                logger.handlers, logger.propagate = [], True
        self.renew(level)
        logging.getLogger().addHandler(handler)

    def renew(self, level: str) -> None:
        """Write from another level on."""
        self._handler.full_errors = _level(level) <= logging.DEBUG
        for name, least in _levels(level).items():
            logging.getLogger(name).setLevel(least)

    @property
    def dropped(self) -> int:
        """Records lost so far."""
        return self._writer.dropped

    def close(self) -> None:
        """Write what is there and put the loggers back; waits for the sink no longer than CLOSE_S."""
        logging.getLogger().removeHandler(self._handler)
        for logger, level, handlers, propagate in self._before:
            logger.setLevel(level)
            if logger is not logging.getLogger():
                logger.handlers, logger.propagate = handlers, propagate
        self._writer.close()


def configure(level: str, form: LogFormat, fd: int = 2) -> Sink:
    """Give all loggers of the process our shape: ours and uvicorn's from `level` up, others from WARNING up.

    httpx and httpcore never log below WARNING, since they name addresses, nor does uvicorn's access log,
    which names query strings. The text of exceptions is left out unless `level` is DEBUG.
    """
    writer = LineWriter(fd)
    return Sink(writer, _RecordHandler(writer, form), level)


def _levels(level: str) -> dict[str, int]:
    """By the names of the loggers."""
    least = _level(level)
    quiet = max(least, logging.WARNING)
    return {
        "": quiet,
        "pointsman": least,
        audit.LOGGER: min(least, logging.INFO),
        "uvicorn": least,
        "uvicorn.error": logging.NOTSET,
        "uvicorn.access": quiet,
        "httpx": quiet,
        "httpcore": quiet,
    }
