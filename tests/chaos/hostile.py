"""Input from people who mean no good, or know no better."""

import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

from chaos.growth import resident
from chaos.scene import Figure, Size
from chaos.stage import MODEL, engines
from corpus import CASES, Case
from processes import Emulator, Router
from wire import Client, post, request

CANARIES = ("canary-prompt-7f3a", "canary-key-91bc", "canary-query-5d2e", "canary-engine-44aa")
BODY_BYTES = 8 * 1024 * 1024  # MAX_BODY_BYTES by default


def corpus(size: Size) -> Iterable[Figure]:
    """Every bad input we know of, each on a connection of its own."""
    with ExitStack() as stack:
        vllm, tgi = (stack.enter_context(Emulator(kind)) for kind in ("vllm", "tgi"))
        urls = {"VLLM_GEMMA3_ENDPOINT": vllm.url, "TGI_DISTILGPT2_ENDPOINT": tgi.url}
        router = stack.enter_context(Router(**urls, SURFACES__TGI__MODEL="distilgpt2"))
        router.wait_until_up(MODEL, "distilgpt2")
        statuses = [(case, _answer(router, case)) for case in CASES]
        alive = router.runs and router.http.get("/live").status_code == 200
    wrong = [f"{case}: {status}" for case, status in statuses if status is None or status >= 500]
    yield Figure("cases", len(statuses), least=300)
    yield Figure(f"answered 5xx, crashed or hung ({', '.join(wrong[:5])})", len(wrong), most=0)
    yield Figure("router alive", alive, least=1)


def _answer(router: Router, case: Case) -> int | None:
    """The status; 0: closed without one, as what is no HTTP may be; None: it hangs."""
    with Client(router.port) as client:
        with contextlib.suppress(OSError):  # the answer may come before all is sent
            client.send(case.data)
            if case.leaves:
                client.sock.shutdown(socket.SHUT_WR)
        try:
            return client.read().status
        except TimeoutError:
            return None


def leaks(size: Size) -> Iterable[Figure]:
    """Calls full of marks, against engines that answer full of marks: where do they turn up?"""
    prompt, key, query, said = CANARIES
    pages = []
    with engines(2, settings=_PROXIED) as (router, made):
        port = router.port
        secrets = [engine.url.removeprefix("http://") for engine in made] + ["Traceback", *CANARIES]
        for fault in ("status", "html", "bad_json", "not_http", "error_first", "reset_before_headers"):
            for engine in made:
                engine.arm(fault, {"status": "500", "error_first": "internal"}.get(fault))
            for stream in (True, False) if fault != "error_first" else (True,):
                body = {"model": MODEL, "stream": stream, "messages": [{"role": "user", "content": prompt}]}
                data = post(f"/v1/chat/completions?q={query}", body, f"authorization: Bearer {key}")
                pages.append(_text(port, data))
            for engine in made:
                engine.disarm()
        wrong = {"model": MODEL, "messages": prompt, "temperature": [prompt], "stop": {prompt: said}}
        pages.append(_text(port, post(f"/v1/chat/completions?q={query}", wrong, f"x-api-key: {key}")))
        pages.append(_text(port, post("/generate", {"inputs": [prompt]}, f"x-api-key: {key}")))
        answers = "\n".join(pages)
        public = "\n".join(
            _text(port, request("GET", path, b"", f"x-api-key: {key}", "x-forwarded-for: 203.0.113.9"))
            for path in ("/models", f"/models/{MODEL}", "/metrics", "/status", "/health", "/v1/models")
        )
        log = router.output()
    yield Figure("answers looked through", len(pages))
    for what, text in (("answers", answers), ("public pages", public), ("log", log)):
        found = sorted({secret for secret in secrets if secret in text})
        yield Figure(f"bytes that leak into {what} ({', '.join(found)})", sum(map(len, found)), most=0)


def _text(port: int, data: bytes) -> str:
    with Client(port) as client:
        client.send(data)
        answer = client.read()
        return f"{answer.headers}\n{answer.body.decode('utf-8', 'replace')}"


def cost(size: Size) -> Iterable[Figure]:
    """Bodies at the limit, made to be dear."""
    with engines(1) as (router, _):
        for name, body in _dear():
            data = request("POST", "/v1/chat/completions", body, "content-type: application/json")
            before = resident(router.pid)
            _reset_peak(router.pid)
            block = _longest_block(router, data)
            grown = max(0.0, _peak(router.pid) - before)
            yield Figure(f"{name}: memory against its bytes", grown * 1e6 / len(body), "x", most=100)
            yield Figure(f"{name}: the loop stood still", 1000 * block, "ms", most=50, timed=True)


