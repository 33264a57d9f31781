"""The guard: addresses first, then origins, and nothing told to strangers."""

import hashlib
import logging
import time
from dataclasses import replace
from ipaddress import IPv4Network

import pytest
from msgspec import structs

from pointsman.access import AccessConfig
from pointsman.call import Api, Call, Operation
from pointsman.errors import (
    ADDRESS_FORBIDDEN,
    BAD_REQUEST,
    KEY_FORBIDDEN,
    KEY_MISSING,
    KEY_WRONG,
    ORIGIN_FORBIDDEN,
    RATE_LIMITED,
    ErrorKind,
    RouterError,
)
from pointsman.guard import Caller, Guard, check_body, check_call
from pointsman.keyring import Keyring
from pointsman.keys import Key, Need, Scope, digest_of, own_key
from pointsman.origin import CorsConfig
from pointsman.signature import Signed, sign
from pointsman.waiting import Priority

INSIDE, OUTSIDE, LOCAL = "10.1.2.3", "203.0.113.9", "127.0.0.1"
GUARD = Guard(AccessConfig(), CorsConfig(allowed_origins=("https://ui.example",)))


def test_an_allowed_address_enters() -> None:
    """Who may use the service is let in and known by the address."""
    caller = GUARD.admit(INSIDE, [])
    assert (caller.address, caller.is_ops) == (INSIDE, False)


@pytest.mark.parametrize("peer", [OUTSIDE, None, "", "nonsense"])
def test_a_stranger_is_refused_without_a_reason(peer: str | None, caplog: pytest.LogCaptureFixture) -> None:
    """The caller hears one sentence; the log hears the address and why."""
    with caplog.at_level(logging.WARNING, "pointsman.guard"), pytest.raises(RouterError) as caught:
        GUARD.admit(peer, [])
    assert caught.value.kind is ADDRESS_FORBIDDEN
    assert caught.value.message == ADDRESS_FORBIDDEN.message
    (line,) = caplog.messages
    assert "address_" in line


def test_a_forwarded_address_counts_behind_our_own_proxy_only() -> None:
    """A header can neither lift a stranger in nor hide one behind the proxy."""
    claim = [(b"x-forwarded-for", INSIDE.encode())]
    with pytest.raises(RouterError):
        GUARD.admit(OUTSIDE, claim)
    assert GUARD.admit(LOCAL, claim).address == INSIDE
    with pytest.raises(RouterError):
        GUARD.admit(LOCAL, [(b"x-forwarded-for", OUTSIDE.encode())])


def test_operators_are_those_of_the_ops_networks() -> None:
    """A user's address does not open the operators' pages, a local call does."""
    assert GUARD.admit(LOCAL, []).is_ops
    assert GUARD.admit_ops(LOCAL, []).is_ops
    with pytest.raises(RouterError) as caught:
        GUARD.admit_ops(INSIDE, [])
    assert caught.value.kind is ADDRESS_FORBIDDEN


def test_a_denied_operator_is_no_operator_for_users_either() -> None:
    """The deny-list wins over the ops networks."""
    guard = Guard(AccessConfig(denied=(IPv4Network("127.0.0.1/32"),)), CorsConfig())
    with pytest.raises(RouterError):
        guard.admit_ops(LOCAL, [])
    assert not guard.caller(LOCAL, []).is_ops


def test_the_caller_is_known_even_when_refused() -> None:
    """Public pages ask who calls without letting anybody in or out."""
    caller = GUARD.caller(OUTSIDE, [])
    assert (caller.address, caller.is_ops) == (OUTSIDE, False)


def test_callers_are_remembered_within_bounds() -> None:
    """The same caller is the same object, and many callers do not fill the memory."""
    guard = Guard(AccessConfig(), CorsConfig())
    assert guard.admit(INSIDE, []) is guard.admit(INSIDE, [])
    for number in range(5000):
        guard.admit(f"10.0.{number // 250}.{number % 250}", [])
    assert len(guard._callers) <= 4096


