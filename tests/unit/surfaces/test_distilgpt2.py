"""Seed 000's three ways to ask for a text: its defaults, its README's bounds, its answers."""

import json
from typing import Any

import pytest

from pointsman import errors
from pointsman.apis import wish_of, writer_of
from pointsman.apis.base import Reply
from pointsman.call import Api, Call, Operation
from pointsman.errors import ALL_KINDS, ErrorKind, RouterError
from pointsman.generation import Delta, Finish, Message, Tokens, Wish
from pointsman.sse import data
from pointsman.surfaces.base import read_fields
from pointsman.surfaces.distilgpt2 import DistilGpt2

SURFACE = DistilGpt2()
GENERATE, COMPLETE, CHAT = Operation.GENERATE, Operation.COMPLETION, Operation.CHAT
HELLO = [{"role": "user", "content": "Hi"}]
ASK: dict[Operation, dict[str, object]] = {
    GENERATE: {"prompt": "Hi"},
    COMPLETE: {"prompt": "Hi"},
    CHAT: {"messages": HELLO},
}


def decode(operation: Operation, **body: object) -> Call:
    raw = json.dumps(body).encode()
    return SURFACE.decode(operation, read_fields(raw), raw, stream=False)


def wish(operation: Operation, **more: object) -> Wish:
    return wish_of(decode(operation, **{**ASK[operation], **more}))


def said(operation: Operation, text: str, **more: object) -> dict[str, Any]:
    """The body of a whole answer."""
    call = decode(operation, **{**ASK[operation], **more})
    writer = writer_of(call, Reply("id", "m", "m", 0, lambda: 1.25))
    found: dict[str, Any] = json.loads(writer.whole(Delta(text, finish=Finish.LENGTH), Tokens(2, 3)))
    return found


def test_defaults_are_those_of_the_seeds_code() -> None:
    """Its length, 0.7, 0.9, and of a text penalty 1.2 and what `transformers` takes for top_k."""
    own = ((GENERATE, 100, 50, 1.2), (COMPLETE, 100, 50, 1.2), (CHAT, 150, None, None))
    for operation, length, top_k, penalty in own:
        found = wish(operation)
        assert (found.max_new, found.top_k, found.repetition_penalty) == (length, top_k, penalty)
        assert (found.sampling, found.temperature, found.top_p) == (True, 0.7, 0.9)
        assert (found.clamps, found.ignored) == (True, ())
        assert (found.first_tokens, found.reserve) == ((512, None) if operation is not CHAT else (None, 150))
        assert found.text_penalty == (1.2 if operation is CHAT else None)
        call = decode(operation, **ASK[operation])
        assert (call.api, call.operation, call.model, call.stream) == (Api.PLAIN, operation, None, False)


@pytest.mark.parametrize("operation", ASK)
@pytest.mark.parametrize(
    ("name", "low", "high", "beyond"),
    [
        ("max_length", 1, 1024, [0, -5, 1025, 1.5]),
        ("max_tokens", 1, 1024, [0, -5, 1025, 1.5]),
        ("temperature", 0.1, 2.0, [0, -1, 0.09, 2.1, 99]),
        ("top_p", 0.1, 1.0, [0, 0.09, 1.1]),
        ("repetition_penalty", 0.1, 2.0, [0, 0.09, 2.1]),
        ("top_k", 0, 1000, [-1, 1001, 1.5]),
    ],
)
def test_the_readmes_bounds(
    operation: Operation, name: str, low: float, high: float, beyond: list[float]
) -> None:
    """Both bounds are taken and null is as if it were not there; beyond them it is 422 with the name."""
    for value in (low, high, None):
        wish(operation, **{name: value})
    for bad in (*beyond, "1", True, [1]):
        with pytest.raises(RouterError) as caught:
            wish(operation, **{name: bad})
        assert caught.value.message.startswith(f"`{name}` must be a")
        assert SURFACE.error(caught.value, "id")[0] == 422


@pytest.mark.parametrize("operation", ASK)
def test_both_names_of_the_length_count(operation: Operation) -> None:
    """The gateway sends `max_length` to `/complete`; a null names nothing, and of two `max_tokens` counts."""
    assert wish(operation, max_length=50).max_new == 50
    assert wish(operation, max_tokens=60).max_new == 60
    assert wish(operation, max_tokens=None, max_length=50).max_new == 50
    assert wish(operation, max_tokens=60, max_length=50).max_new == 60


