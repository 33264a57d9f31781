"""`deploy/nginx/pointsman.conf` under the real nginx, with a router behind its unix socket."""

import json
import re
import socket
import ssl
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from threading import Thread

import pytest

from nginx import SITE, Nginx, ask, certificate, connected, our_site, read, short_folder
from pointsman import browser
from pointsman.settings import load
from processes import Emulator, Router, wait_for
from wire import VLLM, Incoming, data_of, outcome, post, request

DENIED = "127.0.0.66"
_numbers = count()


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with short_folder() as found:
        yield found


@pytest.fixture(scope="module")
def vllm() -> Iterator[Emulator]:
    with Emulator("vllm") as engine:
        yield engine


@pytest.fixture(scope="module")
def router(vllm: Emulator, folder: Path) -> Iterator[Router]:
    """Listens on a port too, as its clients do that are no proxy."""
    settings = {
        "VLLM_GEMMA3_ENDPOINT": vllm.url,
        "LISTEN": f"127.0.0.1:0,unix:{folder}/p.sock",
        "TRUSTED_PROXIES": "127.0.0.1",  # the clients' addresses are loopback ones too
        "DENIED_NETWORKS": DENIED,
    }
    with Router(**settings) as running:
        running.wait_until_up("gemma-3-12b")
        yield running


@pytest.fixture(scope="module")
def nginx(router: Router, folder: Path) -> Iterator[Nginx]:
    with Nginx(folder, our_site(folder / "p.sock")) as running:
        yield running


@pytest.fixture(autouse=True)
def _clean(vllm: Emulator) -> Iterator[None]:
    vllm.reset()
    yield
    vllm.disarm()
    vllm.wait_until_quiet()


def own_id() -> str:
    return f"nginx-{next(_numbers)}"


# --- the file


def seconds(text: str) -> float:
    """nginx's times as they stand in the file: `660s`."""
    assert re.fullmatch(r"\d+s", text), text
    return float(text[:-1])


def test_limits_and_times_fit_the_routers() -> None:
    """nginx outwaits the router, lets idle connections go before it does, and takes bodies that it takes."""
    text = re.sub(r"#.*", "", SITE.read_text(encoding="utf-8"))
    found = dict(re.findall(r"(?m)^ *([a-z_]+) ([^;]+);", text.partition("server {")[2]))
    settings = load({}, None, None)
    for name in ("proxy_read_timeout", "proxy_send_timeout"):
        assert seconds(found[name]) >= 600
        assert seconds(found[name]) > settings.timeouts.total_s
        assert seconds(found[name]) > settings.timeouts.first_event_s
    assert seconds(found["keepalive_timeout"]) > 90, "Go's clients keep theirs for 90 s"
    upstream = re.search(r"keepalive_timeout (\S+);", text.partition("server {")[0])
    assert upstream is not None
    assert seconds(upstream[1]) < settings.front.keep_alive_s
    megabytes = re.fullmatch(r"(\d+)m", found["client_max_body_size"])
    assert megabytes is not None
    assert int(megabytes[1]) * 2**20 == settings.max_body_bytes
    assert found["client_body_buffer_size"] == found["client_max_body_size"], "else prompts get to the disk"


@pytest.mark.parametrize("https", [False, True])
def test_the_site_is_fit(https: bool) -> None:
    """`nginx -t` has nothing to say against it, with and without its lines for HTTPS."""
    with short_folder() as folder:
        site = our_site(folder / "p.sock", tls=certificate(folder) if https else None)
        said = Nginx(folder, site).check("-t")
    assert "syntax is ok" in said
    assert "[warn]" not in said


# --- streams


def check_stream(answer: Incoming) -> None:
    """A whole stream that ended well; nginx keeps X-Accel-Buffering to itself."""
    assert (answer.status, answer.ended) == (200, True)
    assert answer.header("content-type") == "text/event-stream; charset=utf-8"
    assert answer.header("x-request-id")
    told = data_of(answer.body)
    assert told.count("[DONE]") == 1
    assert told[-1] == "[DONE]"
    assert len(told) >= 5


