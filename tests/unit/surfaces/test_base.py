"""How bodies are read: strictly, once, and never otherwise than an engine would read them."""

import json
import time
from collections.abc import Callable
from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.errors import INVALID_PARAMETER, MALFORMED_JSON, RouterError
from pointsman.surfaces import base
from pointsman.surfaces.base import (
    FIELDS_MAX,
    MESSAGES_MAX,
    check_count,
    check_numbers,
    error_object,
    flag,
    model_name,
    number,
    read_fields,
    text,
)
from pointsman.surfaces.extent import CONTAINERS_MAX, DEPTH_MAX


def nested(depth: int, opening: str = "[", closing: str = "]") -> bytes:
    """An object whose value makes it `depth` containers deep."""
    return ('{"a":' + opening * (depth - 1) + closing * (depth - 1) + "}").encode()


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "not valid JSON"),
        (b" ", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b'{"a":1', "not valid JSON"),
        (b'{"a":1}}', "not valid JSON"),
        (b'{"a":1}{"a":2}', "not valid JSON"),
        (b'{"a":1,}', "not valid JSON"),
        (b"{'a':1}", "not valid JSON"),
        (b"{a:1}", "not valid JSON"),
        (b'{"a":01}', "not valid JSON"),
        (b'{"a":+1}', "not valid JSON"),
        (b'{"a":.5}', "not valid JSON"),
        (b'{"a":1.}', "not valid JSON"),
        (b'{"a":0x10}', "not valid JSON"),
        (b'{"a":NaN}', "not valid JSON"),
        (b'{"a":[Infinity]}', "not valid JSON"),
        (b'{"a":-Infinity}', "not valid JSON"),
        (b'{"a":True}', "not valid JSON"),
        (b'{"a":"\x01"}', "not valid JSON"),
        (b'{"a":"tab\there"}', "not valid JSON"),
        (b'{"a":"\\q"}', "not valid JSON"),
        (b'{"a":"\\u00g0"}', "not valid JSON"),
        (b'{"a":"\\ud800"}', "not valid JSON"),
        (b'{"a":["\\udc00 low alone"]}', "not valid JSON"),
        (b'{"a":"\\ud800\\u0041"}', "not valid JSON"),
        (b'{"\\ud83d key":1}', "not valid JSON"),
        (b'{"a":1}\x00', "not valid JSON"),
        (b'{"a":1 /* no */}', "not valid JSON"),
        (b'\xef\xbb\xbf{"a":1}', "not valid JSON"),
        ('{"a":1}'.encode("utf-16-le"), "not valid JSON"),
        (b'{"a":"\xff"}', "not UTF-8"),
        (b'{"\xff":1}', "not UTF-8"),
        (b'{"a":"\xed\xa0\x80"}', "not UTF-8"),
        (b'{"a":"\xc0\xaf"}', "not UTF-8"),
        ('{"a":"ש'.encode()[:-1], "not UTF-8"),
        (b"[]", "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b'"a"', "must be a JSON object"),
        (b"7", "must be a JSON object"),
        (nested(DEPTH_MAX + 1), "nested"),
        (nested(DEPTH_MAX + 1, '{"a":', "}").replace(b":}", b":1}"), "nested"),
        (nested(100_000), "nested"),
        (b'{"a":' + b"[" * 100_000, "nested"),
        (b'{"a":[' + b"[]," * CONTAINERS_MAX + b"1]}", "objects and arrays"),
    ],
)
def test_what_is_no_strict_json_object_is_refused(body: bytes, says: str) -> None:
    """One reading only: whatever parsers may read differently is a 400 that says why."""
    with pytest.raises(RouterError) as caught:
        read_fields(body)
    assert caught.value.kind is MALFORMED_JSON
    assert says in caught.value.message


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (b"{}", {}),
        (b' \n{ "a" :\t1 } ', {"a": b"1"}),
        (b'{"a":1,"a":2}', {"a": b"2"}),
        (b'{"a":1,"\\u0061":2}', {"a": b"2"}),
        (b'{"":1,"\\u0000":2}', {"": b"1", "\x00": b"2"}),
        (b'{"a":"\\ud83d\\ude42"}', {"a": b'"\\ud83d\\ude42"'}),
        ('{"שלום":"🙂\u2028"}'.encode(), {"שלום": '"🙂\u2028"'.encode()}),
        (b'{"a":1e400}', {"a": b"1e400"}),
    ],
)
def test_the_top_level_is_read_and_values_stay_raw(body: bytes, fields: dict[str, bytes]) -> None:
    """The last of equal keys counts, as in the engines; escapes in keys are read, values are not touched."""
    assert {name: bytes(raw) for name, raw in read_fields(body).items()} == fields


