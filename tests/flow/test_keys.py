"""API keys at the running router: who is asked for one, what a key opens, and when the file changes."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pointsman.cli import main
from pointsman.keys import digest_of
from processes import Emulator, Router, wait_for

Asked = tuple[str, dict[str, Any]]
CHAT: Asked = (
    "/v1/chat/completions",
    {"model": "gemma-3-12b", "messages": [{"role": "user", "content": "Hi"}]},
)
TEXT: Asked = ("/generate_stream", {"inputs": "Hi", "parameters": {"max_new_tokens": 2}})
OPEN: tuple[Asked, ...] = (
    ("/generate", {"prompt": "Hi", "max_length": 2}),
    ("/generate", {"prompt": "Hi", "model_id": "distilgpt2", "max_new_tokens": 2}),
    ("/complete", {"prompt": "Hi", "max_length": 2}),
    ("/chat/completions", {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}),
)


class Keyed:
    """A router with a key file that a test may change."""

    def __init__(self, router: Router, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.router = router
        self.path = path
        self._capsys = capsys

    def create(self, *options: str) -> str:
        """Make a key, and wait until the router knows it."""
        assert main(["keys", "create", "--file", str(self.path), *options]) == 0
        secret: str = self._capsys.readouterr().out.splitlines()[0]
        wait_for(
            lambda: self.status(CHAT) == 401 and self.status(CHAT, secret) not in (401, 429), "the key counts"
        )
        return secret

    def status(self, asked: Asked, secret: str | None = None) -> int:
        headers = {} if secret is None else {"authorization": f"Bearer {secret}"}
        return self.router.http.post(asked[0], json=asked[1], headers=headers).status_code


@pytest.fixture
def keyed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Keyed]:
    """Two models behind a router that has no key yet."""
    path = tmp_path / "keys.json"
    with Emulator("tgi") as tgi, Emulator("vllm") as vllm:
        urls = {"TGI_DISTILGPT2_ENDPOINT": tgi.url, "VLLM_GEMMA3_ENDPOINT": vllm.url}
        with Router(KEYS_FILE=str(path), **urls) as router:
            router.wait_until_up("distilgpt2", "gemma-3-12b")
            yield Keyed(router, path, capsys)


def test_a_key_closes_some_routes_and_no_others(keyed: Keyed) -> None:
    """OpenAI's and TGI's ask for it as soon as there is one; those whose clients cannot send one never do."""
    for asked in (CHAT, TEXT, *OPEN):
        assert keyed.status(asked) == 200, asked
        assert keyed.status(asked, "whatever-a-client-sends") == 200, asked
    secret = keyed.create()
    for asked in (CHAT, TEXT):
        assert keyed.status(asked) == 401
        assert keyed.status(asked, "pm-wrong") == 401
        assert keyed.status(asked, secret) == 200
    for asked in OPEN:
        assert keyed.status(asked) == 200
        assert keyed.status(asked, "pm-wrong") == 200
    answer = keyed.router.http.post(CHAT[0], json=CHAT[1], headers={"x-api-key": secret})
    assert answer.status_code == 200

    refused = keyed.router.http.post(CHAT[0], json=CHAT[1]).json()["error"]
    assert (refused["code"], refused["type"], refused["owner"]) == (
        "key_missing",
        "authentication_error",
        "policy",
    )
    name = json.loads(keyed.path.read_text())["keys"][0]["sha256"][:8]
    assert main(["keys", "revoke", "--file", str(keyed.path), name]) == 0
    wait_for(lambda: keyed.status(CHAT, secret) == 200, "without any key the routes are open again")


def test_openais_list_is_closed_with_its_routes_and_the_frontends_is_not(keyed: Keyed) -> None:
    """As soon as there is a key `/v1/models` asks for it, below a model too; `/models` never does."""
    http, lists = keyed.router.http, ("/v1/models", "/v1/models/distilgpt2", "/models/distilgpt2/v1/models")
    for path in lists:
        assert http.get(path).status_code == 200
    secret = keyed.create()
    for path in lists:
        none, wrong = http.get(path), http.get(path, headers={"authorization": "Bearer pm-wrong"})
        assert (none.status_code, none.json()["error"]["code"]) == (401, "key_missing")
        assert (wrong.status_code, wrong.json()["error"]["code"]) == (401, "key_wrong")
        assert "distilgpt2" not in none.text + wrong.text
        assert http.get(path, headers={"authorization": f"Bearer {secret}"}).status_code == 200
    for path in ("/models", "/models/distilgpt2", "/models/distilgpt2/health"):
        assert http.get(path).status_code == 200


def test_a_key_file_out_of_reach_leaves_the_keys_until_it_is_back(keyed: Keyed) -> None:
    """Told in a sentence, and looked after all the while: who is revoked then is out."""
    secret, revoked = keyed.create(), keyed.create()
    held = keyed.path.read_bytes()
    keyed.path.unlink()
    keyed.path.symlink_to(keyed.path)
    told = keyed.router.read_until(r"keys\.json: [^;]*; the keys stay as they were")
    assert "Too many levels of symbolic links" in told
    assert (keyed.status(CHAT), keyed.status(CHAT, secret), keyed.status(CHAT, revoked)) == (401, 200, 200)
    keyed.path.unlink()
    keyed.path.write_bytes(held)
    assert main(["keys", "revoke", "--file", str(keyed.path), digest_of(revoked).hex()[:8]]) == 0
    wait_for(lambda: keyed.status(CHAT, revoked) == 401, "the key is known no more")
    assert keyed.status(CHAT, secret) == 200


def test_keys_for_what_is_not_there_are_told_of(keyed: Keyed) -> None:
    """One warning for a reading of the file, with the key's digits and the name; the router goes on."""
    keyed.create("--model", "gemma-3-12b")
    held = json.loads(keyed.path.read_text())
    name = held["keys"][0]["sha256"][:8]
    told = "keys are for what is not there"
    assert told not in keyed.router.output()
    held["keys"][0] |= {"models": ["gemma-4"], "routes": ["POST /v1/chat/completion"]}
    keyed.path.write_text(json.dumps(held))
    line = keyed.router.read_until(rf"{told}: [^\n]*\n")
    assert f"key {name} the route 'POST /v1/chat/completion' (is it POST /v1/chat/completions?)" in line
    assert f"key {name} the model 'gemma-4'" in line
    assert keyed.status(OPEN[0]) == 200
    assert keyed.router.output().count(told) == 1