def test_events_arrive_as_they_come(nginx: Nginx, vllm: Emulator) -> None:
    """Three events are with the client while the engine owes the fourth, which never comes."""
    vllm.arm("hang_after", 3)
    with connected(nginx.port) as client:
        client.sendall(VLLM.request("Hello", 9, "accept-encoding: gzip", stream=True))
        got = Incoming()
        while got.body.count(b"data:") < 3:
            block = client.recv(65536)
            assert block, "nginx ended the answer"
            got.feed(block)
        assert not got.ended
        assert vllm.stats()["running"] == 1


def test_a_silence_longer_than_nginx_was_told_to_wait(nginx: Nginx, vllm: Emulator) -> None:
    """The site's own times count, not those of nginx's defaults, which `tests/nginx.py` sets to 2 s."""
    vllm.arm("slow_first_token", 3)
    assert outcome(VLLM, ask(nginx.port, VLLM.request("Hello", 5, stream=False)), stream=False) == "ok"


def test_whole_answers_pass(nginx: Nginx) -> None:
    """A stream comes to its end through nginx, a JSON answer too, and headers of the router with them."""
    check_stream(ask(nginx.port, VLLM.request("Hello", 40, stream=True)))
    answer = ask(nginx.port, VLLM.request("Hello", 40, stream=False))
    assert outcome(VLLM, answer, stream=False) == "ok"
    assert answer.header("server") == "nginx"
    assert answer.header("x-pointsman-model") == VLLM.model


# phase: fault with argument, streamed or not, what the client waits for before it leaves
PHASES = {
    "waiting for the head": ("hang_before_headers", None, True, None),
    "before the first event": ("hang_first_event", None, True, None),
    "within the stream": ("hang_after", 3, True, b"data:"),
    "waiting for a whole answer": ("slow_first_token", 600, False, None),
}


@pytest.mark.parametrize("phase", PHASES)
def test_a_client_that_leaves_frees_the_engine(
    nginx: Nginx, router: Router, vllm: Emulator, phase: str
) -> None:
    """nginx closes the router's connection when its client goes, and the router the engine's."""
    fault, arg, stream, until = PHASES[phase]
    vllm.arm(fault, arg)
    name = own_id()
    with connected(nginx.port) as client:
        client.sendall(VLLM.request("Hello", 9, f"x-request-id: {name}", stream=stream))
        if until is not None:
            assert until in read(client, until=until).body
        wait_for(lambda: len(vllm.sent()) == 1, "the engine has the request")
        assert vllm.stats()["disconnects"] == 0
    wait_for(lambda: vllm.stats()["disconnects"] == 1, "the engine sees the client leave")
    vllm.wait_until_quiet()
    line = router.access_line(name)
    assert (line["status"], line["end"]) == (499, "client_abort")


def test_https(router: Router, folder: Path, vllm: Emulator) -> None:
    """With the lines for HTTPS a stream passes, the client's address arrives, and HTTP is sent over."""
    with short_folder() as own:
        pem = certificate(own)
        with Nginx(own, our_site(folder / "p.sock", tls=pem)) as served:
            name = own_id()
            trust = ssl.create_default_context(cafile=own / "cert.pem")
            with (
                connected(served.port, "127.0.0.9") as plain,
                trust.wrap_socket(plain, server_hostname="127.0.0.1") as client,
            ):
                client.sendall(VLLM.request("Hello", 9, f"x-request-id: {name}", stream=True))
                check_stream(read(client))
            assert router.access_line(name)["client"] == "127.0.0.9"
            with socket.create_connection(("127.0.0.3", served.port), 10) as client_in_clear:
                client_in_clear.sendall(request("POST", "/v1/completions?a=b", host="example.org"))
                sent_over = read(client_in_clear)
    assert sent_over.status == 308
    assert sent_over.header("location") == "https://example.org/v1/completions?a=b"


# --- who calls


