"""`scripts/smoke`: what it says of a router that is well, and of one that is not."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nginx import Nginx, certificate, our_site, short_folder
from processes import BACKEND, Emulator, Router

SMOKE = BACKEND.parent / "scripts" / "smoke.py"
_LIMIT_S = 120.0


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with short_folder() as found:
        yield found


@pytest.fixture(scope="module")
def vllm() -> Iterator[Emulator]:
    with Emulator("vllm") as engine:
        yield engine


@pytest.fixture(scope="module")
def tgi() -> Iterator[Emulator]:
    with Emulator("tgi") as engine:
        yield engine


@pytest.fixture(scope="module")
def router(vllm: Emulator, tgi: Emulator, folder: Path) -> Iterator[Router]:
    engines = {"VLLM_GEMMA3_ENDPOINT": vllm.url, "TGI_DISTILGPT2_ENDPOINT": tgi.url}
    with Router(LISTEN=f"127.0.0.1:0,unix:{folder}/p.sock", **engines) as running:
        running.wait_until_up("gemma-3-12b", "distilgpt2")
        yield running


def smoke(*arguments: str) -> tuple[int, list[str]]:
    """Exit status and lines."""
    done = subprocess.run(
        [sys.executable, SMOKE, *arguments], capture_output=True, text=True, timeout=_LIMIT_S, check=False
    )
    assert "Traceback" not in done.stderr
    return done.returncode, (done.stdout + done.stderr).splitlines()


def check_well(code: int, lines: list[str], *models: str) -> None:
    """All is well, with two lines for each model."""
    assert code == 0, lines
    assert [line[:6] for line in lines[:-1]] == ["ok    "] * (3 + 2 * len(models))
    for model in models:
        assert any(f"{model}, whole: " in line and f"by {model}-0" in line for line in lines)
        assert any(f"{model}, streamed: first token after 0." in line for line in lines)
    assert lines[-1] == "smoke: all is well"


def test_all_is_well_through_nginx(router: Router, folder: Path) -> None:
    """Every model answers, whole and streamed, by way of nginx and the unix socket."""
    with Nginx(folder, our_site(folder / "p.sock")) as nginx:
        check_well(*smoke(f"http://127.0.0.1:{nginx.port}/"), "distilgpt2", "gemma-3-12b")


def test_all_is_well_on_the_unix_socket(router: Router, folder: Path) -> None:
    """The socket itself can be asked, for one model too."""
    check_well(*smoke(f"unix:{folder}/p.sock", "--model", "distilgpt2"), "distilgpt2")


def test_all_is_well_by_https(router: Router, folder: Path) -> None:
    """A certificate of one's own is trusted when it is named, and not otherwise."""
    with short_folder() as own:
        site = our_site(folder / "p.sock", tls=certificate(own))
        with Nginx(own, site) as nginx:
            url = f"https://127.0.0.1:{nginx.port}"
            check_well(*smoke("--ca-file", f"{own}/cert.pem", url), "distilgpt2", "gemma-3-12b")
            code, lines = smoke(url)
    assert code == 1
    assert "certificate verify failed" in lines[0]


def test_nothing_listens() -> None:
    """One line says that there is no connection, and what to look at."""
    code, lines = smoke("http://127.0.0.1:9")
    assert code == 1
    assert lines[0].startswith("FAIL  /health: no connection (")
    assert lines[0].endswith("See: systemctl status pointsman nginx")
    assert lines[1:] == ["smoke: 1 failed"]


def test_nginx_without_a_router(folder: Path) -> None:
    """nginx's own 502 is told apart."""
    with short_folder() as own, Nginx(own, our_site(own / "none.sock")) as nginx:
        code, lines = smoke(f"http://127.0.0.1:{nginx.port}")
    assert code == 1
    assert "nginx runs and the router does not" in lines[0]


def test_another_program(vllm: Emulator) -> None:
    """An engine's address is not the router's."""
    code, lines = smoke(vllm.url)
    assert code == 1
    assert lines[0].endswith("is this a Pointsman's address?")


def test_models_that_are_not_up() -> None:
    """A model whose engine is away fails by name; so does one that is not there."""
    with Router(VLLM_MINE_ENDPOINT="http://127.0.0.1:9") as router:
        code, lines = smoke(router.url)
        assert code == 1
        assert any(line.startswith("FAIL  /ready: status 503: ") for line in lines)
        assert any(
            line.startswith("FAIL  mine: ") and line.endswith("GET /models/mine/health says why")
            for line in lines
        )
        code, lines = smoke(router.url, "--model", "other")
        assert code == 1
        assert "FAIL  other: no such model; there are mine" in lines
    with Router() as router:
        code, lines = smoke(router.url)
        assert code == 1
        assert any("none is configured; set TGI_<NAME>_ENDPOINT" in line for line in lines)


def test_an_address_that_is_not_let_in(vllm: Emulator) -> None:
    """The refusal says which settings let one in."""
    with Router(VLLM_MINE_ENDPOINT=vllm.url, DENIED_NETWORKS="127.0.0.1") as router:
        code, lines = smoke(router.url)
    assert code == 1
    assert any("ALLOWED_NETWORKS" in line for line in lines)


def test_a_stream_that_breaks(router: Router, vllm: Emulator) -> None:
    """A stream without a good end fails, and its last frame is shown."""
    vllm.arm("eof_after", 2, marker="Once upon")
    try:
        code, lines = smoke(router.url, "--model", "gemma-3-12b")
    finally:
        vllm.disarm()
    assert code == 1
    assert any("streamed: the stream did not end well; last came {" in line for line in lines)


def test_an_engine_that_hangs(router: Router, vllm: Emulator) -> None:
    """No call is waited for without end."""
    vllm.arm("hang_before_headers", marker="Once upon")
    start = time.monotonic()
    try:
        code, lines = smoke("--timeout", "1", "--model", "gemma-3-12b", router.url)
    finally:
        vllm.disarm()
    assert time.monotonic() - start < 60
    assert code == 1
    assert sum("no answer within 1 s; --timeout waits longer" in line for line in lines) == 2


def test_a_proxy_that_holds_back() -> None:
    """A stream that comes in heaps is remarked on; the check itself is passed."""
    held = (
        "proxy_ignore_headers X-Accel-Buffering; proxy_http_version 1.1; proxy_read_timeout 60s;"
        "gzip on; gzip_proxied any; gzip_types text/event-stream;"
    )
    with (
        Emulator("vllm", "--tokens-per-s", "5") as slow,
        Router(VLLM_MINE_ENDPOINT=slow.url) as router,
        short_folder() as own,
    ):
        inner = f"location / {{ proxy_pass http://127.0.0.1:{router.port}; {held} }}"
        with Nginx(own, f"server {{ listen 127.0.0.1:PORT; {inner} }}") as nginx:
            router.wait_until_up("mine")
            code, lines = smoke(f"http://127.0.0.1:{nginx.port}")
    assert code == 0, lines
    assert any(line.endswith("but in heaps: does a proxy on the way buffer?") for line in lines)


@pytest.mark.parametrize("arguments", [(), ("host:8000",), ("http://a", "--timeout", "0"), ("http://a", "b")])
def test_usage(arguments: tuple[str, ...]) -> None:
    """Bad arguments are told, with 2."""
    code, lines = smoke(*arguments)
    assert code == 2
    assert lines[-1].startswith("scripts/smoke: error: ")
