"""Asks a running router what an operator wants to know; see `scripts/smoke`.

Speaks to it as clients do, through whatever stands before it. Each check is a line; a failed one says what
to do.
"""

import argparse
import json
import ssl
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

CONNECT_S = 5.0
MAX_BODY = 4 * 2**20  # bytes of an answer; more is no answer of ours
PROMPT, TOKENS = "Once upon a time there was", 16
BUFFERED_S = 2.0  # a stream that lasts so long and yet comes in one or two heaps was held back on the way


class Failed(Exception):
    """A check that failed: what is wrong, and what to do about it."""


@dataclass
class Answer:
    """What came back, and when: seconds from sending the request."""

    status: int
    headers: httpx.Headers
    body: bytes = b""
    took_s: float = 0.0
    events: list[tuple[float, str]] = field(default_factory=list)  # of a stream: when, and data

    def json(self) -> Any:
        try:
            return json.loads(self.body)
        except ValueError:
            shown = self.body[:60].decode("utf-8", "replace")
            raise Failed(f"the answer is no JSON ({shown!r}); is this a Pointsman's address?") from None


@dataclass
class Router:
    """The router that is asked. `timeout_s` bounds the wait for each answer, and for each piece of it."""

    client: httpx.Client
    timeout_s: float

    def ask(self, method: str, path: str, value: object = None) -> Answer:
        """One call.

        Raises:
            Failed: no connection, or no whole answer in time.
        """
        start = time.monotonic()
        try:
            with self.client.stream(method, path, json=value) as response:
                answer = Answer(response.status_code, response.headers)
                kept = b""
                for block in response.iter_bytes():
                    now = time.monotonic() - start
                    answer.body += block
                    *lines, kept = (kept + block).split(b"\n")
                    found = [
                        line[5:].strip().decode(errors="replace")
                        for line in lines
                        if line.startswith(b"data:")
                    ]
                    answer.events += [(now, data) for data in found]
                    if now > self.timeout_s or len(answer.body) > MAX_BODY:
                        raise Failed(f"the answer had no end after {now:.0f} s and {len(answer.body)} bytes")
                answer.took_s = time.monotonic() - start
                return answer
        except httpx.ConnectError as error:
            raise Failed(
                f"no connection ({error}); does it run? See: systemctl status pointsman nginx"
            ) from None
        except httpx.TimeoutException:
            waited = time.monotonic() - start
            raise Failed(f"no answer within {waited:.0f} s; --timeout waits longer") from None
        except httpx.HTTPError as error:
            raise Failed(f"the answer broke off ({type(error).__name__}: {error})") from None

    def get(self, path: str) -> Answer:
        """A GET that must be answered with 200.

        Raises:
            Failed: it was not.
        """
        return require(self.ask("GET", path))


def require(answer: Answer) -> Answer:
    """The answer, if its status is 200; else `Failed` with what the error says and what helps."""
    if answer.status == 200:
        return answer
    code, message = explained(answer)
    hints = {
        "address_forbidden": "let your network in by ALLOWED_NETWORKS; behind a proxy, see TRUSTED_PROXIES",
        "router_down": "nginx runs and the router does not: systemctl status pointsman",
        "no_replica": "GET /models and /models/{id}/health say how the engines are",
        "engine_misconfigured": "check the engine's key and its address: GET /models/{id}/health",
    }
    hint = hints.get(code, "")
    if not hint and answer.status == 404:
        hint = "is this a Pointsman's address?"
    elif not hint and answer.status in {502, 504} and not code:
        hint = "a proxy answered: does the router run behind it, and where the proxy looks for it?"
    raise Failed(f"status {answer.status}: {message}" + (f" - {hint}" if hint else ""))


def explained(answer: Answer) -> tuple[str, str]:
    """Code and message of an error in the shape of any API."""
    try:
        payload = json.loads(answer.body)
    except ValueError:
        return "", " ".join(answer.body[:80].decode("utf-8", "replace").split()) or "no body"
    if not isinstance(payload, dict):
        return "", str(payload)[:80]
    error = payload.get("error")
    inner = error if isinstance(error, dict) else payload
    message = inner.get("message") or payload.get("detail") or error or "no message"
    return str(inner.get("code") or ""), str(message)[:200]


def text_of(payload: Any) -> str:
    """The text of an OpenAI completion, or of a chunk of one."""
    try:
        return str(payload["choices"][0]["text"])
    except (KeyError, IndexError, TypeError):
        raise Failed(f"the answer has no choices: {str(payload)[:80]}") from None


@dataclass
class Report:
    """The lines, as they come; `failed` counts the bad ones."""

    failed: int = 0

    @contextmanager
    def check(self, name: str) -> Iterator[list[str]]:
        """A check: what is put into the list is told when it went well."""
        told: list[str] = []
        try:
            yield told
        except Failed as failure:
            self.failed += 1
            print(f"FAIL  {name}: {failure}", flush=True)
        else:
            print(f"ok    {name}: {', '.join(told)}", flush=True)