LIES = {
    "none": (),
    "X-Forwarded-For": ("X-Forwarded-For: 10.1.2.3",),
    "a chain": ("X-Forwarded-For: 10.1.2.3, 127.0.0.1",),
    "two lines": ("X-Forwarded-For: 10.1.2.3", "X-Forwarded-For: 127.0.0.1"),
    "X-Real-IP": ("X-Real-IP: 10.1.2.3",),
    "both": ("X-Forwarded-For: 10.1.2.3", "X-Real-IP: 10.1.2.3"),
    "Forwarded": ("Forwarded: for=10.1.2.3",),
    "underscores": ("X_Forwarded_For: 10.1.2.3", "X_Real_IP: 10.1.2.3"),
}


@pytest.mark.parametrize("lie", LIES)
def test_the_clients_own_address_arrives(nginx: Nginx, router: Router, lie: str) -> None:
    """The router sees the address that nginx's client has, whatever it says; a denied one stays out."""
    name = own_id()
    line = f"x-request-id: {name}"
    answer = ask(nginx.port, VLLM.request("Hello", 3, line, *LIES[lie], stream=False), "127.0.0.9")
    assert outcome(VLLM, answer, stream=False) == "ok"
    assert router.access_line(name)["client"] == "127.0.0.9"
    refused = ask(nginx.port, VLLM.request("Hello", 3, *LIES[lie], stream=False), DENIED)
    assert outcome(VLLM, refused, stream=False) == "403 address_forbidden"
    status = ask(nginx.port, request("GET", "/health", b"", *LIES[lie]), "127.0.0.9").json()
    assert status["security"]["client_ip"] == "127.0.0.9"


# The settings of two earlier services, as their READMEs had them, but for the address behind.
EARLIER = {
    "002": """proxy_set_header Host $host;
              proxy_set_header X-Real-IP $remote_addr;
              proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
              proxy_buffering off;
              proxy_read_timeout 300s;""",
    "003": """proxy_set_header Host $host;
              proxy_set_header X-Real-IP $remote_addr;""",
}
# A lie that 003's nginx passes on contradicts its X-Real-IP, unless it ends with the truth: unknown client.
SEEN = {
    ("003", "X-Forwarded-For"): "403 address_forbidden",
    ("003", "a chain"): "403 address_forbidden",
    ("003", "two lines"): "403 address_forbidden",
    ("003", "both"): "403 address_forbidden",
}


@pytest.fixture(scope="module", params=EARLIER)
def earlier(request: pytest.FixtureRequest, router: Router) -> Iterator[tuple[str, Nginx]]:
    """nginx as an earlier service's users have it, over TCP."""
    inner = f"location / {{ proxy_pass http://127.0.0.1:{router.port}; {EARLIER[request.param]} }}"
    with short_folder() as own, Nginx(own, f"server {{ listen 127.0.0.1:PORT; {inner} }}") as served:
        yield request.param, served


@pytest.mark.parametrize("lie", LIES)
def test_settings_of_earlier_services(earlier: tuple[str, Nginx], router: Router, lie: str) -> None:
    """Honest clients are served with their own address; lying ones too, or not at all; denied ones never."""
    service, served = earlier
    name = own_id()
    line = f"x-request-id: {name}"
    answer = ask(served.port, VLLM.request("Hello", 3, line, *LIES[lie], stream=False), "127.0.0.9")
    expected = SEEN.get((service, lie), "ok")
    assert outcome(VLLM, answer, stream=False) == expected
    if expected == "ok":
        assert router.access_line(name)["client"] == "127.0.0.9"
    else:
        router.read_until(r"refused address unknown: address_unknown \(headers_disagree\)")
    refused = ask(served.port, VLLM.request("Hello", 3, *LIES[lie], stream=False), DENIED)
    assert outcome(VLLM, refused, stream=False) == "403 address_forbidden"