def test_the_cache_is_looked_at_and_cleared_by_scope(tmp_path: Path) -> None:
    """From an address that is no operator's: `ops` looks, `admin` clears too, nobody else does either."""
    secrets = {scope: f"pm-for-{scope}-0123456789" for scope in ("generate", "ops", "admin")}
    entries = [{"sha256": digest_of(secret).hex(), "scopes": [scope]} for scope, secret in secrets.items()]
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"keys": entries}))
    with Router(KEYS_FILE=str(path), OPS_NETWORKS="192.0.2.0/24") as router:
        for scope, looks, clears in (("generate", 403, 403), ("ops", 200, 403), ("admin", 200, 200)):
            headers = {"x-api-key": secrets[scope]}
            assert router.http.get("/cache", headers=headers).status_code == looks, scope
            assert router.http.delete("/cache", headers=headers).status_code == clears, scope
        assert router.http.get("/cache").status_code == 401
        assert router.http.delete("/cache").status_code == 401
        router.read_until('"what": ?"cache"')


def test_a_rule_for_no_route_stops_the_start_and_no_reload(tmp_path: Path) -> None:
    """It names the wrong one and what is near; a router that serves keeps what it has, and says so."""
    config = tmp_path / "config.yml"
    config.write_text("key_needs: POST /api/chat/streams=always\n")
    wrong = (
        "key_needs in config.yml: 'POST /api/chat/streams' is no route of this router; "
        "did you mean POST /api/chat/stream?"
    )
    with pytest.raises(AssertionError, match=re.escape(wrong)):
        Router(CONFIG_FILE=str(config))
    config.write_text("key_needs: POST /api/chat/stream=always\n")
    asked: Asked = ("/api/chat/stream", {"messages": [{"role": "user", "content": "Hi"}]})
    with Router(CONFIG_FILE=str(config)) as router:
        assert router.http.post(asked[0], json=asked[1]).status_code == 401
        config.write_text("key_needs: POST /api/chat/streams=never\n")
        router.read_until("not reloaded: " + re.escape(wrong))
        assert router.metric("pointsman_config_reload_ok") == 0
        assert router.http.post(asked[0], json=asked[1]).status_code == 401


def test_a_key_opens_what_it_is_for(keyed: Keyed) -> None:
    """One model, one route; the lists show what it may use, and the error names what it may not."""
    narrow = keyed.create("--model", "gemma-3-12b", "--route", "POST /v1/chat/completions")
    http, headers = keyed.router.http, {"authorization": f"Bearer {narrow}"}
    assert keyed.status(CHAT, narrow) == 200
    other = http.post(CHAT[0], json={**CHAT[1], "model": "distilgpt2"}, headers=headers)
    assert (other.status_code, other.json()["error"]["code"]) == (403, "key_forbidden")
    assert "distilgpt2" in other.json()["error"]["message"]
    assert keyed.status(TEXT, narrow) == 403
    wide = {"authorization": f"Bearer {keyed.create()}"}
    for each, ids in ((headers, {"gemma-3-12b"}), (wide, {"distilgpt2", "gemma-3-12b"})):
        assert {model["id"] for model in http.get("/models", headers=each).json()} == ids
        assert {model["id"] for model in http.get("/v1/models", headers=each).json()["data"]} == ids


def test_only_the_trusted_steer_an_engine(keyed: Keyed) -> None:
    """`priority` is refused from everybody else, by name."""
    asked = (CHAT[0], {**CHAT[1], "priority": 0})
    assert keyed.status(asked) == 400
    assert keyed.status(asked, keyed.create()) == 400
    trusted = keyed.create("--scope", "generate", "--scope", "trusted")
    assert keyed.status(asked, trusted) == 200


def test_no_key_is_told_to_anybody(keyed: Keyed) -> None:
    """Neither log lines nor errors hold one, good or wrong."""
    secret = keyed.create()
    keyed.status(CHAT, secret)
    keyed.status(CHAT, "pm-a-wrong-key-that-somebody-tries")
    answer = keyed.router.http.post(CHAT[0], json=CHAT[1], headers={"x-request-id": "last-one"})
    keyed.router.access_line("last-one")
    for text in (keyed.router.output(), answer.text, keyed.router.http.get("/metrics").text):
        assert secret not in text
        assert "pm-a-wrong-key" not in text