def test_depth_counts_containers_alone() -> None:
    """64 levels pass, and brackets within strings are text, whatever quotes surround them."""
    read_fields(nested(DEPTH_MAX))
    for word in ("[" * 200, '\\"[' * 200, "\\\\", "]" * 200, '\\\\\\"' + "{" * 99, ""):
        read_fields(('{"' + word + '":["' + word + '",{"x":"' + word + '"}]}').encode())


@pytest.mark.parametrize("word", ['"]"', '"}"', '"\\"]"', '"\\\\"', '"]\\\\"'])
def test_strings_do_not_hide_depth(word: str) -> None:
    """Closing brackets in strings close nothing."""
    body = '{"a":' + f"[{word}," * DEPTH_MAX + "1" + "]" * DEPTH_MAX + "}"
    json.loads(body)
    with pytest.raises(RouterError, match="nested"):
        read_fields(body.encode())


def real_depth(value: object) -> int:
    held = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if held is None else 1 + max(map(real_depth, held), default=0)


LEAVES = st.sampled_from(["", "[", "]]", "{", '"', "\\", '\\"[', "}\\", "ש"]) | st.integers() | st.none()
TREES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from('[]{}"\\'), inner, max_size=3)
    ),
    max_leaves=30,
)


@given(TREES, st.integers(0, 70), st.booleans())
def test_depth_is_the_real_depth(tree: object, wrapping: int, ascii_only: bool) -> None:
    """Whatever stands in the strings, a body is refused exactly when it is deeper than 64."""
    value: dict[str, object] = {"a": tree, "pad": [[]] * 70}
    for _ in range(wrapping):
        value = {"w": value}
    body = json.dumps(value, ensure_ascii=ascii_only).encode()
    if real_depth(value) <= DEPTH_MAX:
        assert len(read_fields(body)) == len(value)
    else:
        with pytest.raises(RouterError):
            read_fields(body)