def look(router: Router, report: Report, wanted: str | None) -> list[str]:
    """Ask for the state of things; the models to generate with: those that are up, or the wanted one."""
    with report.check("/health") as told:
        health = router.get("/health").json()
        if not isinstance(health, dict) or "status" not in health:
            raise Failed("no `status` in it; is this a Pointsman's address?")
        told.append(str(health["status"]))
        security = health.get("security")
        if isinstance(security, dict):
            told.append(f"you are {security.get('client_ip')}")
    if report.failed:
        return []  # it is always answered, so nothing else would be
    with report.check("/ready") as told:
        router.get("/ready")
        told.append("ready")
    models: list[dict[str, Any]] = []
    with report.check("/models") as told:
        found = router.get("/models").json()
        if not isinstance(found, list) or not all(isinstance(one, dict) and "id" in one for one in found):
            raise Failed("no list of models; is this a Pointsman's address?")
        if not found:
            raise Failed("none is configured; set TGI_<NAME>_ENDPOINT or VLLM_<NAME>_ENDPOINT")
        models = found
        told += [f"{model['id']} {model.get('state', '')}".strip() for model in models]
    states = {str(model["id"]): str(model.get("state", "")) for model in models}
    up = {str(model["id"]) for model in models if model.get("available")}
    for name in states if wanted is None else [wanted]:
        if name in up or not states:
            continue
        with report.check(name):
            if name not in states:
                raise Failed(f"no such model; there are {', '.join(states)}")
            raise Failed(f"{states[name] or 'not available'}; GET /models/{name}/health says why")
    return [name for name in states if name in up and wanted in {None, name}]


def generate(router: Router, report: Report, model: str) -> None:
    """A short generation, whole and streamed."""
    value = {"model": model, "prompt": PROMPT, "max_tokens": TOKENS, "temperature": 0}
    with report.check(f"{model}, whole") as told:
        answer = require(router.ask("POST", "/v1/completions", value))
        text = text_of(answer.json())
        if not text:
            raise Failed("the text is empty")
        told += [f"{len(text)} characters in {answer.took_s:.2f} s", shown_route(answer)]
    with report.check(f"{model}, streamed") as told:
        answer = require(router.ask("POST", "/v1/completions", {**value, "stream": True}))
        data = [one for _, one in answer.events]
        if data[-1:] != ["[DONE]"]:
            last = data[-1][:160] if data else "nothing"
            raise Failed(f"the stream did not end well; last came {last}")
        first_s = answer.events[0][0]
        told.append(f"first token after {first_s:.2f} s, {len(data) - 1} events in {answer.took_s:.2f} s")
        middle_s, last_s = answer.events[len(data) // 2][0], answer.events[-1][0]
        if len(data) > 4 and answer.took_s > BUFFERED_S and middle_s - first_s >= 0.9 * (last_s - first_s):
            told.append("but in heaps: does a proxy on the way buffer?")


def shown_route(answer: Answer) -> str:
    """Which replica answered, where the router says so."""
    replica = answer.headers.get("x-pointsman-replica")
    return f"by {replica}" if replica else "by an engine that no header names"


def client_for(url: str, timeout_s: float, ca_file: str | None) -> httpx.Client:
    """A client for http(s) and unix URLs; proxies of the environment are not asked."""
    limits = httpx.Timeout(timeout_s, connect=CONNECT_S)
    if url.startswith("unix:"):
        transport = httpx.HTTPTransport(uds=url.removeprefix("unix:").removeprefix("//"))
        # Whoever connects there is a proxy to the router, and has to say for whom.
        return httpx.Client(
            transport=transport,
            base_url="http://localhost",
            headers={"X-Forwarded-For": "127.0.0.1"},
            timeout=limits,
            trust_env=False,
        )
    trust = ssl.create_default_context(cafile=ca_file)
    return httpx.Client(base_url=url.rstrip("/"), timeout=limits, verify=trust, trust_env=False)


def main(arguments: list[str]) -> int:
    """Check and tell; the exit status."""
    parser = argparse.ArgumentParser(
        prog="scripts/smoke", description="Checks a running router, a line per check."
    )
    parser.add_argument("url", help="http://host:port, https://host, or unix:/path/of/its.sock")
    parser.add_argument("--timeout", type=float, default=60.0, metavar="S", help="for one answer (60)")
    parser.add_argument(
        "--ca-file", metavar="PEM", help="certificates to trust, for https with one of your own"
    )
    parser.add_argument("--model", metavar="ID", help="check this model only")
    asked = parser.parse_args(arguments)
    if not asked.url.startswith(("http://", "https://", "unix:")):
        parser.error(f"{asked.url!r} is no URL; write http://host:port, https://host or unix:/path")
    if not 0 < asked.timeout <= 3600:
        parser.error("--timeout takes seconds, above 0 and up to 3600")
    try:
        client = client_for(asked.url, asked.timeout, asked.ca_file)
    except (httpx.InvalidURL, OSError) as error:
        parser.error(f"{asked.url!r}, {asked.ca_file or 'the system certificates'}: {error}")
    report = Report()
    with client:
        router = Router(client, asked.timeout)
        for model in look(router, report, asked.model):
            generate(router, report, model)
    print(f"smoke: {'all is well' if not report.failed else f'{report.failed} failed'}")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