def test_a_lie_that_ends_with_the_truth_gains_nothing(earlier: tuple[str, Nginx], router: Router) -> None:
    """The right-most address counts, also where nginx passes the client's own list on."""
    name = own_id()
    lines = (f"x-request-id: {name}", "X-Forwarded-For: 10.1.2.3, 127.0.0.9")
    answer = ask(earlier[1].port, VLLM.request("Hello", 3, *lines, stream=False), "127.0.0.9")
    assert outcome(VLLM, answer, stream=False) == "ok"
    assert router.access_line(name)["client"] == "127.0.0.9"


def test_earlier_settings_stream(earlier: tuple[str, Nginx], vllm: Emulator) -> None:
    """003's nginx buffers answers, but the router's X-Accel-Buffering keeps it from holding events back."""
    vllm.arm("hang_after", 3)
    with connected(earlier[1].port) as client:
        client.sendall(VLLM.request("Hello", 9, stream=True))
        assert b"data:" in read(client, until=b"data:").body
    wait_for(lambda: vllm.stats()["disconnects"] == 1, "the engine sees the client leave")


# --- what nginx sends, byte by byte


class Recorder(Thread):
    """A router that answers 200 to everything and keeps what it was sent, by connection."""

    def __init__(self, path: Path) -> None:
        super().__init__(name="recorder", daemon=True)
        self.heads: list[list[bytes]] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()

    def run(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            heads: list[bytes] = []
            self.heads.append(heads)
            Thread(target=self._answer, args=(peer, heads), daemon=True).start()

    def close(self) -> None:
        """Accept no more."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    @staticmethod
    def _answer(peer: socket.socket, heads: list[bytes]) -> None:
        kept = b""
        with peer:
            while block := peer.recv(65536):
                kept += block
                while b"\r\n\r\n" in kept:
                    head, _, kept = kept.partition(b"\r\n\r\n")
                    heads.append(head)
                    peer.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")


def test_what_the_router_is_sent() -> None:
    """HTTP/1.1 on kept connections; one line per forwarding header, of nginx's making; the client's Host."""
    lies = (
        *LIES["both"],
        *LIES["Forwarded"],
        "X-Forwarded-Host: evil",
        "X-Forwarded-Proto: ftp",
        "Upgrade: h2c",
    )
    with short_folder() as own:
        recorder = Recorder(own / "p.sock")
        recorder.start()
        try:
            with Nginx(own, our_site(own / "p.sock")) as served:
                for _ in range(5):
                    data = request("GET", "/live", b"", *lies, "X-API-Key: k", host="llm-server:8082")
                    assert ask(served.port, data, "127.0.0.9").status == 200
        finally:
            recorder.close()
    assert [len(heads) for heads in recorder.heads] == [5], "one connection for all"
    first, *lines = recorder.heads[0][0].decode().split("\r\n")
    assert first == "GET /live HTTP/1.1"
    sent = sorted(line.lower() for line in lines)
    assert sent == [
        "host: llm-server:8082",
        "x-api-key: k",
        "x-forwarded-for: 127.0.0.9",
        "x-forwarded-proto: http",
        "x-real-ip: 127.0.0.9",
    ]


# --- what nginx refuses


def told(answer: Incoming) -> tuple[int, str]:
    """Status and code of an error that nginx or the router may have written; browsers are told alike."""
    payload = answer.json()
    assert answer.header("content-type") == "application/json"
    for line in browser.ERROR_LINES.decode("ascii").splitlines():
        name, _, value = line.partition(": ")
        assert answer.header(name) == value
    assert payload["detail"] == payload["error"]["message"]
    return answer.status, payload["error"]["code"]


def test_too_much_is_refused_as_json(nginx: Nginx) -> None:
    """A header line, headers, a URL or a body that nginx does not take are refused in words clients read."""
    line = "x-long: " + "y" * 9000
    assert told(ask(nginx.port, request("GET", "/live", b"", line))) == (431, "headers_too_large")
    many = [f"x-{number}: {'y' * 7000}" for number in range(6)]
    assert told(ask(nginx.port, request("GET", "/live", b"", *many))) == (431, "headers_too_large")
    assert told(ask(nginx.port, request("GET", "/" + "a" * 9000))) == (414, "url_too_long")
    assert told(ask(nginx.port, b"GET /live HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n")) == (400, "bad_request")
    with connected(nginx.port) as client:
        client.sendall(
            request("POST", "/generate", b"", f"content-length: {10 * 2**20}", length=False)
        )  # the body need not come
        assert told(read(client)) == (413, "body_too_large")


def test_a_body_up_to_the_limit_reaches_the_router(nginx: Nginx) -> None:
    """Up to 8 MiB pass, and stay in memory on the way; nginx refuses one byte more."""
    value = {"model": VLLM.model, "prompt": "", "max_tokens": 3}
    room = 8 * 2**20 - len(json.dumps(value))
    fits = ask(nginx.port, post("/v1/completions", {**value, "prompt": "x" * room}))
    assert outcome(VLLM, fits, stream=False) == "400 engine_rejected", "too long for the model's context"
    over = ask(nginx.port, post("/v1/completions", {**value, "prompt": "x" * (room + 1)}))
    assert told(over) == (413, "body_too_large")
    assert "temporary file" not in nginx.log()


def test_a_refusal_arrives_before_a_large_body_was_read(nginx: Nginx) -> None:
    """The router says no to an address without reading its body; nginx gets to read that."""
    for _ in range(40):  # it would lose a race, and nginx would say 502
        answer = ask(nginx.port, post("/v1/completions", {"prompt": "x" * 4 * 2**20}), DENIED)
        assert outcome(VLLM, answer, stream=False) == "403 address_forbidden"


def test_a_router_that_is_down_is_told() -> None:
    """502 as JSON, with the hint to come again."""
    with short_folder() as own, Nginx(own, our_site(own / "none.sock")) as served:
        answer = ask(served.port, VLLM.request(stream=True))
        hidden = ask(served.port, request("GET", "/nginx-error/502"))
        traced = ask(served.port, request("TRACE", "/live"))
    assert told(answer) == (502, "router_down")
    assert answer.header("retry-after") == "1"
    assert told(hidden) == (404, "route_not_found")
    assert told(traced) == (405, "method_not_allowed")
    assert hidden.header("retry-after") is None


def test_a_router_that_is_silent_is_told() -> None:
    """504 as JSON, where the router takes longer than nginx was told to wait."""
    with short_folder() as own, socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(own / "p.sock"))
        silent.listen()
        (own / "p.sock").chmod(0o777)
        site = our_site(own / "p.sock").replace("proxy_read_timeout 660s", "proxy_read_timeout 1s")
        with Nginx(own, site) as served:
            answer = ask(served.port, VLLM.request(stream=True))
    assert told(answer) == (504, "router_silent")
    assert answer.header("retry-after") is None


@pytest.mark.parametrize(("status", "code"), [(429, "rate_limited"), (503, "proxy_full")])
def test_limits_that_an_operator_adds_are_told(router: Router, folder: Path, status: int, code: str) -> None:
    """nginx's own limits refuse in words clients read, and with the hint to come again."""
    zone = f"limit_req_zone $binary_remote_addr zone=few:1m rate=1r/m; limit_req_status {status};\n"
    site = zone + our_site(folder / "p.sock").replace("location / {", "location / { limit_req zone=few;")
    with short_folder() as own, Nginx(own, site) as served:
        first = ask(served.port, request("GET", "/live"))
        second = ask(served.port, request("GET", "/live"))
    assert first.status == 200
    assert told(second) == (status, code)
    assert second.header("retry-after") == "1"


def test_the_routers_own_errors_pass_as_they_are(nginx: Nginx) -> None:
    """nginx neither writes them anew nor says twice what browsers are told."""
    answer = ask(nginx.port, request("GET", "/models/nobody/health"))
    assert (answer.status, answer.json()["code"]) == (404, "model_not_found")
    assert answer.header("x-content-type-options") == "nosniff"