@pytest.mark.parametrize("filling", [b"[],", b"[[[]]],", b'"[",[],', b'"",', b'"\\\\\\"]",'])
def test_hostile_bodies_do_not_stop_the_loop(filling: bytes) -> None:
    """Eight MiB of brackets and quotes are judged in a fraction of a second."""
    body = b'{"a":[' + filling * (8_000_000 // len(filling)) + b"1]}"
    began = time.process_time()
    with suppress(RouterError):
        read_fields(body)
    assert time.process_time() - began < 1.5


def test_a_large_body_is_judged_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many containers, strings or fields end the work before what they hold is made into objects."""
    made: list[str] = []
    monkeypatch.setattr(base, "_counted", lambda body: made.append("decoded"))
    hostile = {
        b"[],": (2_000_000, "100,000 objects"),
        b'"[",': (2_000_000, "500,000 strings"),
        b'["["],': (100_000, "strings with brackets"),
    }
    for filling, (times, says) in hostile.items():
        with pytest.raises(RouterError, match=says):
            read_fields(b'{"a":[' + filling * times + b"1]}")
    assert made == []


@pytest.mark.parametrize("same", [False, True], ids=["each its own", "all the same"])
def test_a_large_body_has_few_fields(same: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The decoder stops at the first field too many, also where all have one name."""
    names: list[str] = []

    class Name(base._Name):
        def __new__(cls, told: str) -> "Name":
            names.append(told)
            return super().__new__(cls, told)

    body = b"{" + b",".join(b'"f%d":"%080d"' % (0 if same else n, n) for n in range(50_000)) + b"}"
    monkeypatch.setattr(base, "_Name", Name)
    with pytest.raises(RouterError, match="more than 1,000 fields"):
        read_fields(body)
    assert len(names) == FIELDS_MAX


def test_a_chat_has_so_many_messages() -> None:
    """One too many is refused by name on each surface; what is no list is left to them."""
    turn = b'{"role":"user","content":"a"}'
    read_fields(b'{"messages":[' + b",".join([turn] * MESSAGES_MAX) + b"]}")
    read_fields(b'{"input":[' + b",".join([turn] * (MESSAGES_MAX + 1)) + b"]}")
    read_fields(b'{"messages":"' + b"{" * 90_000 + b'"}')
    bodies = b'{"messages":[' + b",".join([turn] * (MESSAGES_MAX + 1)) + b"]}"
    assert "10,000" in wrong(lambda: read_fields(bodies), "messages")


def test_a_large_body_is_read_as_a_small_one_is() -> None:
    """The same fields with plain names, so that they can be written again."""
    found = read_fields(b'{"a":1,"\\u0062":[{}],"a":"%b"}' % (b"x" * 100_000))
    assert {name: bytes(raw)[:3] for name, raw in found.items()} == {"a": b'"xx', "b": b"[{}"}
    assert {type(name) for name in found} == {str}
    assert msgspec.json.encode(found).startswith(b'{"a":"xx')
    many = b",".join(b'"f%d":"%0100d"' % (n, n) for n in range(FIELDS_MAX))
    assert len(read_fields(b"{" + many + b"}")) == FIELDS_MAX


def fields(**values: str) -> dict[str, msgspec.Raw]:
    return {name: msgspec.Raw(value.encode()) for name, value in values.items()}


def wrong(read: Callable[[], object], name: str = "x") -> str:
    with pytest.raises(RouterError) as caught:
        read()
    assert caught.value.kind is INVALID_PARAMETER
    assert caught.value.param == name
    assert f"`{name}`" in caught.value.message
    return caught.value.message


def test_text() -> None:
    """A string, or none where the field is absent or null."""
    assert text(fields(x='"\\u05e9"'), "x") == "ש"
    assert text(fields(x="null"), "x") is None
    assert text({}, "x") is None
    assert "3 characters" in wrong(lambda: text(fields(x='"abcd"'), "x", longest=3))


@pytest.mark.parametrize("bad", ["1", "true", "[]", "{}", '["a"]'])
def test_text_is_a_string(bad: str) -> None:
    """Nothing else is taken for one."""
    wrong(lambda: text(fields(x=bad), "x"))


def test_model_names_are_short() -> None:
    """256 characters of any script are a name, 257 are not."""
    assert model_name(fields(model='"' + "ש" * 256 + '"')) == "ש" * 256
    wrong(lambda: model_name(fields(model='"' + "ש" * 257 + '"')), "model")
    wrong(lambda: model_name(fields(model='["gemma"]')), "model")


@pytest.mark.parametrize("bad", ["1", "0", '"true"', '"yes"', "[]", "{}", "1.0", '""'])
def test_flags_are_booleans(bad: str) -> None:
    """What an engine might take for true is refused, so that both read it alike."""
    assert flag(fields(x="true"), "x") is True
    assert flag(fields(x="false"), "x") is flag(fields(x="null"), "x") is flag({}, "x") is False
    wrong(lambda: flag(fields(x=bad), "x"))


@pytest.mark.parametrize(
    ("value", "expected"), [("0", 0.0), ("2", 2.0), ("0.7", 0.7), ("7e-1", 0.7), ("-0", 0.0), ("null", 0.5)]
)
def test_numbers_in_range(value: str, expected: float) -> None:
    """Bounds included; the default for null."""
    assert number(fields(x=value), "x", 0, 2, 0.5) == expected
    assert number({}, "x", 0, 2, 0.5) == 0.5


@pytest.mark.parametrize(
    "bad", ["true", "false", '"1"', "[]", "{}", "-0.1", "2.0001", "1e400", "-1e400", "9" * 400, '"NaN"']
)
def test_numbers_that_are_none(bad: str) -> None:
    """Booleans, texts, infinities and values out of range are refused, and the range is said."""
    assert "from 0 to 2" in wrong(lambda: number(fields(x=bad), "x", 0, 2, 0.5))


@pytest.mark.parametrize("bad", ["1.5", "1.0", "1e0", "true", '"1"', "17", "-1", "9" * 30])
def test_counts_are_small_whole_numbers(bad: str) -> None:
    """`n` and `best_of` are whole and at most 16, in one spelling."""
    for good in ("0", "1", "16", "null"):
        check_count(fields(x=good), "x", 16)
    check_count({}, "x", 16)
    wrong(lambda: check_count(fields(x=bad), "x", 16))


@pytest.mark.parametrize(
    ("value", "passes"),
    [
        ("18446744073709551615", True),
        ("18446744073709551616", False),
        ("-9223372036854775808", True),
        ("-9223372036854775809", False),
        ("9" * 399, False),
        ("9" * 400, False),
        ("9" * 5000, False),
        ("-" + "9" * 5000, False),
        ("1e308", True),
        ("1e309", False),
        ("-1e400", False),
        ("1e-400", True),
        ("0." + "1" * 500, True),
        ('"99999999999999999999999"', True),
        ("[99999999999999999999999]", True),
        ("null", True),
    ],
)
def test_top_level_numbers_fit(value: str, passes: bool) -> None:
    """Integers fit into 64 bits and the rest into doubles, however long they are written."""
    if passes:
        check_numbers(fields(x=value))
    else:
        wrong(lambda: check_numbers(fields(x=value)))


def test_each_error_carries_its_row_of_the_table() -> None:
    """Code, owner, retryability and request id, for machines."""
    assert error_object(RouterError(MALFORMED_JSON), "r-1") == {
        "code": "malformed_json",
        "owner": "client",
        "retryable": False,
        "request_id": "r-1",
    }