def test_what_steers_sampling() -> None:
    """`do_sample` false is greedy, a `top_p` of 1 and a `top_k` of 0 are none."""
    assert wish(GENERATE, do_sample=False).sampling is False
    assert wish(GENERATE, do_sample=None).sampling is True
    assert wish(GENERATE, top_p=1).top_p is None
    assert wish(GENERATE, top_k=0).top_k is None


def test_fields_without_a_counterpart() -> None:
    """What the engines do not know is named; several answers are refused; strangers' fields are named too."""
    found = wish(GENERATE, no_repeat_ngram_size=2, pad_token_id=1, user_id="u", other=1)
    assert found.ignored == ("no_repeat_ngram_size", "pad_token_id", "user_id", "other")
    found = wish(GENERATE, no_repeat_ngram_size=0, pad_token_id=50256, num_return_sequences=1, user_id=None)
    assert found.ignored == ()
    with pytest.raises(RouterError, match="num_return_sequences"):
        wish(GENERATE, num_return_sequences=2)


@pytest.mark.parametrize("operation", [GENERATE, COMPLETE])
@pytest.mark.parametrize("prompt", ["", "  \n", None, 5, ["a"], {}])
def test_a_prompt_is_a_text(operation: Operation, prompt: object) -> None:
    """Anything else names `prompt`."""
    with pytest.raises(RouterError, match="`prompt` must be a string") as caught:
        wish(operation, prompt=prompt)
    assert caught.value.param == "prompt"


@pytest.mark.parametrize(
    "messages",
    [
        *(None, "hi", [], {}, [None], ["hi"], [{"role": "user"}], [{"content": "x"}]),
        *([{"role": "user", "content": None}], [{"role": "tool", "content": "x"}]),
    ],
)
def test_messages_are_roles_and_texts(messages: object) -> None:
    """Anything else names `messages`."""
    with pytest.raises(RouterError, match="`messages` must") as caught:
        wish(CHAT, messages=messages)
    assert caught.value.param == "messages"


def test_roles_the_seed_did_not_know_are_left_out() -> None:
    """As in the seed; what is said keeps every blank."""
    messages = [{"role": "tool", "content": "x"}, {"role": "user", "content": " a\n\n  b "}]
    assert wish(CHAT, messages=messages).messages == (Message("user", " a\n\n  b "),)


def test_generate_includes_the_prompt() -> None:
    """Byte for byte, and tells time, tokens and model."""
    found = said(GENERATE, " a\n\n  b ", prompt=" x ")
    assert (found["generated_text"], found["prompt"]) == (" x  a\n\n  b ", " x ")
    assert found["metadata"] == {
        "generation_time": 1.25,
        "tokens_generated": 3,
        "model": "m",
        "finish_reason": "length",
    }


def test_complete_strips_as_the_seed_did() -> None:
    """The engine gets the prompt stripped, the client gets it back as it was."""
    assert wish(COMPLETE, prompt=" x ").prompt == "x"
    assert said(COMPLETE, " a\n\n  b ", prompt=" x ") == {
        "prompt": " x ",
        "completion": "a\n\n  b",
        "raw_response": "x a\n\n  b ",
    }


def test_a_completion_of_blanks_is_not_empty() -> None:
    """The gateway would take an empty one for a failure."""
    assert said(COMPLETE, " \n")["completion"] == " \n"


def test_chat_answers_with_content_alone() -> None:
    """No `choices`."""
    assert said(CHAT, " שלום 🚂\n") == {"content": "שלום 🚂", "role": "assistant"}


@pytest.mark.parametrize("kind", ALL_KINDS, ids=lambda kind: kind.code)
def test_errors_carry_a_string_in_detail(kind: ErrorKind) -> None:
    """And in streams one in `error` too; bad fields and bad JSON are a 422."""
    status, body = SURFACE.error(RouterError(kind), "id")
    told = json.loads(body)
    assert (told["detail"], told["code"], told["request_id"]) == (kind.message, kind.code, "id")
    clients = {errors.INVALID_PARAMETER, errors.MALFORMED_JSON, errors.UNSUPPORTED, errors.ENGINE_REJECTED}
    assert status == (422 if kind in clients else kind.status)
    framed = json.loads(data(SURFACE.error_frame(RouterError(kind), "id")))
    assert (framed["error"], framed["detail"]) == (kind.message, kind.message)
