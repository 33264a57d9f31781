"""The settings of seed 004, by the names that it documents (`contracts/seeds.md` 5.6)."""

from pathlib import Path

import pytest

from pointsman.front import TcpAddress
from pointsman.replica import Endpoint, Engine
from pointsman.settings import Settings, SettingsError, load
from pointsman.surfaces.plg import PlgConfig


def given(**environ: str) -> Settings:
    return load(environ, None, None)


def refused(**environ: str) -> str:
    with pytest.raises(SettingsError) as caught:
        given(**environ)
    return str(caught.value)


def test_its_names_mean_what_they_meant() -> None:
    """Each name that says something to a router is read, without a word."""
    settings = given(
        LLM_API_HOST="127.0.0.1",
        LLM_API_PORT="8090",
        LLM_API_LOG_LEVEL="WARNING",
        LLM_API_MODEL_NAME="gaunernst/gemma-3-12b-it-qat-autoawq",
        LLM_API_VLLM_PORT="8060",
        LLM_API_MAX_TOKENS="1024",
        LLM_API_TEMPERATURE="0.5",
        LLM_API_TOP_P="0.8",
        LLM_API_MAX_CONTEXT_TOKENS="16384",
        LLM_API_RESPONSE_RESERVE_TOKENS="512",
        LLM_API_REQUEST_TIMEOUT="300",
        LLM_API_HEALTH_CHECK_TIMEOUT="5",
        LLM_API_KEEPALIVE_EXPIRY="60.0",
    )
    assert settings.notices == ()
    assert settings.front.listen == (TcpAddress("127.0.0.1", 8090),)
    assert settings.log_level == "WARNING"
    assert settings.surfaces["plg"].model == "gaunernst/gemma-3-12b-it-qat-autoawq"
    assert settings.plg == PlgConfig(1024, 0.5, 0.8, 16384, 512)
    assert (settings.timeouts.first_event_s, settings.timeouts.total_s) == (300, 300)
    assert settings.health.timeout_s == 5
    assert settings.upstream.idle_expiry_s == 60


def test_defaults_are_the_seeds() -> None:
    """But for the context, which the engine tells."""
    assert given().plg == PlgConfig(2048, 0.7, 0.9, None, 2048)


@pytest.mark.parametrize(
    ("environ", "model", "hub", "url"),
    [
        (
            {"LLM_API_VLLM_PORT": "8061"},
            "gemma-3-12b",
            "gaunernst/gemma-3-12b-it-qat-autoawq",
            "http://localhost:8061",
        ),
        ({"LLM_API_BASE_URL": "http://gpu-1/"}, "gemma-3-12b", None, "http://gpu-1:8060"),
        (
            {
                "LLM_API_BASE_URL": "http://gpu-1",
                "LLM_API_VLLM_PORT": "9",
                "LLM_API_MODEL_NAME": "org/My",
            },
            "my",
            "org/My",
            "http://gpu-1:9",
        ),
        ({"LLM_API_VLLM_PORT": "1", "LLM_API_LLM_MODEL_NAME": "gpt2"}, "gpt-2", "gpt2", "http://localhost:1"),
    ],
)
def test_its_engine_is_found(environ: dict[str, str], model: str, hub: str | None, url: str) -> None:
    """One vLLM on the one host of everything, which serves the model that is named."""
    (found,) = given(**environ).models
    assert found.id == model
    assert found.hf_name == (hub or "gaunernst/gemma-3-12b-it-qat-autoawq")
    assert [(one.endpoint, one.engine) for one in found.replicas] == [(Endpoint.parse(url), Engine.VLLM)]


def test_its_engine_joins_the_others_of_the_model() -> None:
    """Replicas named in our own way serve beside it."""
    (model,) = given(LLM_API_VLLM_PORT="8060", VLLM_GEMMA3_ENDPOINT="http://gpu-2:8000").models
    assert [one.endpoint.url for one in model.replicas] == ["http://localhost:8060", "http://gpu-2:8000"]


def test_a_model_alone_names_no_engine() -> None:
    """The name of a model says which, not where."""
    assert given(LLM_API_MODEL_NAME="gpt2").models == ()


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({"LLM_API_PORT": "x"}, "LLM_API_PORT: 'x' is not a whole number"),
        ({"LLM_API_MAX_TOKENS": "0"}, "LLM_API_MAX_TOKENS: '0' is not a whole number from 1"),
        ({"LLM_API_TEMPERATURE": "3"}, "LLM_API_TEMPERATURE: '3' is not a number from 0 to 2"),
        ({"LLM_API_VLLM_PORT": "x"}, "LLM_API_VLLM_PORT: "),
        ({"LLM_API_BASE_URL": "http://u:p@h"}, "LLM_API_BASE_URL has a URL with a user name"),
        ({"GPU_METRICS_URL": "dcgm"}, "GPU_METRICS_URL: 'dcgm' is not a base URL"),
        (
            {"LLM_API_MAX_CONTEXT_TOKENS": "1000", "LLM_API_RESPONSE_RESERVE_TOKENS": "1000"},
            "LLM_API_RESPONSE_RESERVE_TOKENS (1000) leaves nothing of LLM_API_MAX_CONTEXT_TOKENS (1000)",
        ),
    ],
)
def test_a_bad_value_stops_the_start(environ: dict[str, str], sentence: str) -> None:
    """By the name that was set."""
    assert refused(**environ).startswith(sentence)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("FRONTEND_PORT", "ALLOWED_ORIGINS"),
        ("API_PORT", "ALLOWED_ORIGINS"),
        ("CLOUD_IP", "ALLOWED_ORIGINS"),
        ("MCP_PORT", "tools are not called"),
        ("CONNECTION_POOL_SIZE", "max_in_flight"),
        ("MAX_KEEPALIVE_CONNECTIONS", "no limit but time"),
        ("API_KEY", "pointsman keys"),
        ("REQUIRE_API_KEY", "KEY_NEEDS"),
        ("MAX_TOKEN", "is not a setting"),
    ],
)
def test_what_says_nothing_to_a_router_is_told(name: str, reason: str) -> None:
    """It stops no start, and goes unmentioned nowhere; its value is not shown."""
    (notice,) = given(**{f"LLM_API_{name}": "secret-7"}).notices
    assert notice.startswith(f"LLM_API_{name} is not ")
    assert reason in notice
    assert "secret-7" not in notice


def test_plain_names_come_first(tmp_path: Path) -> None:
    """Ours with the prefix, then plain, then `LLM_API_`, then `config.yml`; the log names the loser."""
    settings = given(PORT="1", LLM_API_PORT="2")
    assert settings.front.listen[0] == TcpAddress("0.0.0.0", 1)
    assert settings.notices == ("LLM_API_PORT is ignored: PORT is set to another value and comes first",)
    file = tmp_path / "config.yml"
    file.write_text("plg: {max_tokens: 5, temperature: 0.1}\n", encoding="utf-8")
    plg = load({"LLM_API_MAX_TOKENS": "6"}, None, file).plg
    assert (plg.max_tokens, plg.temperature) == (6, 0.1)
