"""Which calls an engine answers alike each time, by the semantics of both engines."""

import json
from typing import Any

import pytest

from pointsman.apis import GENERATIONS, repeatable
from pointsman.call import Api, Call, Operation
from pointsman.generation import Wish
from pointsman.surfaces.base import read_fields


def openai(**fields: Any) -> Call:
    return Call(Api.OPENAI, Operation.CHAT, None, fields=read_fields(json.dumps(fields).encode()))


def tgi(**fields: Any) -> Call:
    return Call(Api.TGI, Operation.GENERATE, None, fields=read_fields(json.dumps(fields).encode()))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, False),
        ({"temperature": None}, False),
        ({"temperature": 0}, True),
        ({"temperature": 0.0, "n": 2}, True),
        ({"temperature": 1e-7}, False),
        ({"temperature": 1, "seed": 7}, True),
        ({"seed": 0, "n": 4}, True),
        ({"seed": -1}, False),
        ({"seed": None, "top_k": 1}, False),
        ({"temperature": "0"}, False),
        ({"temperature": False}, False),
        ({"seed": True}, False),
        ({"seed": 1.5}, False),
    ],
)
def test_of_openais_calls_those_without_dice(fields: dict[str, Any], expected: bool) -> None:
    """Temperature 0 or a seed, and nothing less: by default engines sample, and -1 is no seed."""
    assert repeatable(openai(messages=[], **fields)) is expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, False),
        ({"parameters": None}, False),
        ({"parameters": {}}, True),
        ({"parameters": {"max_new_tokens": 3, "do_sample": False}}, True),
        ({"parameters": {"do_sample": True}}, False),
        ({"parameters": {"temperature": 0.5}}, False),
        ({"parameters": {"temperature": 0}}, True),
        ({"parameters": {"top_p": 0.9}}, False),
        ({"parameters": {"top_k": 5, "seed": 1}}, True),
        ({"parameters": {"do_sample": True, "seed": 0}}, True),
        ({"parameters": {"typical_p": 0.5}}, False),
        ({"parameters": {"seed": "1"}}, False),
        ({"parameters": [1]}, False),
    ],
)
def test_of_tgis_calls_those_without_dice(fields: dict[str, Any], expected: bool) -> None:
    """Without parameters it samples; with them where they say so, or where one that samples is given."""
    assert repeatable(tgi(inputs="Hi", **fields)) is expected


def test_of_other_calls_those_whose_wish_does_not_sample() -> None:
    """The wish says it, or its seed."""
    told = [
        repeatable(Call(Api.PLAIN, Operation.CHAT, None, wish=wish))
        for wish in (Wish(sampling=False), Wish(sampling=True), Wish(sampling=True, seed=3))
    ]
    assert told == [True, False, True]


def test_only_generations_are_given_again() -> None:
    """Embeddings, counts and facts are not."""
    assert set(Operation) - GENERATIONS == {
        *(Operation.EMBEDDING, Operation.TOKENIZE, Operation.CHAT_TOKENIZE, Operation.INFO),
    }