@pytest.mark.parametrize(
    ("origin", "host", "passes"),
    [
        (None, b"api.example", True),
        (b"https://ui.example", b"api.example", True),
        (b"https://evil.example", b"api.example", False),
        (b"null", b"api.example", False),
        (b"", b"api.example", False),
    ],
)
def test_foreign_pages_may_not_post(origin: bytes | None, host: bytes, passes: bool) -> None:
    """Callers without Origin and listed pages pass, others are refused."""
    if passes:
        GUARD.check_origin(origin, host)
        return
    with pytest.raises(RouterError) as caught:
        GUARD.check_origin(origin, host)
    assert caught.value.kind is ORIGIN_FORBIDDEN


def test_cors_headers_go_to_listed_pages_alone() -> None:
    """Callers without Origin and strangers get none."""
    assert GUARD.cors(None) == []
    assert (b"access-control-allow-origin", b"https://ui.example") in GUARD.cors(b"https://ui.example")
    assert not any(name.startswith(b"access") for name, _ in GUARD.cors(b"https://evil.example"))


SECRET = "pm-0123456789abcdef"
KEYED = Guard(AccessConfig(), CorsConfig(), Keyring(None, (own_key(SECRET),)))
BEARER = {b"authorization": f"Bearer {SECRET}".encode()}
WRONG = {b"x-api-key": b"pm-wrong"}


@pytest.mark.parametrize(
    ("guard", "need", "headers", "kind"),
    [
        (GUARD, Need.NEVER, WRONG, None),
        (GUARD, Need.IF_ANY, WRONG, None),
        (KEYED, Need.NEVER, {}, None),
        (KEYED, Need.NEVER, WRONG, None),
        (KEYED, Need.IF_ANY, {}, KEY_MISSING),
        (KEYED, Need.IF_ANY, WRONG, KEY_WRONG),
        (KEYED, Need.ALWAYS, WRONG, KEY_WRONG),
    ],
)
def test_when_a_key_is_needed(
    guard: Guard, need: Need, headers: dict[bytes, bytes], kind: ErrorKind | None
) -> None:
    """Always, never, or as soon as there is any; without keys nobody is asked for one."""
    caller = guard.admit(INSIDE, [])
    if kind is None:
        assert guard.authenticate(caller, headers, need, "POST /x").key is None
        return
    with pytest.raises(RouterError) as caught:
        guard.authenticate(caller, headers, need, "POST /x")
    assert caught.value.kind is kind
    assert caught.value.message == KEY_MISSING.message  # what is wrong with a key is nobody's business


@pytest.mark.parametrize("headers", [{}, WRONG])
def test_where_no_key_exists_it_is_said_how_to_make_one(headers: dict[bytes, bytes]) -> None:
    """Routes that always need one cannot be used before, and the caller is no guesser of keys."""
    for _ in range(20):
        with pytest.raises(RouterError, match="pointsman keys create") as caught:
            GUARD.authenticate(Caller(INSIDE, is_ops=False), headers, Need.ALWAYS, "POST /x")
        assert caught.value.kind is KEY_MISSING


@pytest.mark.parametrize("need", list(Need))
def test_a_good_key_counts_wherever_it_comes(need: Need) -> None:
    """It brings its tenant and its limits, also where none is needed."""
    caller = KEYED.authenticate(KEYED.admit(INSIDE, []), BEARER, need, "POST /x")
    assert caller.key is not None
    assert (caller.tenant, caller.address, caller.is_ops) == (caller.key.owner, INSIDE, False)


