"""What operators change and ask for, who may, and what the audit log tells of it."""

import logging
from pathlib import Path

import pytest

from pointsman.app import Router, build
from pointsman.keyring import Keyring
from pointsman.keys import Key, Scope, digest_of
from pointsman.settings import load
from unit.control.conftest import ENGINES, Client

pytestmark = pytest.mark.anyio

PATH = "/admin/default-model"
FAR = "10.1.2.3"  # allowed to call, and no operator's


def with_keys(app: Router, **scopes: Scope) -> Router:
    """The app with keys whose secrets are their names."""
    table = [Key(digest_of(name), frozenset({scope})) for name, scope in scopes.items()]
    app.keyring.table = type(app.keyring.table)(table)
    return app


async def test_the_default_model_changes_and_comes_back(app: Router, client: Client) -> None:
    """From now on it answers calls that name none; null takes back what the settings say."""
    async with client(app) as http:
        first = await http.get(PATH)
        changed = await http.put(PATH, json={"model": "gemma-3-12b"})
        told = (await http.get("/model-info")).json()["model_name"]
        alias = await http.put(PATH, json={"model": "distilbert/distilgpt2"})
        back = await http.put(PATH, json={"model": None})
    assert first.json() == {"model": None, "configured": None}
    assert changed.json() == {"old": None, "model": "gemma-3-12b", "configured": None, "workers": 1}
    assert told == "gemma-3-12b"
    assert alias.json()["model"] == "distilgpt2"
    assert back.json() == {"old": "distilgpt2", "model": None, "configured": None, "workers": 1}


async def test_null_is_what_the_settings_say(client: Client) -> None:
    """Also where they name a model."""
    app = build(load({**ENGINES, "DEFAULT_MODEL": "distilgpt2"}, None, None))
    async with client(app) as http:
        await http.put(PATH, json={"model": "gemma-3-12b"})
        back = await http.put(PATH, json={"model": None})
    told = {"old": "gemma-3-12b", "model": "distilgpt2", "configured": "distilgpt2", "workers": 1}
    assert back.json() == told


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b'{"model":"nope"}', 404, "model_not_found"),
        (b'{"model":7}', 400, "invalid_parameter"),
        (b"{}", 400, "invalid_parameter"),
        (b"[]", 400, "malformed_json"),
        (b'{"model":"' + b"a" * 5000 + b'"}', 413, "body_too_large"),
    ],
)
async def test_a_bad_change_changes_nothing(
    app: Router, client: Client, body: bytes, status: int, code: str
) -> None:
    """The error says what is wrong, and lists the models where the name is not known."""
    async with client(app) as http:
        answer = await http.put(PATH, content=body, headers={"content-type": "application/json"})
        kept = await http.get(PATH)
        plain = await http.put(PATH, content=b'{"model":null}', headers={"content-type": "text/plain"})
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert status != 404 or "distilgpt2, gemma-3-12b" in answer.json()["detail"]
    assert kept.json()["model"] is None
    assert plain.status_code == 415


@pytest.mark.parametrize("workers", [2, None])
async def test_with_several_workers_it_is_refused(app: Router, client: Client, workers: int | None) -> None:
    """One of them would change and the others not: 409, and a sentence that says what to do."""
    app.workers = workers
    async with client(app) as http:
        answer = await http.put(PATH, json={"model": "gemma-3-12b"})
        assert (await http.get(PATH)).json()["model"] is None
    assert (answer.status_code, answer.json()["code"]) == (409, "several_workers")
    assert "settings" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("address", "secret", "status", "code"),
    [
        ("127.0.0.1", None, 200, None),
        ("127.0.0.1", "calls", 200, None),
        (FAR, None, 401, "key_missing"),
        (FAR, "nobody", 401, "key_wrong"),
        (FAR, "calls", 403, "key_forbidden"),
        (FAR, "looks", 403, "key_forbidden"),
        (FAR, "rules", 200, None),
        ("198.51.100.1", "rules", 403, "address_forbidden"),
    ],
)
async def test_who_may_change_it(
    app: Router, client: Client, address: str, secret: str | None, status: int, code: str | None
) -> None:
    """A key with the scope admin, or an operator's address; others hear what they lack."""
    with_keys(app, calls=Scope.GENERATE, looks=Scope.OPS, rules=Scope.ADMIN)
    headers = {} if secret is None else {"authorization": f"Bearer {secret}"}
    async with client(app, address) as http:
        answer = await http.put(PATH, json={"model": "gemma-3-12b"}, headers=headers)
        seen = await http.get(PATH, headers=headers)
    assert (answer.status_code, answer.json().get("code")) == (status, code)
    assert seen.status_code == (200 if secret == "looks" else status)


async def test_a_key_for_other_routes_may_not(app: Router, client: Client) -> None:
    """A key's list of routes holds for admin routes too."""
    narrow = Key(digest_of("narrow"), frozenset({Scope.ADMIN}), routes=frozenset({"GET /metrics"}))
    app.keyring.table = type(app.keyring.table)([narrow])
    async with client(app, FAR) as http:
        answer = await http.put(PATH, json={"model": None}, headers={"x-api-key": "narrow"})
    assert (answer.status_code, answer.json()["code"]) == (403, "key_forbidden")


async def test_each_action_is_on_the_audit_log(
    app: Router, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """Who, what and outcome, refused ones too; nothing of what a body held."""
    with_keys(app, rules=Scope.ADMIN)
    name = digest_of("rules").hex()[:8]
    with caplog.at_level(logging.INFO, "pointsman.audit"):
        async with client(app, FAR) as http:
            key = {"authorization": "Bearer rules", "x-request-id": "r-1"}
            await http.put(PATH, json={"model": "gemma-3-12b"}, headers=key)
            await http.put(PATH, json={"model": "secret-name"}, headers=key)
            await http.put(PATH, json={"model": None})
    told = [vars(record)["facts"] for record in caplog.records]
    who = f"key {name} at {FAR}"
    assert told == [
        {"who": who, "what": "default model", "outcome": "ok: None -> gemma-3-12b", "request_id": "r-1"},
        {"who": who, "what": "default model", "outcome": "model_not_found", "request_id": "r-1"},
        {
            "who": f"address {FAR}",
            "what": "default model",
            "outcome": "key_missing",
            "request_id": told[2]["request_id"],
        },
    ]
    assert "secret-name" not in caplog.text
    assert "rules" not in caplog.text


def test_each_change_of_the_key_file_is_on_the_audit_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Keys by their names: those there at the start, added, changed, removed; an unusable file too."""
    path, one, two = tmp_path / "keys.json", "a" * 64, "b" * 64
    ring = Keyring(path)
    contents = [
        f'{{"keys":[{{"sha256":"{one}"}}]}}',
        f'{{"keys":[{{"sha256":"{one}","concurrency":2}},{{"sha256":"{two}"}}]}}',
        f'{{"keys":[{{"sha256":"{two}"}}], "x":0}}',
        f'{{"keys":[{{"sha256":"{two}"}}]}}',
    ]
    with caplog.at_level(logging.INFO, "pointsman.audit"):
        for content in contents:
            path.write_text(content)
            ring.look()
    told = [record.getMessage() for record in caplog.records if record.name == "pointsman.audit"]
    assert told == [
        "key file: keys: ok: there at the start aaaaaaaa",
        "key file: keys: ok: added bbbbbbbb; changed aaaaaaaa",
        "key file: keys: unusable; the keys stay as they were",
        "key file: keys: ok: removed aaaaaaaa",
    ]
