"""What is wanted of an engine and what it says, in words that every API and every engine shares."""

from collections.abc import Callable
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
    """A piece of an answer: its text, the tokens it is made of where they were asked for, and the end.

    `last`: the engine says nothing more.
    """

    text: str = ""
    tokens: list[Token] = []
    finish: Finish | None = None
    last: bool = False


class Message(msgspec.Struct, frozen=True):
    """One turn of a conversation. `role` is system, user or assistant."""

    role: str
    content: str


class Wish(msgspec.Struct, frozen=True):
    """A text to be continued or a conversation to be answered, and how. None: the engine's own default.

    Either `prompt` or `messages` is given. `max_new` None: as much as fits. `grammar` is a JSON schema, or a
    regular expression where `grammar_is_regex`.

    A conversation with a `reserve` loses its oldest turns until so many tokens are left for the answer; where
    it `keeps_turns` it must fit as it is.
    """

    prompt: str = ""
    messages: tuple[Message, ...] = ()
    max_new: int | None = None
    length_name: str = "max_new_tokens"  # what the client calls `max_new`
    sampling: bool = True  # else the likeliest token each time
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    text_penalty: float | None = (
        None  # the same where a conversation is continued as a text and asks for none
    )
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    keeps_stop: bool = False  # a stop sequence stays in the text
    bare: bool = False  # white space before the text is no part of it
    first_tokens: int | None = None  # of the prompt; those behind are cut off
    last_tokens: int | None = None  # of the prompt; those before are cut off
    clamps: bool = False  # a `max_new` beyond the context is lowered; else, as TGI has it, to 1024 at least
    grammar: msgspec.Raw | None = None
    grammar_is_regex: bool = False
    tells_tokens: bool = False
    reserve: int | None = None  # tokens
    window: int | None = None  # tokens of conversation and answer, where it is less than the engine takes
    keeps_turns: bool = False
    dropped: int = 0  # messages that were left out
    redacts: bool = False  # personal data in the answer is replaced
    ignored: tuple[str, ...] = ()  # what the client asked for and this wish cannot say


class Tokens(msgspec.Struct):
    """Token counts that an engine told; 0: not told."""

    prompt: int = 0
    completion: int = 0


class Said(msgspec.Struct, frozen=True):
    """A whole answer. `seconds` is how long it took."""

    text: str
    finish: Finish
    tokens: Tokens
    model_id: str
    seconds: float


class Misfit(Exception):
    """An answer that is not of the form that was asked for.

    Args:
        fault: for the log; nothing of what was said.
        told: what the model is told, so that it says it anew; empty: it is asked again as before.
    """

    def __init__(self, fault: str, said: Said, told: str = "") -> None:
        super().__init__(fault)
        self.fault = fault
        self.said = said
        self.told = told


# How an API without an engine of its own says an answer, as JSON's values; it may raise Misfit. The answer to
# a stream is an object.
Shape = Callable[[Said], object]
