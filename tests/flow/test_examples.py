"""The examples do what they say, before a router with emulated engines: by curl, in Python, in a browser."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from browser import Browser
from nginx import tool
from processes import Emulator, Router, wait_for

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
KEY = "a-key-for-the-examples"
TOLD = {  # how many emulated answers each prints; tasks and titles of such an engine hold no such word
    "openai": 2,
    "tgi": 2,
    "distilgpt2": 3,
    "backend_api": 1,
    "llm_service": 3,
    "plg": 1,
    "openai_client": 1,
    "tgi_client": 2,
    "distilgpt2_client": 3,
    "backend_api_client": 2,
    "llm_service_client": 2,
    "plg_client": 1,
}


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base class's
        """No line for each file."""


@pytest.fixture(scope="module")
def page() -> Iterator[str]:
    """The origin of a server that serves the page."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(EXAMPLES / "browser")))
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join(30)
        server.server_close()


@pytest.fixture(scope="module")
def keyed(tgi: Emulator, vllm: Emulator, page: str) -> Iterator[Router]:
    """A router that asks for a key where it can, and lets the page read its answers."""
    engines = {"TGI_DISTILGPT2_ENDPOINT": tgi.url, "VLLM_GEMMA3_ENDPOINT": vllm.url}
    with Router(
        SECURITY__API_KEY=KEY, ALLOWED_ORIGINS=page, CHAT_HISTORY__ENABLED="true", **engines
    ) as router:
        router.wait_until_up("distilgpt2", "gemma-3-12b")
        yield router


def run(router: Router, *command: str) -> str:
    """What an example prints; it must end well."""
    env = {**os.environ, "ROUTER_URL": router.url, "ROUTER_KEY": KEY}
    ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stderr == ""
    return ended.stdout


def test_every_example_is_tested_and_told() -> None:
    """A new one gets its line here and in the examples' README."""
    found = {path for path in EXAMPLES.iterdir() if path.suffix in {".py", ".sh"}}
    assert {path.stem for path in found} == set(TOLD)
    readme = (EXAMPLES / "README.md").read_text()
    assert all(f"`{path.name}`" in readme for path in found)


def test_the_scripts_are_sound() -> None:
    """Each is executable, and shellcheck finds nothing."""
    scripts = sorted(EXAMPLES.glob("*.sh"))
    assert all(os.access(script, os.X_OK) for script in scripts)
    command = [tool("shellcheck"), *map(str, scripts)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("name", [name for name in TOLD if not name.endswith("_client")])
def test_by_curl(keyed: Router, name: str) -> None:
    """Each call is answered; JSON is whole, streams end with their own end."""
    tool("curl")
    told = run(keyed, "bash", str(EXAMPLES / f"{name}.sh"))
    assert told.count("[emulated]") >= TOLD[name], told
    whole = [line for line in told.splitlines() if line.startswith(("{", "["))]
    assert whole
    for line in whole:
        json.loads(line)
    if name not in {"tgi", "backend_api"}:
        assert told.count("data: [DONE]") == 1


@pytest.mark.parametrize("name", [name for name in TOLD if name.endswith("_client")])
def test_in_python(keyed: Router, name: str) -> None:
    """Each prints its answers."""
    told = run(keyed, sys.executable, "-W", "error", str(EXAMPLES / f"{name}.py"))
    assert told.count("[emulated]") >= TOLD[name], told


@pytest.mark.parametrize("name", ["openai_client", "tgi_client", "llm_service_client"])
def test_a_wrong_key_is_told(keyed: Router, name: str) -> None:
    """The example ends with our sentence, not with a traceback."""
    env = {**os.environ, "ROUTER_URL": keyed.url, "ROUTER_KEY": "pm-wrong"}
    ended = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py")],
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith(("401: ", "403: "))
    assert "Traceback" not in ended.stderr


def test_in_a_browser(keyed: Router, vllm: Emulator, page: str, tmp_path: Path) -> None:
    """The page lists the models, tells an error, shows an answer, and ends the engine's work when told to."""
    with Browser(tool("chromium"), f"{page}/?router={keyed.url}", tmp_path) as browser:

        def shown(what: str) -> object:
            return browser.value(what)

        ids = "[...document.getElementById('model').options].map(one => one.value).join()"
        wait_for(lambda: shown(ids) == "distilgpt2,gemma-3-12b", "the models are listed", 60)

        browser.value("document.getElementById('text').value = '<b>Hello</b>'; form.requestSubmit(); 1")
        told = "document.getElementById('told').textContent"
        wait_for(lambda: "API key" in str(shown(told)), "it says that a key is needed")

        browser.value(f"key.value = '{KEY}'; model.value = 'gemma-3-12b'; 1")
        browser.value("document.getElementById('text').value = 'שלום'; form.requestSubmit(); 1")
        last = "document.querySelector('#talk li:last-child').textContent"
        wait_for(lambda: "[emulated]" in str(shown(last)), "an answer is shown")
        wait_for(lambda: shown("send.disabled") is False, "it has ended")
        assert shown(told) == ""
        assert shown("document.querySelectorAll('#talk b').length") == 0
        assert shown("document.querySelectorAll('#talk li').length") == 4

        vllm.arm("slow_first_token", 60, times=1)
        browser.value("document.getElementById('text').value = 'More'; form.requestSubmit(); 1")
        wait_for(lambda: vllm.stats()["running"] == 1, "the engine is at it")
        browser.value("document.getElementById('stop').click()")
        vllm.wait_until_quiet()
        wait_for(lambda: shown("send.disabled") is False, "another may be sent")
        assert shown(told) == ""
