"""Models named by the environment: TGI_<NAME>_ENDPOINT and VLLM_<NAME>_ENDPOINT, with …_KEY beside.

Other TGI_ and VLLM_ names belong to the engines themselves and are left alone, except for slips.
"""

import re
from dataclasses import dataclass

from pointsman.model import ReplicaConfig
from pointsman.replica import Endpoint, Engine
from pointsman.sources import Environment, Given
from pointsman.values import SettingsError, items

MODEL_ID = re.compile(r"[a-z0-9._-]+")

_ENDPOINT = re.compile(r"(TGI|VLLM)_(.+)_ENDPOINT")
_KEY = re.compile(r"(TGI|VLLM)_(.+)_KEY")
_ENGINES_OWN_KEYS = ("TGI_API_KEY", "VLLM_API_KEY")
_URL = re.compile(r"(TGI|VLLM)_(.+)_URLS?")
_PLG_BASE, _PLG_PORT = "http://localhost", "8060"
_SLIPS = 2  # letters wrong, missing, too many or swapped in a word that was to be ENDPOINT


@dataclass(frozen=True, slots=True)
class KnownName:
    """A model whose short name in the environment stands for more."""

    id: str
    name: str
    hf_name: str


# The first six as `contracts/seeds.md` section 4.2 has them.
KNOWN_NAMES: dict[str, KnownName] = {
    "GPT2": KnownName("gpt-2", "GPT-2", "gpt2"),
    "LLAMA2": KnownName("llama-2-7b", "Llama 2 7B Chat", "meta-llama/Llama-2-7b-chat-hf"),
    "MISTRAL": KnownName("mistral-7b", "Mistral 7B Instruct", "mistralai/Mistral-7B-Instruct-v0.1"),
    "FALCON": KnownName("falcon-7b", "Falcon 7B Instruct", "tiiuae/falcon-7b-instruct"),
    "PHI2": KnownName("phi-2", "Phi-2", "microsoft/phi-2"),
    "TINYLLAMA": KnownName("tiny-llama", "TinyLlama 1.1B Chat", "TinyLlama/TinyLlama-1.1B-Chat-v1.0"),
    "DISTILGPT2": KnownName("distilgpt2", "DistilGPT-2", "distilbert/distilgpt2"),
    "GEMMA3": KnownName("gemma-3-12b", "Gemma 3 12B", "gaunernst/gemma-3-12b-it-qat-autoawq"),
}


@dataclass(frozen=True, slots=True)
class NamedPool:
    """What the environment says of one model; `called` are the settings it stands in."""

    id: str
    name: str
    hf_name: str | None
    replicas: tuple[ReplicaConfig, ...]
    called: str


def named_pools(environment: Environment) -> dict[str, NamedPool]:
    """Collect the pools by model id.

    Raises:
        SettingsError: a bad URL or key, a key without endpoint, or what looks like a misspelt endpoint.
    """
    pools: dict[str, NamedPool] = {}
    plg = _plg_pool(environment)
    if plg is not None:
        pools[plg.id] = plg
    for name in environment.names():
        given = environment.get(name)
        if given is None:
            continue
        if (matched := _ENDPOINT.fullmatch(name)) is None:
            _refuse_slip(name, given, environment)
            continue
        pool = _pool(matched[1], matched[2], given, environment)
        if pool is None:
            continue
        before = pools.get(pool.id)
        if before is not None:
            pool = NamedPool(
                pool.id,
                before.name,
                before.hf_name,
                before.replicas + pool.replicas,
                f"{before.called} and {pool.called}",
            )
        pools[pool.id] = pool
    return pools


def _plg_pool(environment: Environment) -> NamedPool | None:
    """The one vLLM of a configuration for seed 004 (`contracts/seeds.md` 5.6); None: it names none."""
    base, port = environment.get("LLM_API_BASE_URL"), environment.get("LLM_API_VLLM_PORT")
    if base is None and port is None:
        return None
    called = " and ".join([given.called for given in (base, port) if given is not None])
    url = f"{base.text.rstrip('/') if base else _PLG_BASE}:{port.text if port else _PLG_PORT}"
    replicas = (ReplicaConfig(endpoint=read_endpoint(url, called), engine=Engine.VLLM),)
    served = environment.get("LLM_API_MODEL_NAME") or environment.get("LLM_API_LLM_MODEL_NAME")
    hub = served.text if served else KNOWN_NAMES["GEMMA3"].hf_name
    known = next((known for known in KNOWN_NAMES.values() if hub in (known.id, known.hf_name)), None)
    if known is not None:
        return NamedPool(known.id, known.name, known.hf_name, replicas, called)
    model_id = re.sub("[^a-z0-9._-]+", "-", hub.lower().rpartition("/")[2]).strip("-") or "plg"
    return NamedPool(model_id, model_id, hub, replicas, called)


