"""`/v1/chat/completions` for a conversation to be answered, as both engines take it.

Sources: `contracts/vllm.md` 2.1, 3 and 4, `contracts/tgi.md` 4.2 and 5.
"""

import msgspec

from pointsman.call import Fields, Operation
from pointsman.engines.choices import Answer, ChoicesSource
from pointsman.generation import Delta, Finish, Message, Wish

_SAME_NAME = ("temperature", "top_p", "frequency_penalty", "presence_penalty", "seed")
_BEYOND = ("top_k", "min_p", "repetition_penalty")  # of OpenAI's own fields


class _Says(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Says | None = None
    message: _Says | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None


def fields(wish: Wish, *, stream: bool) -> Fields:
    """A wish that has messages in OpenAI's words, and vLLM's where those have none."""
    asked: dict[str, object] = {
        "messages": turns(wish.messages),
        "stream": stream,
    }
    if not wish.sampling:
        asked["temperature"] = 0
    for name in (*_SAME_NAME, *_BEYOND):
        value = getattr(wish, name)
        if value is not None and name not in asked and (name, value) != ("repetition_penalty", 1):
            asked[name] = value
    if wish.max_new is not None:
        asked["max_tokens"] = wish.max_new
    if wish.stop:
        asked["stop"] = wish.stop
    if wish.grammar is not None and wish.grammar_is_regex:
        asked["structured_outputs"] = {"regex": wish.grammar}
    elif wish.grammar is not None:  # in the way that engines of any age know
        schema = {"name": "answer", "schema": wish.grammar}
        asked["response_format"] = {"type": "json_schema", "json_schema": schema}
    if stream:
        asked["stream_options"] = {"include_usage": True}
    return {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in asked.items()}


def turns(messages: tuple[Message, ...]) -> list[dict[str, str]]:
    """Messages as OpenAI writes them."""
    return [{"role": turn.role, "content": turn.content} for turn in messages]


class ChatSource(ChoicesSource[_Choice]):
    """Reads chat completions."""

    operation = Operation.CHAT
    answers = msgspec.json.Decoder(Answer[_Choice])

    def delta(self, choice: _Choice) -> Delta:
        says = choice.delta or choice.message or _Says()
        return Delta(says.content or "", finish=_finish(choice))


def _finish(choice: _Choice) -> Finish | None:
    match choice.finish_reason:
        case None | "":
            return None
        case "length":
            return Finish.LENGTH
        case "stop_sequence":
            return Finish.STOP
        case _:
            return Finish.STOP if isinstance(choice.stop_reason, str) else Finish.END
