"""What is wanted of an engine and what it says, in words that every API and every engine shares."""

from enum import Enum

import msgspec


class Finish(Enum):
    """Why a text ended."""

    END = "the model ended it"
    LENGTH = "as many tokens as were allowed"
    STOP = "a stop sequence came"


class Token(msgspec.Struct):
    """One token that an engine made. `special`: it is no part of the text."""

    id: int
    text: str
    logprob: float
    special: bool = False


class Delta(msgspec.Struct):
    """A piece of an answer: its text, the tokens it is made of where the engine tells, and the end."""

    text: str
    tokens: list[Token] = []
    finish: Finish | None = None


class Wish(msgspec.Struct, frozen=True):
    """A text to be continued, and how. None: the engine's own default.

    `max_new` None: as much as fits. `grammar` is a JSON schema, or a regular expression where
    `grammar_is_regex`. `ignored` names what the client asked for and this wish cannot say.
    """

    prompt: str
    max_new: int | None = None
    sampling: bool = True  # else the likeliest token each time
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    last_tokens: int | None = None  # of the prompt; those before are cut off
    grammar: msgspec.Raw | None = None
    grammar_is_regex: bool = False
    tells_tokens: bool = False
    ignored: tuple[str, ...] = ()


class Tokens(msgspec.Struct):
    """Token counts that an engine told; 0: not told."""

    prompt: int = 0
    completion: int = 0
