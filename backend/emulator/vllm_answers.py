"""The JSON shapes of vLLM 0.33's answers and chunks, field order included."""

import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from emulator.assembly import Step
from emulator.text import GEMMA
from emulator.vllm_checks import Ask

_EOT = GEMMA.eos.id
_NULLS = (
    "prompt_logprobs",
    "prompt_token_ids",
    "prompt_text",
    "kv_transfer_params",
    "ec_transfer_params",
    "metrics",
)


@dataclass(slots=True)
class Spoken:
    """What one choice has come to."""

    prompt: str
    input_tokens: int
    text: str = ""
    steps: list[Step] = field(default_factory=list)

    def take(self, step: Step) -> None:
        """Add a step."""
        self.text += step.text
        self.steps.append(step)

    @property
    def generated(self) -> int:
        """Tokens, the end token included."""
        return self.steps[-1].count if self.steps else 0

    def prompt_ids(self) -> list[int]:
        """Token ids of the prompt."""
        return [token.id for token in GEMMA.encode(self.prompt)]


@dataclass(frozen=True, slots=True)
class Shapes:
    """Builds the answers to one request."""

    chat: bool
    ident: str
    model: str
    created: int
    fingerprint: str
    ask: Ask
    tool: dict[str, Any] | None = None

    # streams

    def chunk(self, choices: list[dict[str, Any]], **more: object) -> dict[str, Any]:
        """The frame around choices."""
        name = "chat.completion.chunk" if self.chat else "text_completion"
        head = {
            "id": self.ident,
            "object": name,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }
        return head | more

    def role_chunk(self, index: int, spoken: Spoken) -> dict[str, Any]:
        """The first frame of a chat choice."""
        choice = {
            "index": index,
            "delta": {"role": "assistant", "content": ""},
            "logprobs": None,
            "finish_reason": None,
        }
        ids = spoken.prompt_ids() if self.ask.token_ids else None
        return self.chunk([choice], prompt_token_ids=ids, prompt_text=None)

    def step_chunk(self, index: int, step: Step, spoken: Spoken) -> dict[str, Any]:
        """One step of one choice."""
        ids = [step.token.id] if self.ask.token_ids and step.token is not None else None
        finish, stop = finish_of(step)
        if not self.chat:
            first = len(spoken.steps) == 1 and self.ask.token_ids
            choice: dict[str, Any] = {
                "index": index,
                "text": self._echo(spoken, len(spoken.steps) == 1) + step.text,
                "logprobs": None if self.ask.logprobs is None else text_logprobs([step]),
                "finish_reason": finish,
                "stop_reason": stop,
                "prompt_token_ids": spoken.prompt_ids() if first else None,
                "token_ids": ids,
                "weight_versions": None,
            }
        else:
            logprobs = None if self.ask.logprobs is None else chat_logprobs([step], self.ask.logprobs)
            choice = {
                "index": index,
                "delta": self._delta(step, spoken),
                "logprobs": logprobs,
                "finish_reason": finish,
            }
            if finish is not None:
                finish = "tool_calls" if self.tool is not None and finish == "stop" else finish
                choice |= {
                    "finish_reason": finish,
                    "stop_reason": stop,
                    "token_ids": ids,
                    "weight_versions": None,
                }
            else:
                choice["token_ids"] = ids
        chunk = self.chunk([choice], kv_transfer_params=None)
        if finish is not None and not self.ask.usage:
            chunk["system_fingerprint"] = self.fingerprint
        return chunk

    def _echo(self, spoken: Spoken, first: bool) -> str:
        return spoken.prompt if self.ask.echo and first else ""

    def _delta(self, step: Step, spoken: Spoken) -> dict[str, Any]:
        if step.token is None and not step.text and not spoken.text:
            return {}
        if self.tool is None:
            return {"content": step.text}
        function: dict[str, Any] = {"arguments": step.text}
        call: dict[str, Any] = {"index": 0, "function": function}
        if len(spoken.steps) == 1:
            function = {"name": self.tool.get("name"), "arguments": step.text}
            call = {
                "index": 0,
                "id": f"chatcmpl-tool-{uuid.uuid4().hex[:16]}",
                "type": "function",
                "function": function,
            }
        return {"tool_calls": [call]}

    # whole answers

    def whole(self, spoken: list[Spoken]) -> dict[str, Any]:
        """The answer to a request without `stream`."""
        build = self._message_choice if self.chat else self._text_choice
        choices = [build(index, one) for index, one in enumerate(spoken)]
        answer: dict[str, Any] = {
            "id": self.ident,
            "object": "chat.completion" if self.chat else "text_completion",
            "created": self.created,
            "model": self.model,
            "choices": choices,
            "service_tier": None,
            "system_fingerprint": self.fingerprint,
            "usage": usage_of(spoken, self.ask.n)
            | {"prompt_tokens_details": None, "completion_tokens_details": None},
        }
        if not self.chat:
            return answer | dict.fromkeys(("kv_transfer_params", "ec_transfer_params", "metrics"))
        answer |= dict.fromkeys(_NULLS)
        if self.ask.token_ids:
            answer["prompt_token_ids"] = spoken[0].prompt_ids()
        return answer

    def _message_choice(self, index: int, spoken: Spoken) -> dict[str, Any]:
        finish, stop = finish_of(spoken.steps[-1])
        message: dict[str, Any] = {"role": "assistant", "content": spoken.text}
        message |= dict.fromkeys(("refusal", "annotations", "audio", "function_call"))
        if self.tool is not None:
            function = {"name": self.tool.get("name"), "arguments": spoken.text}
            ident = f"chatcmpl-tool-{uuid.uuid4().hex[:16]}"
            message |= {
                "content": None,
                "tool_calls": [{"id": ident, "type": "function", "function": function}],
            }
            finish = "tool_calls" if finish == "stop" else finish
        return {
            "index": index,
            "message": message | {"reasoning": None},
            "logprobs": None if self.ask.logprobs is None else chat_logprobs(spoken.steps, self.ask.logprobs),
            "finish_reason": finish,
            "stop_reason": stop,
            "token_ids": _ids(spoken.steps) if self.ask.token_ids else None,
            "routed_experts": None,
            "weight_versions": None,
        }

    def _text_choice(self, index: int, spoken: Spoken) -> dict[str, Any]:
        finish, stop = finish_of(spoken.steps[-1])
        return {
            "index": index,
            "text": self._echo(spoken, True) + spoken.text,
            "logprobs": None if self.ask.logprobs is None else text_logprobs(spoken.steps),
            "finish_reason": finish,
            "stop_reason": stop,
            "token_ids": _ids(spoken.steps) if self.ask.token_ids else None,
            "prompt_logprobs": None,
            "prompt_token_ids": spoken.prompt_ids() if self.ask.token_ids else None,
            "routed_experts": None,
            "weight_versions": None,
        }


