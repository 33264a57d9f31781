"""A conversation as a text to be continued, for models that have no chat template.

Lines of `System:`, `User:` and `Assistant:`, as seed 000 writes them (`contracts/seeds.md` 2.1). What a
speaker says can begin no line with such a label, so that nobody speaks for another.
"""

import re

from msgspec import structs

from pointsman.generation import Message, Wish

_LABELS = {"system": "System:", "user": "User:", "assistant": "Assistant:"}
# Where a reader could see a new line begin; TGI and vLLM pass them all on.
_LABEL = re.compile(
    r"(^|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029])([^\S\n]*)(system|user|assistant)(?=[^\S\n]*[:：])",
    re.IGNORECASE,
)
STOPS = ("\nUser:", "\nSystem:", "\nAssistant:")


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
