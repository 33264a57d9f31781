"""Operators' routes take signed requests: a key that never travels, for one request, once."""

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from itertools import count

import httpx
import pytest

from pointsman.cli import main
from pointsman.signature import WINDOW_S, Signed, sign
from processes import Emulator, Router

PATH = "/admin/default-model"
WARM = "/models/gemma-3-12b/warm"
CHANGE = b'{"model":"gemma-3-12b"}'
_numbers = count()


@dataclass(frozen=True)
class Signer:
    """Who holds a signing key."""

    name: str
    secret: bytes

    def headers(
        self, method: str, path: str, body: bytes = b"", *, query: str = "", late_s: float = 0
    ) -> dict[str, str]:
        """What a signed request says of itself, with a nonce of its own."""
        nonce = f"nonce-of-an-operator-{next(_numbers)}"
        told = Signed(self.name, int(time.time() - late_s), nonce, hashlib.sha256(body).digest(), b"")
        return {
            "content-type": "application/json",
            "x-key": self.name,
            "x-timestamp": str(told.timestamp),
            "x-nonce": nonce,
            "x-content-sha256": told.content_sha256.hex(),
            "x-signature": sign(self.secret, method, path, query, told).hex(),
        }


@dataclass(frozen=True)
class Place:
    """A router that takes none for an operator by its address, and two who sign."""

    router: Router
    admin: Signer
    caller: Signer

    def send(self, method: str, path: str, headers: dict[str, str], body: bytes = b"") -> httpx.Response:
        return self.router.http.request(method, path, content=body, headers=headers)

    def model(self) -> str | None:
        """The default model as it is now."""
        answer = self.send("GET", PATH, self.admin.headers("GET", PATH))
        assert answer.status_code == 200, answer.text
        told: str | None = answer.json()["model"]
        return told


@pytest.fixture(scope="module")
def place(vllm: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    signers: list[Signer] = []
    for scope in ("admin", "generate"):
        with redirect_stdout(StringIO()) as said:
            assert main(["keys", "create", "--sign", "--scope", scope, "--file", str(path)]) == 0
        name = json.loads(path.read_text())["keys"][-1]["sha256"][:8]
        signers.append(Signer(name, bytes.fromhex(said.getvalue().splitlines()[0])))
    settings = {"VLLM_GEMMA3_ENDPOINT": vllm.url, "KEYS_FILE": str(path), "OPS_NETWORKS": "192.0.2.1/32"}
    with Router(**settings) as router:
        router.wait_until_up("gemma-3-12b")
        yield Place(router, *signers)


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def test_an_operator_signs(place: Place) -> None:
    """A change, a look and a warming are done, and on the audit log by the key's name."""
    assert code(place.send("GET", PATH, {})) == (401, "key_missing")
    changed = place.send("PUT", PATH, place.admin.headers("PUT", PATH, CHANGE), CHANGE)
    assert (changed.status_code, changed.json()["model"]) == (200, "gemma-3-12b")
    assert place.model() == "gemma-3-12b"
    warmed = place.send("POST", WARM, place.admin.headers("POST", WARM))
    assert (warmed.status_code, warmed.json()["replicas"][0]["ok"]) == (200, True)
    used = place.send("GET", "/usage", place.admin.headers("GET", "/usage"))
    assert (used.status_code, used.json()["key"]) == (200, place.admin.name)
    place.router.read_until(rf"key {place.admin.name} at 127\.0\.0\.1[^\n]*default model")
    assert place.admin.secret.hex() not in place.router.output()


def test_a_signed_request_counts_once(place: Place) -> None:
    """Sent again it is refused, whoever sends it, and does nothing."""
    headers = place.admin.headers("PUT", PATH, CHANGE)
    assert place.send("PUT", PATH, headers, CHANGE).status_code == 200
    undone = b'{"model":null}'
    assert place.send("PUT", PATH, place.admin.headers("PUT", PATH, undone), undone).status_code == 200
    again = place.send("PUT", PATH, headers, CHANGE)
    assert code(again) == (401, "key_wrong")
    assert "sent before" in again.json()["detail"]
    assert place.model() is None


@pytest.mark.parametrize("late_s", [WINDOW_S + 5, -WINDOW_S - 60])
def test_a_late_or_early_one_is_refused(place: Place, late_s: float) -> None:
    """Beyond the window either way."""
    headers = place.admin.headers("PUT", PATH, CHANGE, late_s=late_s)
    assert code(place.send("PUT", PATH, headers, CHANGE)) == (401, "key_wrong")


def test_it_is_for_these_bytes_at_this_place(place: Place) -> None:
    """Another body, route, method or query is refused; the body's refusal spends no nonce."""
    headers = place.admin.headers("PUT", PATH, CHANGE)
    other = place.send("PUT", PATH, headers, b'{"model":null}')
    assert code(other) == (401, "key_wrong")
    assert "not the one that was signed" in other.json()["detail"]
    assert code(place.send("PUT", f"{PATH}?a=b", headers, CHANGE)) == (401, "key_wrong")
    assert code(place.send("POST", WARM, headers, CHANGE)) == (401, "key_wrong")
    assert place.send("PUT", PATH, headers, CHANGE).status_code == 200


def test_a_large_body_is_not_read_for_its_digest(place: Place) -> None:
    """It is refused by its size, signed well or not; and the nonce is as new as it was."""
    large = b'{"model":"' + b"a" * 100_000 + b'"}'
    assert code(place.send("PUT", PATH, place.admin.headers("PUT", PATH, large), large)) == (
        413,
        "body_too_large",
    )
    medium = large[:5000] + b'"}'
    assert code(place.send("PUT", PATH, place.admin.headers("PUT", PATH, medium), medium)) == (
        413,
        "body_too_large",
    )
    forged = place.admin.headers("PUT", PATH, large) | {"x-signature": "0" * 64}
    assert code(place.send("PUT", PATH, forged, large)) == (401, "key_wrong")


def test_a_key_without_the_scope_may_not(place: Place) -> None:
    """Signed as well as can be."""
    headers = place.caller.headers("PUT", PATH, CHANGE)
    assert code(place.send("PUT", PATH, headers, CHANGE)) == (403, "key_forbidden")


def test_a_signature_in_pieces_is_told(place: Place) -> None:
    """What is missing is named."""
    headers = place.admin.headers("GET", PATH)
    del headers["x-nonce"]
    answer = place.send("GET", PATH, headers)
    assert code(answer) == (401, "key_wrong")
    assert "x-nonce" in answer.json()["detail"]


def test_a_bad_body_that_was_signed_spends_once(place: Place) -> None:
    """On seed 002's routes bad bodies count too; who sends a signed one again spends nothing of its key's."""
    path, body = "/v1/generate", b'{"prompt":""}'
    headers = place.caller.headers("POST", path, body)
    first, again = [place.send("POST", path, headers, body) for _ in range(2)]
    forged = place.send("POST", path, place.caller.headers("POST", path, body), b'{"prompt":" "}')
    last = place.send("POST", path, place.caller.headers("POST", path, body), body)
    answers = (first, again, forged, last)
    assert [answer.status_code for answer in answers] == [422, 403, 403, 422]
    left = [answer.headers.get("X-RateLimit-Remaining") for answer in answers]
    assert (left[0], left[2]) == ("14", None)
    assert left[3] in ("13", "14")  # after six seconds there is one more
