"""Endpoints as operators write them, and what a replica says of itself."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.replica import Endpoint, Engine, Facts, Health, Replica, State


@pytest.mark.parametrize(
    ("url", "authority", "full"),
    [
        ("http://10.0.0.1:8080", "10.0.0.1:8080", "http://10.0.0.1:8080"),
        ("http://tgi", "tgi", "http://tgi"),
        ("http://tgi:80/", "tgi", "http://tgi"),
        ("https://tgi:443", "tgi", "https://tgi"),
        ("https://tgi:80", "tgi:80", "https://tgi:80"),
        ("http://[::1]:8000/base/", "[::1]:8000", "http://[::1]:8000/base"),
        ("http://[::1]", "[::1]", "http://[::1]"),
        (" HTTP://Host.Example:1/a/b// ", "host.example:1", "http://host.example:1/a/b"),
    ],
)
def test_an_endpoint_reads_what_operators_write(url: str, authority: str, full: str) -> None:
    """Scheme, host, port and base path; the Host header holds the port only where it must."""
    endpoint = Endpoint.parse(url)
    assert (endpoint.authority, endpoint.url) == (authority, full)
    assert Endpoint.parse(endpoint.url) == endpoint


@pytest.mark.parametrize(
    "url",
    [
        "",
        "tgi:8080",
        "//tgi:8080",
        "ftp://tgi",
        "unix:/run/tgi.sock",
        "http://",
        "http:///path",
        "http://:80",
        "http://tgi:0",
        "http://tgi:99999",
        "http://tgi:x",
        "http://tgi?x=1",
        "http://tgi/#f",
        "http://[::1",
        "http://t gi",
        "http://tgi/a b",
        "http://tgi\r\nX: y",
        "http://tgi\t/",
        "http://tgi/\x7f",
        "http://שלום",
    ],
)
def test_a_bad_endpoint_is_refused_with_a_sentence(url: str) -> None:
    """What is no plain base URL stops the start, and the words say so."""
    with pytest.raises(ValueError, match="endpoint"):
        Endpoint.parse(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://user:s3cret@tgi",
        "user:s3cret@tgi:80",
        "ftp://user:s3cret@tgi",
        "http:/user:s3cret@tgi",
        "http:user:s3cret@tgi",
        "//s3cret@tgi",
        "http://:s3cret@tgi/?q",
        "http://[s3cret@tgi",
    ],
)
def test_user_info_is_refused_and_never_shown(url: str) -> None:
    """Whatever else is wrong with it, a URL with a password is not repeated."""
    with pytest.raises(ValueError, match="user name or password") as caught:
        Endpoint.parse(url)
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None


@given(st.text(max_size=30))
def test_any_text_is_an_endpoint_or_a_value_error(text: str) -> None:
    """No text makes the reader fail in another way, or gives a header that could be split."""
    try:
        endpoint = Endpoint.parse("http://" + text)
    except ValueError:
        return
    assert all(0x20 < ord(sign) < 0x7F for sign in endpoint.authority + endpoint.base_path)


def replica(**facts: object) -> Replica:
    made = Replica("m-0", "m", Engine.VLLM, Endpoint("http", "h", 80))
    for name, value in facts.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize("state", State)
def test_usable_states(state: State) -> None:
    """Up and not-yet-known replicas get work, others never."""
    assert replica(health=Health(state=state)).usable == (state in {State.UP, State.UNKNOWN})


def test_since_when_it_is_drained_is_known() -> None:
    """Since it was said first; to say it again changes nothing."""
    made = replica()
    made.drain(wanted=True, now_wall=100.0)
    made.drain(wanted=True, now_wall=200.0)
    assert (made.draining, made.draining_since) == (True, 100.0)
    made.drain(wanted=False, now_wall=300.0)
    made.drain(wanted=True, now_wall=400.0)
    assert made.draining_since == 400.0


@pytest.mark.parametrize("state", State)
def test_a_drained_replica_gets_no_work(state: State) -> None:
    """Whatever its checks say; it is shown as draining where it would have got some."""
    drained = replica(health=Health(state=state), draining=True)
    assert not drained.usable
    assert not drained.ready
    alive = state in {State.UP, State.UNKNOWN}
    assert drained.standing.value == ("draining" if alive else state.value)


@pytest.mark.parametrize(
    ("limit", "told", "slots"), [(None, None, 128), (None, 40, 40), (2, 40, 2), (2, None, 2), (None, 0, 128)]
)
def test_slots(limit: int | None, told: int | None, slots: int) -> None:
    """The operator's word counts, else the engine's, else what is usual; at that many it is full."""
    made = Replica("m-0", "m", Engine.VLLM, Endpoint("http", "h", 80), max_in_flight=limit)
    assert made.slots == (limit or 128)
    made.learn(Facts(max_concurrent=told))
    made.in_flight = slots - 1
    assert (made.slots, made.full, made.ready) == (slots, False, True)
    made.in_flight = slots
    assert (made.full, made.ready) == (True, False)


def test_its_own_name_is_the_configured_one_first() -> None:
    """The operator's word, else the engine's first name, else none."""
    assert replica().own_name is None
    assert replica(facts=Facts(names=("a", "b"))).own_name == "a"
    assert replica(served_name="s", facts=Facts(names=("a",))).own_name == "s"


def test_it_knows_the_names_of_its_engine() -> None:
    """Configured and told names count; no name does not."""
    made = replica(served_name="s", facts=Facts(names=("a", "b")))
    assert [made.knows(name) for name in ("s", "a", "b", "c", "")] == [True, True, True, False, False]
    assert not replica().knows("None")


def test_its_key_is_not_printed() -> None:
    """A replica in a log or traceback does not give away its key."""
    assert "s3cret" not in repr(replica(key="s3cret"))