def shapes_for(
    ask: Ask, *, chat: bool, request_id: str | None, model: str, version: str, tool: dict[str, Any] | None
) -> Shapes:
    """Ids and times of a new answer."""
    ident = f"{'chatcmpl' if chat else 'cmpl'}-{request_id or uuid.uuid4().hex[:16]}"
    return Shapes(chat, ident, model, int(time.time()), f"vllm-{version}-e0000000", ask, tool)


def finish_of(step: Step) -> tuple[str | None, str | int | None]:
    """`finish_reason` and `stop_reason`."""
    if step.finish == "eos":
        return "stop", _EOT
    return step.finish, step.stop


def usage_of(spoken: list[Spoken], n: int) -> dict[str, Any]:
    """Counts; each prompt counts once however many choices it has."""
    prompt = sum(one.input_tokens for one in spoken[::n])
    generated = sum(one.generated for one in spoken)
    return {"prompt_tokens": prompt, "total_tokens": prompt + generated, "completion_tokens": generated}


def chat_logprobs(steps: list[Step], top: int) -> dict[str, Any]:
    """The chat shape."""
    content = []
    for step in steps:
        if step.token is not None:
            text = step.token.data.decode("utf-8", "replace")
            entry = {"token": text, "logprob": step.logprob, "bytes": list(step.token.data)}
            content.append(entry | {"top_logprobs": [entry] if top else []})
    return {"content": content}


def text_logprobs(steps: list[Step]) -> dict[str, Any]:
    """The completion shape."""
    real = [(step, step.token) for step in steps if step.token is not None]
    texts = [token.data.decode("utf-8", "replace") for _, token in real]
    offsets, place = [], 0
    for step, _ in real:
        offsets.append(place)
        place += len(step.text)
    probs = [step.logprob for step, _ in real]
    tops = [{text: prob} for text, prob in zip(texts, probs, strict=True)]
    return {"text_offset": offsets, "token_logprobs": probs, "tokens": texts, "top_logprobs": tops}


def _ids(steps: list[Step]) -> list[int]:
    return [step.token.id for step in steps if step.token is not None]
