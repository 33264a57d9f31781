"""Conversations for models that do not take them as they are.

For templates in which user and assistant must alternate: `alternating`. For models that have no chat
template, a text to be continued: lines of `System:`, `User:` and `Assistant:`, as seed 000 writes them
(`contracts/seeds.md` 2.1). What a speaker says can begin no line with such a label, so that nobody speaks for
another.
"""

import re
from itertools import groupby

from msgspec import structs

from pointsman.generation import Message, Wish

_LABELS = {"system": "System:", "user": "User:", "assistant": "Assistant:"}
# Where a reader could see a new line begin; TGI and vLLM pass them all on.
_LABEL = re.compile(
    r"(^|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029])([^\S\n]*)(system|user|assistant)(?=[^\S\n]*[:：])",
    re.IGNORECASE,
)
STOPS = ("\nUser:", "\nSystem:", "\nAssistant:")


def alternating(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The same conversation with user and assistant in turns, the user first; each text stays as it is.

    What one says in several messages becomes one, with a blank line between them. A system message that is
    not at the beginning is said by the user. An assistant that speaks first answers an empty message.
    """
    opening = next((place for place, turn in enumerate(messages) if turn.role != "system"), 0)
    roles = [
        "user" if turn.role == "system" and place > opening else turn.role
        for place, turn in enumerate(messages)
    ]
    told = groupby(zip(roles, messages, strict=True), key=lambda pair: pair[0])
    turns = [Message(role, "\n\n".join([turn.content for _, turn in said])) for role, said in told]
    first = 1 if turns and turns[0].role == "system" else 0
    if len(turns) > first and turns[first].role == "assistant":
        turns.insert(first, Message("user", ""))
    return tuple(turns)


def as_text(wish: Wish) -> Wish:
    """The same wish with its messages as one prompt.

    The answer is what the model says before it would speak for another; the client's own stop sequences come
    first.
    """
    stops = (*wish.stop, *[stop for stop in STOPS if stop not in wish.stop])
    penalty = wish.repetition_penalty
    return structs.replace(
        wish,
        prompt=render(wish.messages),
        messages=(),
        stop=stops,
        bare=True,
        repetition_penalty=wish.text_penalty if penalty is None else penalty,
    )


def render(messages: tuple[Message, ...]) -> str:
    """One line, or more, for each message, and the label of the answer."""
    lines = [f"{_LABELS[turn.role]} {defused(turn.content)}" for turn in messages]
    return "\n".join([*lines, "Assistant:"])


def defused(content: str) -> str:
    """The content with each label at the start of a line led by a mark, so that it is none."""
    return _LABEL.sub(r"\1\2> \3", content)
