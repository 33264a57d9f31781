"""Models named by the environment."""

import pytest

from pointsman.model import ModelConfig
from pointsman.naming import KNOWN_NAMES
from pointsman.replica import Endpoint, Engine
from pointsman.settings import SettingsError, load


def models(**environ: str) -> list[ModelConfig]:
    return list(load(environ, None, None).models)


def refused(**environ: str) -> str:
    with pytest.raises(SettingsError) as caught:
        load(environ, None, None)
    return str(caught.value)


@pytest.mark.parametrize(
    ("short", "model_id"),
    [
        ("GPT2", "gpt-2"),
        ("LLAMA2", "llama-2-7b"),
        ("MISTRAL", "mistral-7b"),
        ("FALCON", "falcon-7b"),
        ("PHI2", "phi-2"),
        ("TINYLLAMA", "tiny-llama"),
        ("DISTILGPT2", "distilgpt2"),
        ("GEMMA3", "gemma-3-12b"),
        ("QWEN_2_5_7B", "qwen-2-5-7b"),
        ("MY.MODEL", "my.model"),
        ("TEXT_ENDPOINT", "text-endpoint"),
    ],
)
@pytest.mark.parametrize("program", ["TGI", "VLLM"])
def test_name_gives_the_id(program: str, short: str, model_id: str) -> None:
    """Known short names have their ids; others are lower case, with - for _."""
    (model,) = models(**{f"{program}_{short}_ENDPOINT": "http://h:1"})
    assert model.id == model_id
    assert [replica.engine.value for replica in model.replicas] == [program.lower()]
    assert model.origin == f"{program}_{short}_ENDPOINT"


def test_known_names_fill_in_the_hub_name() -> None:
    """A known model comes with its name on the hub; an unknown one with none."""
    hubs = {
        model.id: model.hf_name
        for short in KNOWN_NAMES
        for model in models(**{f"TGI_{short}_ENDPOINT": "http://h"})
    }
    assert hubs["llama-2-7b"] == "meta-llama/Llama-2-7b-chat-hf"
    assert hubs["distilgpt2"] == "distilbert/distilgpt2"
    assert hubs["gemma-3-12b"] == "gaunernst/gemma-3-12b-it-qat-autoawq"
    assert None not in hubs.values()
    assert models(TGI_OTHER_ENDPOINT="http://h")[0].hf_name is None


def test_commas_make_replicas_and_both_engines_one_pool() -> None:
    """Several URLs are replicas; the same name under TGI and vLLM is one model, each with its key."""
    (model,) = models(
        TGI_GPT2_ENDPOINT="http://a:8080, https://b/base/ ,",
        VLLM_GPT2_ENDPOINT="http://c:8000",
        VLLM_GPT2_KEY="sk-1",
    )
    assert [replica.endpoint for replica in model.replicas] == [
        Endpoint("http", "a", 8080),
        Endpoint("https", "b", 443, "/base"),
        Endpoint("http", "c", 8000),
    ]
    assert [replica.engine for replica in model.replicas] == [Engine.TGI, Engine.TGI, Engine.VLLM]
    assert [replica.key for replica in model.replicas] == [None, None, "sk-1"]


def test_two_names_of_one_id_are_one_pool() -> None:
    """Names that give the same id meet in one pool."""
    (model,) = models(TGI_GPT2_ENDPOINT="http://a", VLLM_GPT_2_ENDPOINT="http://b")
    assert len(model.replicas) == 2


def test_order_does_not_hang_on_the_environment() -> None:
    """Models and replicas have the same order however the environment is ordered."""
    environ = {"VLLM_B_ENDPOINT": "http://1", "TGI_B_ENDPOINT": "http://2", "TGI_A_ENDPOINT": "http://3"}
    turned = dict(reversed(environ.items()))
    assert load(environ, None, None) == load(turned, None, None)
    assert [model.id for model in models(**environ)] == ["a", "b"]


def test_empty_is_not_set() -> None:
    """Empty values, as compose files make them, name no model."""
    assert models(TGI_GPT2_ENDPOINT="", TGI_GPT2_KEY=" ", VLLM_X_ENDPOINT=",") == []


