"""Seed 000's API: `/generate` with `prompt` alone, `/complete`, `/chat/completions` (`contracts/seeds.md` 2).

Its bounds are those of the seed's README; its defaults are those of the seed's code, which clients have had.
A prompt counts up to its 512th token, as in the seed. Errors carry a string in `detail`.
"""

import msgspec

from pointsman.apis.fields import Table, ignored, refused, sort_out, translated
from pointsman.call import Api, Call, Fields, Operation
from pointsman.errors import RouterError
from pointsman.generation import Finish, Message, Said, Shape, Wish
from pointsman.keys import Need
from pointsman.surfaces.backend_api import detail_body, detail_frame, detail_status
from pointsman.surfaces.base import flag, invalid, model_name, number, text

_PROMPT_TOKENS = 512
_PENALTY = (
    1.2  # the seed's own; it keeps DistilGPT-2 from repeating itself, and would spoil a model made for chat
)
_TOP_K = 50  # what `transformers` takes where nothing is said; seed 001 documents it
_ROLES = ("system", "user", "assistant")
FIELDS: Table = {
    "do_sample": translated(),
    "max_length": translated("as new tokens"),
    "max_tokens": translated("and counts where both are given"),
    "messages": translated("of `/chat/completions`"),
    "model": translated(),
    "no_repeat_ngram_size": ignored("", b"0"),
    "num_return_sequences": refused("must be 1: one text is returned", b"1"),
    "pad_token_id": ignored("", b"50256"),
    "prompt": translated("of the others"),
    "repetition_penalty": translated(),
    "stream": translated(),
    "temperature": translated(),
    "top_k": translated(),
    "top_p": translated(),
    "user_id": ignored(),
}
# What one route takes and another does not is ignored there, as what nobody knows.
_OF_CHAT = {name: row for name, row in FIELDS.items() if name != "prompt"}
_OF_TEXT = {name: row for name, row in FIELDS.items() if name != "messages"}


class _Turn(msgspec.Struct):
    role: str
    content: str


class DistilGpt2:
    """Three ways to ask for one text."""

    name = "distilgpt2"
    prefers_chat = False
    need = Need.NEVER

    def decode(self, operation: Operation, fields: Fields, body: bytes, *, stream: bool) -> Call:
        told = sort_out(fields, _OF_CHAT if operation is Operation.CHAT else _OF_TEXT)
        if operation is Operation.CHAT:
            wish = _wish(fields, 150, told, messages=_messages(fields))
            shape: Shape = _chatted
        else:
            prompt = text(fields, "prompt")
            if not prompt or not prompt.strip():
                raise invalid("prompt", "be a string that is not empty")
            completes = operation is Operation.COMPLETION
            wish = _wish(fields, 100, told, prompt=prompt.strip() if completes else prompt)
            shape = _completed(prompt) if completes else _generated(prompt)
        return Call(Api.PLAIN, operation, model_name(fields), flag(fields, "stream"), wish=wish, shape=shape)

    def error(self, error: RouterError, request_id: str) -> tuple[int, bytes]:
        return detail_status(error), msgspec.json.encode(detail_body(error, request_id))

    def error_frame(self, error: RouterError, request_id: str) -> bytes:
        return detail_frame(error, request_id)


def _wish(
    fields: Fields,
    usual: int,
    told: tuple[str, ...],
    *,
    prompt: str = "",
    messages: tuple[Message, ...] = (),
) -> Wish:
    length = "max_tokens" if _given(fields, "max_tokens") else "max_length"
    temperature = number(fields, "temperature", 0.1, 2, 0.7)
    top_p = number(fields, "top_p", 0.1, 1, 0.9)
    top_k = number(fields, "top_k", 0, 1000, _TOP_K if prompt else 0, whole=True)
    penalty = number(fields, "repetition_penalty", 0.1, 2, _PENALTY if prompt else 1)
    most = int(number(fields, length, 1, 1024, usual, whole=True))
    return Wish(
        prompt=prompt,
        messages=messages,
        max_new=most,
        length_name=length,
        sampling=not _given(fields, "do_sample") or flag(fields, "do_sample"),
        temperature=temperature,
        top_p=top_p if top_p < 1 else None,
        top_k=int(top_k) or None,
        repetition_penalty=penalty if penalty != 1 else None,
        text_penalty=_PENALTY if messages and not _given(fields, "repetition_penalty") else None,
        first_tokens=_PROMPT_TOKENS if prompt else None,
        reserve=most if messages else None,  # the last question must not be what is cut off
        clamps=True,
        ignored=told,
    )


def _given(fields: Fields, name: str) -> bool:
    return name in fields and bytes(fields[name]) != b"null"


def _messages(fields: Fields) -> tuple[Message, ...]:
    try:
        turns = msgspec.json.decode(fields.get("messages", b"null"), type=list[_Turn])
    except (msgspec.ValidationError, msgspec.DecodeError):
        raise invalid("messages", "be a list of objects with `role` and `content`") from None
    kept = tuple([Message(turn.role, turn.content) for turn in turns if turn.role in _ROLES])
    if not kept:
        raise invalid("messages", "hold a message of the role system, user or assistant")
    return kept


def _metadata(said: Said) -> dict[str, object]:
    return {
        "generation_time": round(said.seconds, 3),
        "tokens_generated": said.tokens.completion,
        "model": said.model_id,
        "finish_reason": "length" if said.finish is Finish.LENGTH else "stop",
    }


def _generated(prompt: str) -> Shape:
    def shape(said: Said) -> dict[str, object]:
        return {"generated_text": prompt + said.text, "prompt": prompt, "metadata": _metadata(said)}

    return shape


def _completed(prompt: str) -> Shape:
    def shape(said: Said) -> dict[str, object]:
        completion = said.text.strip() or said.text  # seed 000's gateway takes an empty one for a failure
        return {"prompt": prompt, "completion": completion, "raw_response": prompt.strip() + said.text}

    return shape


def _chatted(said: Said) -> dict[str, object]:
    return {"content": said.text.strip(), "role": "assistant"}