def _dear() -> Iterable[tuple[str, bytes]]:
    begin, end = b'{"model":"gemma-3-12b","messages":[{"role":"user","content":"x"}],"max_tokens":3', b"}"
    room = BODY_BYTES - len(begin) - 64

    def fill(name: str, piece: bytes, close: bytes) -> bytes:
        return begin + name.encode() + (piece * (room // len(piece))).rstrip(b",") + close + end

    turn = b'{"role":"user","content":"x"},'
    yield "messages", b'{"model":"gemma-3-12b","messages":[' + (turn * (room // len(turn)))[:-1] + b"]}"
    yield "escapes", fill(',"user":"', b"\\u00e9", b'"')
    yield "one long text", fill(',"user":"', b"x", b'"')
    yield "numbers", fill(',"metadata":[', b"1,", b"]")
    yield "empty objects", fill(',"metadata":[', b"{},", b"]")
    yield "stops", fill(',"stop":[', b'"a",', b"]")
    yield "depth", fill(',"metadata":', b"[", b"")
    fields = b",".join(b'"f%06d":1' % number for number in range(room // 12))
    yield "fields", begin + b"," + fields + end


def _reset_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def _peak(pid: int) -> float:
    """Megabytes at most since `_reset_peak`."""
    found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def _longest_block(router: Router, data: bytes) -> float:
    """Seconds that a small call beside it had to wait at most, less what it takes anyway."""
    over, waits = threading.Event(), []

    def ping() -> None:
        with Client(router.port) as client:
            while not over.is_set():
                begin = time.monotonic()
                client.send(request("GET", "/live"))
                client.read()
                waits.append(time.monotonic() - begin)
                time.sleep(0.001)

    thread = threading.Thread(target=ping)
    thread.start()
    time.sleep(0.2)
    usual = sorted(waits)[len(waits) // 2]
    waits.clear()
    with Client(router.port) as client:
        client.send(data)
        client.read()
    over.set()
    thread.join()
    return max(0.0, max(waits) - usual)


def addresses(size: Size) -> Iterable[Figure]:
    """What stands in forwarding headers, true and false, by a proxy that is trusted."""
    wrong = []
    with engines(1, settings=_PROXIED) as (router, _):
        for number, (lines, expected) in enumerate(_VECTORS):
            own_id = f"address-{number}"
            body = {"model": "nobody", "messages": []}
            _text(router.port, post("/v1/chat/completions", body, f"x-request-id: {own_id}", *lines))
            client = router.access_line(own_id).get("client", "")
            if client != expected:
                wrong.append(f"{json.dumps(lines)} was {client!r}")
    yield Figure("vectors", len(_VECTORS), least=40)
    yield Figure(f"taken for somebody else ({'; '.join(wrong[:3])})", len(wrong), most=0)


_PROXIED = {"TRUSTED_PROXIES": "127.0.0.0/8,10.0.0.0/8", "DISABLE_IP_RESTRICTION": "true"}
_NOBODY = "unknown"  # no rule lets it in
_C, _V6 = "198.51.100.7", "2001:db8::1"


def _forwarded(*values: str) -> tuple[str, ...]:
    return tuple(f"x-forwarded-for: {value}" for value in values)


def _both(real: str, *values: str) -> tuple[str, ...]:
    return (f"x-real-ip: {real}", *_forwarded(*values))


# Header lines, and the client as the log is to name it.
_VECTORS: list[tuple[tuple[str, ...], str]] = [
    ((), "127.0.0.1"),
    (_forwarded(_C), _C),
    (_forwarded(f"6.6.6.6, {_C}"), _C),
    (_forwarded(f"6.6.6.6, {_C}, 10.0.0.3"), _C),
    (_forwarded("6.6.6.6", _C), _C),
    (_forwarded(_C, "10.0.0.3"), _C),
    (_forwarded("6.6.6.6, 7.7.7.7", f"8.8.8.8, {_C}", "10.0.0.3"), _C),
    (_forwarded(f"{_C}:4711"), _C),
    (_forwarded(f"{_C}:65536"), _NOBODY),
    (_forwarded(f"{_C}:-1"), _NOBODY),
    (_forwarded(f"{_C}:http"), _NOBODY),
    (_forwarded(f"[{_V6}]:80"), _V6),
    (_forwarded(_V6), _V6),
    (_forwarded(f"[{_V6}]"), _V6),
    (_forwarded(f"[{_V6}"), _NOBODY),
    (_forwarded(f"[{_V6}]x"), _NOBODY),
    (_forwarded(f"[{_C}]"), _NOBODY),
    (_forwarded(f"::ffff:{_C}"), _C),
    (_forwarded(f"[::ffff:{_C}]:443"), _C),
    (_forwarded("10.0.0.9, 10.0.0.3"), "10.0.0.9"),
    (_forwarded(f"{_C}, unknown"), _NOBODY),
    (_forwarded("010.0.0.1"), _NOBODY),
    (_forwarded(""), _NOBODY),
    (_forwarded(f"{_C}, ,"), _NOBODY),
    (_forwarded(_C, ""), _NOBODY),
    (_forwarded("fe80::1%eth0"), _NOBODY),
    (_forwarded("0x7f.0.0.1"), _NOBODY),
    (_forwarded("2130706433"), _NOBODY),
    (_forwarded("127.1"), _NOBODY),
    (_forwarded("198.51.100.256"), _NOBODY),
    (_forwarded("198.51.100.7/32"), _NOBODY),
    (_forwarded("localhost"), _NOBODY),
    (_forwarded("_hidden"), _NOBODY),
    (_forwarded(f"unknown, {_C}, 10.0.0.3"), _C),
    (_forwarded("unknown, 10.0.0.3"), _NOBODY),
    (_forwarded(", ".join(["10.0.0.3"] * 40)), _NOBODY),
    (_forwarded("1" * 5000), _NOBODY),
    (("x_forwarded_for: 6.6.6.6",), "127.0.0.1"),
    (("forwarded: for=6.6.6.6",), _NOBODY),
    (("via: 1.1 proxy",), _NOBODY),
    (_both(_C, f"6.6.6.6, {_C}"), _C),
    (_both(_C, _C), _C),
    (_both("6.6.6.6", _C), _NOBODY),
    (_both(_C, f"{_C}, 6.6.6.6"), _NOBODY),
    (_both(_C), _C),
    (_both("unknown"), _NOBODY),
    (_both(_C, f"127.0.0.1, {_C}"), _C),
]