@pytest.mark.parametrize(
    "name",
    [
        "VLLM_CPU_KVCACHE_SPACE",
        "VLLM_API_KEY",
        "TGI_API_KEY",
        "VLLM_PORT",
        "VLLM_HOST_IP",
        "VLLM_RPC_TIMEOUT",
        "VLLM_USAGE_STATS_SERVER",
        "VLLM_S3_POINT",
        "TGI_GPT2_PORT",
        "TGI_GPT2_SERVICE_HOST",
        "GPT2_ENDPONT",
        "TGIX_GPT2_ENDPONT",
    ],
)
def test_the_engines_own_names_are_left_alone(name: str) -> None:
    """Other TGI_ and VLLM_ names belong to others."""
    settings = load({name: "1"}, None, None)
    assert settings.models == ()
    assert settings.notices == ()


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("TGI_GPT2_ENDPONT", "TGI_GPT2_ENDPOINT"),
        ("TGI_GPT2_ENDPOINTS", "TGI_GPT2_ENDPOINT"),
        ("TGI_GPT2_ENDPIONT", "TGI_GPT2_ENDPOINT"),
        ("VLLM_MY_MODEL_END_POINT", "VLLM_MY_MODEL_ENDPOINT"),
        ("VLLM_X_ENPOINTS", "VLLM_X_ENDPOINT"),
        ("TGI_GPT2_ENDPOINT_2", "TGI_GPT2_ENDPOINT"),
        ("TGI_GPT2_ENDPOINT_URL", "TGI_GPT2_ENDPOINT"),
        ("TGI_ENDPOINT", "TGI_GPT2_ENDPOINT"),
    ],
)
def test_near_miss_of_an_endpoint_stops(name: str, meant: str) -> None:
    """A slip in ENDPOINT stops the start and says what was meant."""
    message = refused(**{name: "http://h:1"})
    assert message.startswith(f"{name} ")
    assert f"{meant}" in message
    assert "did you mean" in message


def test_url_name_is_noticed() -> None:
    """A …_URL is not read, and a notice says what would be."""
    (notice,) = load({"VLLM_X_URL": "http://h"}, None, None).notices
    assert notice == "VLLM_X_URL is not read; if it names an engine, call it VLLM_X_ENDPOINT"


def test_key_without_endpoint_stops() -> None:
    """A key alone stops the start; its text is not told."""
    message = refused(TGI_GPT2_KEY="s3cret", VLLM_GPT2_ENDPOINT="http://h")
    assert message.startswith("TGI_GPT2_KEY is a key without its endpoint; set TGI_GPT2_ENDPOINT")
    assert "s3cret" not in message


@pytest.mark.parametrize(
    "url",
    ["http://me:s3cret@h", "http://me:s3/cret@h", "http://h/?key=s3cret", "s3cret@h", "http://s3cret:x@"],
)
def test_url_with_secrets_is_refused_without_telling_them(url: str) -> None:
    """A URL that may hold a password or key is refused, and not shown."""
    message = refused(TGI_GPT2_ENDPOINT=url)
    assert message.startswith("TGI_GPT2_ENDPOINT has a URL with")
    assert "s3" not in message


@pytest.mark.parametrize(
    "url", ["h:8080", "ftp://h", "http://", "http://h:x", "http://h:99999", "http://h h"]
)
def test_bad_url_stops(url: str) -> None:
    """A URL that is none is named with its setting."""
    assert refused(VLLM_X_ENDPOINT=url).startswith("VLLM_X_ENDPOINT: ")


def test_bad_key_stops_without_telling_it() -> None:
    """A key that no header can carry is refused, and not shown."""
    message = refused(VLLM_X_ENDPOINT="http://h", VLLM_X_KEY="s3cret\nX-Evil: 1")
    assert message.startswith("VLLM_X_KEY is no key")
    assert "s3cret" not in message


def test_name_that_gives_no_id_stops() -> None:
    """A name with signs that an id cannot have is refused."""
    assert refused(**{"TGI_A/B_ENDPOINT": "http://h"}).startswith("TGI_A/B_ENDPOINT names no model")


def test_keys_are_not_in_representations() -> None:
    """A key shows up in no representation of the settings."""
    assert "s3cret" not in repr(load({"TGI_A_ENDPOINT": "http://h", "TGI_A_KEY": "s3cret"}, None, None))