def unread_urls(environment: Environment) -> list[str]:
    """A notice for each …_URL, which is read by nobody and was perhaps meant as an endpoint."""
    found = [name for name in environment.names() if _URL.fullmatch(name)]
    return [
        f"{name} is not read; if it names an engine, call it {name.rpartition('_')[0]}_ENDPOINT"
        for name in found
    ]


def _pool(program: str, short: str, given: Given, environment: Environment) -> NamedPool | None:
    known = KNOWN_NAMES.get(short)
    model_id = known.id if known else short.lower().replace("_", "-")
    if MODEL_ID.fullmatch(model_id) is None:
        raise SettingsError(
            f"{given.called} names no model; between {program}_ and _ENDPOINT use A-Z, 0-9 and _"
        )
    key = environment.get(f"{program}_{short}_KEY")
    secret = None if key is None else read_key(key.text, key.called)
    engine = Engine(program.lower())
    replicas = tuple(
        ReplicaConfig(endpoint=read_endpoint(url, given.called), engine=engine, key=secret)
        for url in items(given.text)
    )
    if not replicas:
        return None
    name, hf_name = (known.name, known.hf_name) if known else (model_id, None)
    return NamedPool(model_id, name, hf_name, replicas, given.called)


def read_endpoint(url: str, called: str) -> Endpoint:
    """Read a replica's URL.

    Raises:
        SettingsError: it is no usable URL; the message holds it only where it can hold no password.
    """
    if "@" in url or "?" in url:
        raise SettingsError(
            f"{called} has a URL with a user name, password or query; write http://host:port alone"
        )
    try:
        return Endpoint.parse(url)
    except ValueError as error:
        raise SettingsError(f"{called}: {error}; write it like http://host:8080") from None


def read_key(text: str, called: str) -> str:
    """Read an engine's key.

    Raises:
        SettingsError: it cannot be sent in a header; the message does not hold it.
    """
    if re.fullmatch(r"[!-~]+", text) is None:
        raise SettingsError(f"{called} is no key: it has spaces or signs outside ASCII; write the key alone")
    return text


def _refuse_slip(name: str, given: Given, environment: Environment) -> None:
    if (key := _KEY.fullmatch(name)) is not None and name not in _ENGINES_OWN_KEYS:
        endpoint = f"{key[1]}_{key[2]}_ENDPOINT"
        if environment.get(endpoint) is None:
            raise SettingsError(
                f"{given.called} is a key without its endpoint; set {endpoint} too, or remove the key"
            )
        return
    program, _, rest = name.partition("_")
    if program not in ("TGI", "VLLM"):
        return
    if rest == "ENDPOINT":
        raise SettingsError(
            f"{given.called} names no model; did you mean something like {program}_GPT2_ENDPOINT?"
        )
    words = rest.split("_")
    for count in (1, 2):
        tail = "".join(words[-count:])
        if len(words) > count and _distance(tail, "ENDPOINT") <= _SLIPS:
            meant = "_".join((program, *words[:-count], "ENDPOINT"))
            raise SettingsError(f"{given.called} is not a setting; did you mean {meant}?")
    if len(words) > 2 and words[-2] in ("ENDPOINT", "ENDPOINTS"):
        meant = "_".join((program, *words[:-2], "ENDPOINT"))
        raise SettingsError(
            f"{given.called} is not a setting; did you mean {meant}, with all URLs in it and commas between?"
        )


def _distance(one: str, other: str) -> int:
    """Edits between two words: a letter changed, added, dropped, or swapped with its neighbour."""
    rows = [list(range(len(other) + 1))]
    for i, a in enumerate(one, 1):
        row = [i]
        for j, b in enumerate(other, 1):
            best = min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (a != b))
            if i > 1 and j > 1 and a == other[j - 2] and one[i - 2] == b:
                best = min(best, rows[-2][j - 2] + 1)
            row.append(best)
        rows.append(row)
    return rows[-1][-1]
