"""The dialect of vLLM's OpenAI-compatible server. Source: `contracts/vllm.md`."""

import msgspec

from pointsman.apis.base import Reply
from pointsman.call import Api, Call, Fields, Operation
from pointsman.engines import chat, vllm_text, vllm_tokens
from pointsman.engines.base import Outgoing, Reader, Source, Tokenized, join
from pointsman.engines.openai import ROUTES, HidingReader, OpenAIReader
from pointsman.engines.response_format import for_vllm
from pointsman.gauges import Load, count, total_of
from pointsman.generation import Message, Wish
from pointsman.replica import Engine, Facts, Replica

# Fields that steer the engine rather than the answer; a stranger's are refused (design section 3).
CONTROL_FIELDS = frozenset(
    {
        "priority",
        "kv_transfer_params",
        "ec_transfer_params",
        "vllm_xargs",
        "request_id",
        "chat_template",
        "chat_template_kwargs",
        "logits_processors",  # up to 0.8: names of functions to import
        "guided_decoding_backend",  # up to 0.11
        "mm_processor_kwargs",
        "media_io_kwargs",
        "cache_salt",
        "return_token_ids",
        "return_tokens_as_token_ids",
        "prompt_embeds",
        "stream_interval",
        "return_weight_versions",
    }
)
_WORK = (b"vllm:generation_tokens_total", b"vllm:prompt_tokens_total")
# Up to 0.11 these were vLLM's own; later ones pass over them without a word (vllm.md 2.1).
_GUIDED = {
    "guided_json": "json",
    "guided_regex": "regex",
    "guided_choice": "choice",
    "guided_grammar": "grammar",
}
_COLONS_MAX = 120_000  # in messages that are looked through for nulls: more would hold up our loop
_MAY_BE_NULL = frozenset({"content"})  # of a message; vLLM refuses null in its other fields


class Vllm:
    """vLLM 0.8 and newer."""

    engine = Engine.VLLM
    idle_expiry_s = 3.0  # the server closes an idle connection after 5 s (vllm.md section 9)
    health_path = "/health"
    facts_path = "/v1/models"
    load_path = "/metrics"
    body_max_bytes: int | None = None
    goes_on = False  # it makes 16 tokens

    def read_facts(self, payload: bytes) -> Facts:
        """Read `GET /v1/models`.

        Raises:
            ValueError: with a sentence, when the payload is not vLLM's.
        """
        try:
            listed = msgspec.json.decode(payload, type=_Models)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise ValueError("GET /v1/models did not answer a model list") from None
        if not listed.data:
            raise ValueError("GET /v1/models lists no model")
        first = listed.data[0]
        if first.owned_by != "vllm" and first.max_model_len is None:
            raise ValueError("GET /v1/models is not vLLM's: is this another engine?")
        return Facts(names=tuple(entry.id for entry in listed.data), max_total_tokens=first.max_model_len)

    def read_load(self, page: bytes) -> Load:
        return Load(count(page, b"vllm:num_requests_running"), count(page, b"vllm:num_requests_waiting"))

    def read_progress(self, page: bytes) -> float | None:
        return total_of(page, _WORK)

    def template_probe(self, questions: int = 1) -> Outgoing:
        asked = {"messages": chat.turns((Message("user", "Hello"),) * questions)}
        return Outgoing("POST", "/tokenize", msgspec.json.encode(asked))

    def speaks(self, call: Call) -> bool:
        return True

    def carries(self, call: Call, replica: Replica) -> bool:
        if call.api is Api.OPENAI:
            return call.operation is not Operation.CHAT or replica.facts.chat_template is not False
        return call.operation in vllm_tokens.OPERATIONS

    def encode(self, call: Call, replica: Replica) -> Outgoing:
        """Bytes pass untouched unless the model's name, a null or the wanted structure must change."""
        if call.api is Api.TGI:
            return vllm_tokens.encode(call, replica)
        path = ROUTES[call.operation]
        fields = call.fields
        if call.body is not None and b"null" in call.body:
            fields = _without_nulls(fields)
        wanted = fields.get("response_format")
        if wanted is not None and (shape := for_vllm(wanted)) is not wanted:
            fields = {**fields, "response_format": shape}
        if not _GUIDED.keys().isdisjoint(fields) and "structured_outputs" not in fields:
            fields = _structured(fields)
        if call.model is None or not replica.knows(call.model):
            fields = dict(fields)
            if replica.own_name is not None:  # else left out, which vLLM takes for its own model
                fields["model"] = msgspec.Raw(msgspec.json.encode(replica.own_name))
            else:
                fields.pop("model", None)
        if call.body is not None and fields is call.fields:
            return Outgoing("POST", path, call.body)
        return Outgoing("POST", path, join(fields))

    def reader(self, call: Call, reply: Reply) -> Reader:
        if call.api is Api.TGI:
            return vllm_tokens.TokensReader(call, reply)
        return HidingReader(call) if call.hides_usage else OpenAIReader(call)

    def ask(self, wish: Wish, replica: Replica, *, stream: bool) -> Outgoing:
        if not wish.messages:
            return vllm_text.ask(wish, replica, stream=stream)
        fields = chat.fields(wish, stream=stream)
        if replica.own_name is not None:
            fields["model"] = msgspec.Raw(msgspec.json.encode(replica.own_name))
        return Outgoing("POST", ROUTES[Operation.CHAT], join(fields), wish.ignored)

    def source(self, wish: Wish) -> Source:
        return chat.ChatSource() if wish.messages else vllm_text.CompletionSource(wish)

    def tokenize(self, text: str, replica: Replica) -> Outgoing:
        return vllm_tokens.tokenize(text, replica)

    def read_tokenized(self, body: bytes, text: str) -> Tokenized:
        return vllm_tokens.read(body, text)

    def count_chat(self, messages: tuple[Message, ...], replica: Replica) -> Outgoing:
        return vllm_tokens.count_chat(chat.turns(messages), replica)

    def read_counted(self, body: bytes) -> int:
        return vllm_tokens.read_counted(body)


class _Model(msgspec.Struct):
    id: str
    owned_by: str | None = None
    max_model_len: int | None = None


class _Models(msgspec.Struct):
    data: list[_Model]


def _structured(fields: Fields) -> Fields:
    """Say the structure that older clients name in the newer way too; each version takes the one it knows."""
    for old, new in _GUIDED.items():
        if old in fields and bytes(fields[old]) != b"null":
            wanted = msgspec.Raw(join({new: fields[old]}))
            return {**fields, "structured_outputs": wanted}
    return fields


def _without_nulls(fields: Fields) -> Fields:
    """Leave out null fields, at the top level and in messages: clients send them, vLLM refuses some."""
    kept = {name: value for name, value in fields.items() if len(value) != 4 or bytes(value) != b"null"}
    told = bytes(kept.get("messages", b""))
    if b"null" in told and (len(told) < _COLONS_MAX or told.count(b":") < _COLONS_MAX):
        try:
            messages = msgspec.json.decode(told, type=list[Fields])
        except msgspec.DecodeError:
            return kept  # not a list of objects: the engine says so better
        mended = [
            join({k: v for k, v in message.items() if k in _MAY_BE_NULL or bytes(v) != b"null"})
            for message in messages
        ]
        kept["messages"] = msgspec.Raw(b"[" + b",".join(mended) + b"]")
    return fields if len(kept) == len(fields) and kept == fields else kept