def test_keys_share_history_and_answers_only_where_they_name_a_tenant() -> None:
    """Those without one are each their own, which no tenant can be named; so is who has no key."""
    alone = [Key(digest_of(secret)) for secret in (SECRET, SECRET + "x")]
    named = [Key(digest_of(secret), tenant="red") for secret in (SECRET, SECRET + "x")]
    tenants = [Caller(INSIDE, is_ops=False, key=key).tenant for key in (*alone, *named, None)]
    assert tenants[2] == tenants[3] == "red"
    assert len(set(tenants)) == 4
    assert tenants[4] == ""


def test_a_key_opens_what_it_is_for() -> None:
    """Its scopes, its routes and its models; ops sees what operators see, trusted may steer engines."""
    key = Key(
        digest_of(SECRET), frozenset({Scope.GENERATE, Scope.OPS}), frozenset({"a"}), frozenset({"POST /x"})
    )
    guard = Guard(AccessConfig(), CorsConfig(), Keyring(None, (key,)))
    caller = guard.authenticate(guard.admit(INSIDE, []), BEARER, Need.IF_ANY, "POST /x")
    assert caller.is_ops
    with pytest.raises(RouterError, match="POST /y"):
        guard.authenticate(guard.admit(INSIDE, []), BEARER, Need.IF_ANY, "POST /y")
    with pytest.raises(RouterError, match="scope admin"):
        guard.authenticate(guard.admit(INSIDE, []), BEARER, Need.ALWAYS, "POST /x", Scope.ADMIN)
    call = Call(Api.OPENAI, Operation.CHAT, "a")
    check_call(caller, call, "a")
    with pytest.raises(RouterError, match="not for the model 'b'"):
        check_call(caller, call, "b")
    steering = structs.replace(call, steers="priority")
    with pytest.raises(RouterError, match="`priority` steers"):
        check_call(caller, steering, "a")
    check_call(Caller("10.0.0.1", False, replace(key, scopes=frozenset({Scope.TRUSTED}))), steering, "a")


def test_who_tries_many_wrong_keys_has_to_wait() -> None:
    """Failures alone count, each address for itself, and a good key passes all the same."""
    guard = Guard(AccessConfig(), CorsConfig(), Keyring(None, (own_key(SECRET),)))

    def tried(address: str, headers: dict[bytes, bytes]) -> ErrorKind | None:
        try:
            guard.authenticate(Caller(address, False), headers, Need.IF_ANY, "POST /x")
        except RouterError as error:
            return error.kind
        return None

    assert [tried(INSIDE, BEARER) for _ in range(20)] == [None] * 20
    assert [tried(INSIDE, {}) for _ in range(20)] == [KEY_MISSING] * 20
    assert [tried(INSIDE, WRONG) for _ in range(12)] == [KEY_WRONG] * 10 + [RATE_LIMITED] * 2
    assert tried(INSIDE, BEARER) is None
    assert tried("10.9.9.9", WRONG) is KEY_WRONG


SIGNING = bytes(range(32))


def signing_guard() -> tuple[Guard, Key]:
    key = Key(digest_of(SIGNING.hex()), signs_with=SIGNING)
    return Guard(AccessConfig(), CorsConfig(), Keyring(None, (key,))), key


def signed(key: Key, body: bytes = b"{}", at: float | None = None) -> dict[bytes, bytes]:
    told = Signed(key.name, int(at or time.time()), "nonce-0123456789", hashlib.sha256(body).digest(), b"")
    signature = sign(SIGNING, "POST", "/v1/completions", "", told)
    return {
        b"x-key": key.name.encode(),
        b"x-timestamp": str(told.timestamp).encode(),
        b"x-nonce": told.nonce.encode(),
        b"x-content-sha256": told.content_sha256.hex().encode(),
        b"x-signature": signature.hex().encode(),
    }


