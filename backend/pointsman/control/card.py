"""A model's card, in the shape of seed 000's `GET /model-info` (`contracts/seeds.md` 2.1, 2.3).

Its fields are always there; what is not known of a model is null, or `unknown` where clients want a text.
"""

from dataclasses import dataclass

import msgspec

from pointsman.registry import Model

_DISTILGPT2 = "distilbert/distilgpt2"
_FOR_TEXT = ("text generation", "text completion")


class _Build(msgspec.Struct, frozen=True):
    """What a model is: its family, its class in `transformers`, how many parameters it has."""

    family: str
    architecture: str
    parameters: str


_GPT2, _LLAMA = "GPT2LMHeadModel", "LlamaForCausalLM"
# By hub name; from the models' cards and `config.json`.
_BUILDS = {
    _DISTILGPT2: _Build("GPT-2", _GPT2, "82M"),
    "gpt2": _Build("GPT-2", _GPT2, "124M"),
    "meta-llama/Llama-2-7b-chat-hf": _Build("Llama 2", _LLAMA, "7B"),
    "mistralai/Mistral-7B-Instruct-v0.1": _Build("Mistral", "MistralForCausalLM", "7B"),
    "tiiuae/falcon-7b-instruct": _Build("Falcon", "FalconForCausalLM", "7B"),
    "microsoft/phi-2": _Build("Phi", "PhiForCausalLM", "2.7B"),
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0": _Build("Llama", _LLAMA, "1.1B"),
    "gaunernst/gemma-3-12b-it-qat-autoawq": _Build("Gemma 3", "Gemma3ForConditionalGeneration", "12B"),
}
_OLD_NAMES = {"distilgpt2": _DISTILGPT2, "openai-community/gpt2": "gpt2"}


@dataclass(frozen=True, slots=True)
class Card:
    """Everything seed 000's clients may ask of the model that answers them."""

    model_name: str
    model_type: str | None
    architecture: str | None
    model_size: str  # clients join it to texts
    parameters: str | None
    description: str
    supported_endpoints: list[str]
    optimized_for: list[str]
    capabilities: list[str]
    max_length: int | None  # tokens of prompt and answer together
    status: str
    note: str


def card(model: Model) -> Card:
    """The card of a model."""
    name = _hub_name(model)
    build = _BUILDS.get(name)
    return Card(
        model_name=model.id,
        model_type=build.family if build else None,
        architecture=build.architecture if build else None,
        model_size=f"{build.parameters} parameters" if build else "unknown",
        parameters=build.parameters if build else None,
        description=f"{model.config.name} ({name}), served by remote engines and routed by Pointsman",
        supported_endpoints=["/generate", "/complete", "/chat/completions", "/model-info", "/health"],
        optimized_for=_optimized_for(model, name),
        capabilities=["text-generation", "text-completion", "chat", "streaming"],
        max_length=_max_length(model, name),
        status="loaded" if model.available else "unavailable",
        note="The router loads no model itself; /models tells where it runs and how it is.",
    )


def _hub_name(model: Model) -> str:
    """What the engines run, where they say so by a name that is known; else what the operator wrote."""
    told = [name for replica in model.pool for name in replica.facts.names]
    wrote = model.config.hf_name or model.id
    names = [_OLD_NAMES.get(name, name) for name in (*told, wrote)]
    return next((name for name in names if name in _BUILDS), wrote)


def _optimized_for(model: Model, name: str) -> list[str]:
    if name == _DISTILGPT2:
        return [*_FOR_TEXT, "chat"]  # as the seed says of it
    templates = {replica.facts.chat_template for replica in model.pool}
    if True in templates:
        return ["chat", *_FOR_TEXT]
    return list(_FOR_TEXT) if model.config.base or False in templates else []


def _max_length(model: Model, name: str) -> int | None:
    """What the replica takes that takes fewest."""
    lengths = [r.facts.max_total_tokens for r in model.pool if r.facts.max_total_tokens is not None]
    return min(lengths, default=1024 if name == _DISTILGPT2 else None)
