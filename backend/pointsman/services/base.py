"""What the services have in common: one question to a chat model, one JSON object for an answer.

The engine is held to a JSON schema. What it says all the same is read with patience; what is not of the form
goes back to the model once, with the fault named; after that it is a 502.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from pointsman.apis.fields import Table, sort_out
from pointsman.call import Api, Call, Fields, Operation
from pointsman.generation import Message, Misfit, Said, Shape, Wish
from pointsman.keys import Need
from pointsman.language import Language
from pointsman.surfaces.base import invalid, model_name, text
from pointsman.surfaces.plg import DEFAULTS, Plg, PlgConfig, PlgErrors

_RESERVE = 256  # tokens: with less room no answer of any use is likely
_TRIES = 100  # places where JSON may begin
_OPENING = re.compile(r"[\[{]")
_THOUGHTS = re.compile(r"^\s*<think>.*?(?:</think>|$)", re.DOTALL)
_NOTHING = frozenset({"", "none", "null", "n/a", "unspecified", "unknown", "-", "אין", "לא צוין", "לא ידוע"})
_decoder = json.JSONDecoder()
REPAIRS = {
    Language.HEBREW: "התשובה אינה בצורה שביקשתי: {fault}. כתוב אותה שוב, JSON בלבד ובלי שום מילה מסביב.",
    Language.ENGLISH: (
        "That answer is not of the form I asked for: {fault}. Write it again, as JSON alone, "
        "without a word around it."
    ),
}


@dataclass(frozen=True, slots=True)
class Question:
    """What a model is asked. `schema` is what its answer is held to."""

    instructions: str
    content: str
    schema: dict[str, Any]
    max_new: int


class Service(PlgErrors):
    """A route of one service. Its calls that name no model go where the chat's do."""

    name = Plg.name
    prefers_chat = True
    need = Need.NEVER

    def __init__(self, config: PlgConfig = DEFAULTS) -> None:
        self.config = config

    def ask(
        self, fields: Fields, table: Table, question: Question, shape: Shape, otherwise: bytes | None = None
    ) -> Call:
        """The call that asks a question, with the likeliest answer to it. `table` has the fields it takes."""
        wish = Wish(
            messages=(Message("system", question.instructions), Message("user", question.content)),
            max_new=question.max_new,
            sampling=False,
            grammar=msgspec.Raw(msgspec.json.encode(question.schema)),
            clamps=True,
            keeps_turns=True,
            reserve=min(_RESERVE, question.max_new),
            window=self.config.max_context_tokens,
            ignored=sort_out(fields, table),
        )
        return Call(
            Api.PLAIN, Operation.CHAT, model_name(fields), wish=wish, shape=shape, otherwise=otherwise
        )


def content_of(fields: Fields, name: str) -> str:
    """A text of the body, as it was sent.

    Raises:
        RouterError: INVALID_PARAMETER, where there is none.
    """
    content = text(fields, name)
    if content is None or not content.strip():
        raise invalid(name, "be a string that is not blank")
    return content


def misfit(fault: str, said: Said, language: Language) -> Misfit:
    """Say that an answer is not of the form; the fault is a constant, in English."""
    return Misfit(fault, said, REPAIRS[language].format(fault=fault))


def spoken(said: str) -> str:
    """A text without the thoughts that lead to it."""
    return _THOUGHTS.sub("", said)


def readings(said: str) -> Iterator[object]:
    """What may be meant as JSON in a text: all of it, else what it holds, in fences or among words."""
    said, at = spoken(said), 0
    for _ in range(_TRIES):
        opening = _OPENING.search(said, at)
        if opening is None:
            return
        try:
            found, at = _decoder.raw_decode(said, opening.start())
        except (ValueError, RecursionError):
            at = opening.end()
        else:
            yield found


def schema_of(**fields: dict[str, Any]) -> dict[str, Any]:
    """The schema of an object that has exactly these fields."""
    return {
        "type": "object",
        "properties": fields,
        "required": list(fields),
        "additionalProperties": False,
    }


def or_null(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a value that may be missing."""
    return {"anyOf": [schema, {"type": "null"}]}


def told(value: object) -> str | None:
    """A field of an answer; None where it holds no text, or a word for nothing."""
    if not isinstance(value, str):
        return None
    clean = value.encode("utf-8", "replace").decode().strip()
    return None if clean.lower().strip(".") in _NOTHING else clean