def test_a_signed_request_needs_no_secret_on_the_wire() -> None:
    """Its key is the caller's; its body and its nonce are checked once they are there."""
    guard, key = signing_guard()
    caller, told = guard.verify(Caller(INSIDE, is_ops=False), signed(key), "POST", "/v1/completions", "")
    assert told is not None
    assert guard.authenticate(caller, {}, Need.ALWAYS, "POST /v1/completions").key is key
    assert check_body(told, b"{}").ttl_s == 600
    with pytest.raises(RouterError, match="not the one that was signed"):
        check_body(told, b"{ }")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({b"x-signature": b"0" * 64}, "needs a valid API key"),
        ({b"x-key": b"00000000"}, "needs a valid API key"),
        ({b"x-timestamp": b"1000000000"}, "needs a valid API key"),
        ({b"x-nonce": b"short"}, "x-nonce is missing"),
    ],
)
def test_a_signature_that_does_not_fit_is_a_wrong_key(change: dict[bytes, bytes], sentence: str) -> None:
    """An unknown key, a late request and a forged one are not told apart; a malformed one is named."""
    guard, key = signing_guard()
    with pytest.raises(RouterError, match=sentence) as caught:
        guard.verify(Caller(INSIDE, is_ops=False), signed(key) | change, "POST", "/v1/completions", "")
    assert caught.value.kind is KEY_WRONG


# --- turns where calls wait


def key(name: str, tenant: str = "default", priority: Priority = Priority.NORMAL, *scopes: Scope) -> Key:
    return Key(digest_of(name), frozenset(scopes), tenant=tenant, priority=priority)


def test_with_whom_a_caller_shares_its_turns() -> None:
    """Keys of one tenant together, a key without one by itself, and without a key the address."""
    callers = [
        Caller(INSIDE, is_ops=False),
        Caller(OUTSIDE, is_ops=False),
        Caller(INSIDE, is_ops=False, key=key("one")),
        Caller(INSIDE, is_ops=False, key=key("two")),
        Caller(INSIDE, is_ops=False, key=key("three", "search")),
    ]
    assert len({caller.party for caller in callers}) == 5
    assert Caller(OUTSIDE, is_ops=False, key=key("four", "search")).party == callers[4].party


@pytest.mark.parametrize(
    ("own", "wanted", "found"),
    [
        (None, None, Priority.NORMAL),
        (None, b"low", Priority.LOW),
        (None, b" Normal ", Priority.NORMAL),
        (key("a", priority=Priority.LOW), None, Priority.LOW),
        (key("a", priority=Priority.HIGH), None, Priority.HIGH),
        (key("a", priority=Priority.HIGH), b"HIGH", Priority.HIGH),
        (key("a", priority=Priority.HIGH), b"low", Priority.LOW),
        (key("a", "t", Priority.LOW, Scope.TRUSTED), b"high", Priority.HIGH),
    ],
)
def test_the_class_of_a_call(own: Key | None, wanted: bytes | None, found: Priority) -> None:
    """That of its key; a header lowers it, and raises it for the trusted."""
    assert Caller(INSIDE, is_ops=False, key=own).priority(wanted) is found


@pytest.mark.parametrize(
    ("own", "wanted"), [(None, b"high"), (key("a"), b"high"), (key("a", "t", Priority.LOW), b"normal")]
)
def test_nobody_raises_a_class_alone(own: Key | None, wanted: bytes) -> None:
    """It is refused, and said what would be needed."""
    with pytest.raises(RouterError) as caught:
        Caller(INSIDE, is_ops=False, key=own).priority(wanted)
    assert (caught.value.kind, caught.value.param) == (KEY_FORBIDDEN, "X-Pointsman-Priority")
    assert "trusted" in caught.value.message


@pytest.mark.parametrize("wanted", [b"", b"urgent", b"1", b"high, low", b"\xff"])
def test_an_unknown_class_is_refused_by_name(wanted: bytes) -> None:
    """With those that there are."""
    with pytest.raises(RouterError) as caught:
        Caller(INSIDE, is_ops=False).priority(wanted)
    assert caught.value.kind is BAD_REQUEST
    assert caught.value.message == "`X-Pointsman-Priority` must be one of high, normal, low."
