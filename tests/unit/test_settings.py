"""Settings: the table of knobs, precedence, strictness, and what the shipped files say."""

import dataclasses
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, example
from hypothesis import given as for_all
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from msgspec import Raw

from pointsman.admission import AdmissionConfig
from pointsman.breaker import BreakerConfig
from pointsman.call import Fields, Timeouts
from pointsman.egress import AdminConfig
from pointsman.front import TcpAddress, UnixAddress
from pointsman.health import HealthConfig
from pointsman.keys import digest_of
from pointsman.knobs import GROUPS, KNOBS, SECTIONS, LogFormat, section_knobs
from pointsman.limits import LimitsConfig, SurfaceLimits
from pointsman.metrics import MetricsConfig
from pointsman.pii import PiiMode
from pointsman.progress import ProgressConfig
from pointsman.recall import AnswerCacheConfig, ChatHistoryConfig
from pointsman.registry import SurfaceConfig
from pointsman.retry import RetryConfig
from pointsman.routes import Routes
from pointsman.screening import SecurityConfig
from pointsman.settings import Settings, SettingsError, check_workers, discover, load
from pointsman.single_flight import SingleFlightConfig
from pointsman.store.config import StoreConfig
from pointsman.store.memory import MemoryConfig
from pointsman.surfaces import NAMES
from pointsman.surfaces.llm_service import LlmServiceConfig
from pointsman.surfaces.plg import PlgConfig
from pointsman.upstream import UpstreamConfig

ROOT = Path(__file__).parents[2]
CONFIG_OBJECTS = {
    "LIMITS": LimitsConfig,
    "RATE_LIMIT": SurfaceLimits,
    "STORE": StoreConfig,
    "MEMORY": MemoryConfig,
    "TIMEOUT": Timeouts,
    "RETRY": RetryConfig,
    "ADMISSION": AdmissionConfig,
    "HEALTH": HealthConfig,
    "EJECTION": BreakerConfig,
    "PROGRESS": ProgressConfig,
    "UPSTREAM": UpstreamConfig,
    "ADMIN": AdminConfig,
    **{f"SURFACES__{name.upper()}": SurfaceConfig for name in NAMES},
    "MODEL": LlmServiceConfig,
    "SECURITY": SecurityConfig,
    "METRICS": MetricsConfig,
    "CACHE": AnswerCacheConfig,
    "SINGLE_FLIGHT": SingleFlightConfig,
    "CHAT_HISTORY": ChatHistoryConfig,
    "PLG": PlgConfig,
}


def given(**environ: str) -> Settings:
    return load(environ, None, None)


def refused(environ: Mapping[str, str], env_file: Path | None = None, config_file: Path | None = None) -> str:
    with pytest.raises(SettingsError) as caught:
        load(environ, env_file, config_file)
    return str(caught.value)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def where(settings: Settings, name: str) -> str:
    return next(origin.where for origin in settings.origins if origin.name == name)


def test_nothing_given_is_a_whole_configuration() -> None:
    """Without any setting the router starts empty, closed to the public, on port 8000."""
    settings = given()
    assert settings.models == ()
    assert settings.notices == ()
    assert settings.front.listen == (TcpAddress("0.0.0.0", 8000),)
    assert not settings.access.disabled
    assert settings.cors.allowed_origins == ()
    assert settings.timeouts == Timeouts()
    assert settings.retry == RetryConfig()
    assert settings.health == HealthConfig()
    assert settings.upstream == UpstreamConfig()


@pytest.mark.parametrize("section", SECTIONS)
def test_each_field_of_a_section_is_a_knob(section: str) -> None:
    """A config object has no field that the environment cannot set, and no knob lacks its field."""
    fields = {field.name for field in dataclasses.fields(CONFIG_OBJECTS[section])}
    assert set(section_knobs(section)) == fields


@pytest.mark.parametrize("name", KNOBS)
def test_knob_reads_its_own_default(name: str) -> None:
    """What the documents show as a default is read back as that default."""
    knob = KNOBS[name]
    if knob.default is None:
        assert knob.default_text == ""
    elif knob.default_text:
        assert knob.kind.read(knob.default_text, name) == knob.default


def test_knob_names_are_theirs_alone() -> None:
    """No name stands in two groups, and but for one that meant two things none is that of another knob."""
    names = [name for group in GROUPS.values() for knob in group for name in (knob.name, *knob.also)]
    names.remove("LLM_API_REQUEST_TIMEOUT")
    assert len(names) == len(set(names))


def test_env_example_lists_every_knob_with_its_default() -> None:
    """`.env.example` has a line per knob, in the table's order, with its true default, sentence and mark."""
    lines = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
    found = [match for line in lines if (match := re.fullmatch(r"#([A-Z][A-Z0-9_]*)=(.*)", line))]
    assert {match[1]: match[2] for match in found} == {n: knob.default_text for n, knob in KNOBS.items()}
    assert [match[1] for match in found] == list(KNOBS)
    text = " ".join(line.removeprefix("# ") for line in lines)
    for knob in KNOBS.values():
        assert f"{knob.sentence} ({knob.kind.word})" in text
        assert all(name in text for name in knob.also)
    marked = {
        match[1]
        for block in (ROOT / ".env.example").read_text(encoding="utf-8").split("\n\n")
        if "Read at the start only." in block.replace("\n# ", " ")
        and (match := re.search(r"(?m)^#([A-Z][A-Z0-9_]*)=", block))
    }
    assert marked == {name for name, knob in KNOBS.items() if knob.restart}


def test_env_example_can_be_used_with_every_line_taken_in(tmp_path: Path) -> None:
    """Uncommenting all knobs of `.env.example` changes nothing."""
    text = (ROOT / ".env.example").read_text(encoding="utf-8")
    env_file = write(tmp_path / ".env", re.sub(r"(?m)^#([A-Z][A-Z0-9_]*=)", r"\1", text))
    settings = load({}, env_file, None)
    assert dataclasses.replace(settings, origins=()) == dataclasses.replace(given(), origins=())
    assert where(settings, "PORT") == "PORT in .env"


def test_env_example_loads_as_shipped() -> None:
    """The shipped `.env.example` sets nothing."""
    assert load({}, ROOT / ".env.example", None) == given()


def test_config_example_loads() -> None:
    """The shipped `config.example.yml` is read by the real loader."""
    settings = load({}, None, ROOT / "config.example.yml")
    assert [model.id for model in settings.models] == ["gemma-3-12b", "distilgpt2"]
    assert settings.models[0].default
    assert settings.models[0].timeouts == Timeouts(first_event_s=60, total_stream_s=900)


def test_requirements_are_those_of_the_package() -> None:
    """backend/requirements.txt names the same dependencies as pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (ROOT / "backend" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == project["dependencies"]


def test_sources_rank(tmp_path: Path) -> None:
    """Command line beats environment beats `.env` beats `config.yml` beats the default."""
    config = write(tmp_path / "config.yml", "port: 1\nhost: 10.0.0.1\nlog_level: debug\ngrace_s: 1\n")
    env_file = write(tmp_path / ".env", "PORT=2\nHOST=10.0.0.2\nLOG_LEVEL=ERROR\n")
    settings = load({"PORT": "3", "HOST": "10.0.0.3"}, env_file, config, {"PORT": "4"})
    assert settings.front.listen == (TcpAddress("10.0.0.3", 4),)
    assert settings.log_level == "ERROR"
    assert settings.front.grace_s == 1.0
    assert settings.front.drain_s == 120.0
    names = ("PORT", "HOST", "LOG_LEVEL", "GRACE_S", "DRAIN_S")
    assert [where(settings, name) for name in names] == [
        "--port on the command line",
        "HOST in the environment",
        "LOG_LEVEL in .env",
        "grace_s in config.yml",
        "default",
    ]


def test_prefixed_name_wins_and_tells(tmp_path: Path) -> None:
    """POINTSMAN_X beats X, also from `.env` against the environment; one notice names the loser."""
    env_file = write(tmp_path / ".env", "POINTSMAN_HOST=127.0.0.1\n")
    settings = load({"HOST": "some-machine"}, env_file, None)
    assert settings.front.listen == (TcpAddress("127.0.0.1", 8000),)
    (notice,) = settings.notices
    assert notice.startswith("HOST is ignored: POINTSMAN_HOST in .env")
    assert given(HOST="::1", POINTSMAN_HOST="::1").notices == ()


@pytest.mark.parametrize("name", ["UPSTREAM__CA_FILE", "UPSTREAM_CA_FILE", "POINTSMAN_UPSTREAM_CA_FILE"])
def test_further_names_of_a_knob_are_read(name: str) -> None:
    """UPSTREAM_CA_FILE is UPSTREAM__CA_FILE, with and without our prefix."""
    assert refused({name: "/nowhere/ca.pem"}).startswith(f"{name}: there is no file")


def test_listen_overrides_host_and_port() -> None:
    """LISTEN takes the place of HOST and PORT; empty, it gives way."""
    settings = given(LISTEN="127.0.0.1:0, [::1]:8080,unix:/run/p.sock", PORT="9")
    assert settings.front.listen == (
        TcpAddress("127.0.0.1", 0),
        TcpAddress("::1", 8080),
        UnixAddress("/run/p.sock"),
    )
    assert given(LISTEN="", PORT="9").front.listen == (TcpAddress("0.0.0.0", 9),)


def test_every_section_reaches_its_object(tmp_path: Path) -> None:
    """Values of sections arrive in the config objects, from the environment and from the file."""
    config = write(tmp_path / "config.yml", "retry:\n  max_attempts: 5\nhealth: {fall: 7}\n")
    settings = load({"TIMEOUT__CONNECT_S": "0.5", "POINTSMAN_UPSTREAM__IDLE_EXPIRY_S": "4"}, None, config)
    assert settings.timeouts.connect_s == 0.5
    assert settings.retry.max_attempts == 5
    assert settings.health.fall == 7
    assert settings.upstream.idle_expiry_s == 4.0


def test_surfaces_have_models_of_their_own(tmp_path: Path) -> None:
    """From the file or the environment, which beats it; a surface without a setting has none."""
    config = write(tmp_path / "config.yml", "surfaces: {tgi: {model: a}, openai: {model: b}}")
    settings = load({"SURFACES__OPENAI__MODEL": "c"}, None, config)
    models = {name: surface.model for name, surface in settings.surfaces.items()}
    assert models == {**dict.fromkeys(NAMES), "tgi": "a", "openai": "c"}
    assert where(settings, "SURFACES__TGI__MODEL") == "model of tgi of surfaces in config.yml"


def test_every_surface_of_a_route_has_its_settings() -> None:
    """What serves a route can be named in the settings, and nothing else can."""
    bodies: tuple[Fields, ...] = ({"inputs": Raw()}, {"prompt": Raw()}, {"prompt": Raw(), "model_id": Raw()})
    routes = Routes().table
    assert {route.surface_of(body).name for route in routes for body in bodies} == set(NAMES)


def test_plain_values_arrive() -> None:
    """Values outside sections arrive, lists and words included."""
    settings = given(
        ALLOWED_NETWORKS="10.0.0.0/8",
        DENIED_NETWORKS="10.9.0.0/16, 10.8.0.1",
        TRUSTED_PROXIES="",
        FORWARDED_HEADER="X-Real-IP",
        ALLOWED_ORIGINS="https://a.example",
        PUBLIC_HOSTS="Router.Example",
        MEDIA_HOSTS="img.example",
        STREAM_ERROR_TERMINATION="abort",
        DOCS="off",
        LOG_FORMAT="text",
        PUBLIC_URL="https://llm.example/x/",
        ROOT_PATH="/llm/",
        MAX_BODY_BYTES="2048",
    )
    assert [str(network) for network in settings.access.allowed] == ["10.0.0.0/8"]
    assert [str(network) for network in settings.access.denied] == ["10.9.0.0/16", "10.8.0.1/32"]
    assert settings.access.trusted_proxies == ()
    assert settings.access.forwarded_header == "x-real-ip"
    assert settings.cors.allowed_origins == ("https://a.example",)
    assert settings.cors.public_hosts == ("router.example",)
    assert settings.media_hosts == ("img.example",)
    assert settings.abort_streams
    assert not settings.docs
    assert settings.log_format is LogFormat.TEXT
    assert settings.public_url == "https://llm.example/x"
    assert settings.root_path == "/llm"
    assert settings.max_body_bytes == 2048


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({"POINTSMAN_PRT": "1"}, "POINTSMAN_PRT is not a setting; did you mean POINTSMAN_PORT?"),
        ({"POINTSMAN_QQQ": "1"}, "POINTSMAN_QQQ is not a setting; remove it"),
        (
            {"TIMEOUT__CONECT_S": "1"},
            "TIMEOUT__CONECT_S is not a setting; did you mean TIMEOUT__CONNECT_S; known there are TIMEOUT__",
        ),
        (
            {"SURFACES__X": "m"},
            "SURFACES__X is not a setting; known there are SURFACES__OPENAI__MODEL, SURFACES__TGI__MODEL, ",
        ),
        (
            {"POINTSMAN_SURFACES__TGI__MODLE": "m"},
            "POINTSMAN_SURFACES__TGI__MODLE is not a setting; did you mean POINTSMAN_SURFACES__TGI__MODEL; ",
        ),
        ({"SURFACES__TGI__MODEL": "a b"}, "SURFACES__TGI__MODEL: 'a b' is not a name"),
        ({"POINTSMAN_RETRY__X": ""}, "POINTSMAN_RETRY__X is not a setting"),
        ({"PORT": "abc"}, "PORT: 'abc' is not a whole number from 0 to 65535"),
        ({"POINTSMAN_PORT": "65536"}, "POINTSMAN_PORT: '65536' is not"),
        ({"TIMEOUT__CONNECT_S": "nan"}, "TIMEOUT__CONNECT_S: 'nan' is not a number from 0.05 to 60"),
        ({"DOCS": "perhaps"}, "DOCS: 'perhaps' is neither yes nor no; write on or off"),
        ({"LOG_LEVEL": "loud"}, "LOG_LEVEL: 'loud' is not one of DEBUG, INFO, WARNING, ERROR, CRITICAL"),
        ({"LISTEN": "8000"}, "LISTEN: '8000' is not an address"),
        ({"ALLOWED_NETWORKS": "0.0.0.0/0"}, "ALLOWED_NETWORKS covers every IPv4 address"),
        ({"POINTSMAN_TRUSTED_PROXIES": "::/0"}, "POINTSMAN_TRUSTED_PROXIES covers every public IPv6"),
        ({"OPS_NETWORKS": "office"}, "OPS_NETWORKS: 'office' is neither a network nor an address"),
        ({"ALLOWED_ORIGINS": "*,http://a"}, "ALLOWED_ORIGINS: '*' must stand alone"),
        (
            {"RETRY__BACKOFF_BASE_S": "2"},
            "RETRY__BACKOFF_BASE_S (2) is more than RETRY__BACKOFF_MAX_S (0.25)",
        ),
        ({"CONFIG_FILE": "/nowhere.yml"}, "CONFIG_FILE: there is no file '/nowhere.yml'"),
        ({"PUBLIC_URL": "llm.example"}, "PUBLIC_URL: 'llm.example' is not a base URL"),
        ({"ROOT_PATH": "llm"}, "ROOT_PATH: 'llm' is not a path prefix"),
        (
            {"KEY_NEEDS": "POST /generate=always, POST /api/chat/streams=always"},
            "KEY_NEEDS: 'POST /api/chat/streams' is no route of this router; did you mean POST /api/chat/str",
        ),
        (
            {"KEY_NEEDS": "POST /models/distilgpt2/generate=always"},
            "KEY_NEEDS: 'POST /models/distilgpt2/generate' is no route of this router; did you mean POST /mo",
        ),
        ({"KEY_NEEDS": "GET /health=always"}, "KEY_NEEDS: GET /health is open to everybody, and neither"),
        (
            {"UPSTREAM__CLIENT_KEY": str(ROOT / "LICENSE")},
            "UPSTREAM__CLIENT_KEY is set without a certificate",
        ),
        ({"UPSTREAM_CA_FILE": str(ROOT / "LICENSE")}, "UPSTREAM_CA_FILE cannot be used for TLS"),
    ],
)
def test_bad_value_stops_with_one_sentence(environ: dict[str, str], sentence: str) -> None:
    """What is wrong is named as the user wrote it, on one line."""
    message = refused(environ)
    assert message.startswith(sentence)
    assert "\n" not in message


def test_message_tells_the_file(tmp_path: Path) -> None:
    """A bad value in a file is named with the file, in the file's own words."""
    config = write(tmp_path / "config.yml", "key_needs: [if_any=never, POST /v1/compltions=always]\n")
    assert refused({}, None, config).startswith("key_needs in config.yml: 'POST /v1/compltions' is no route")
    env_file = write(tmp_path / ".env", "HEALTH__FALL=0\n")
    assert refused({}, env_file).startswith("HEALTH__FALL in .env: '0' is not a whole number from 1 to 100")
    config = write(tmp_path / "my.yml", "timeout:\n  connect_s: fast\n")
    assert refused({}, None, config).startswith("connect_s of timeout in my.yml: 'fast' is not a number")
    config = write(tmp_path / "my.yml", "allowed_networks: ['::/0']\n")
    assert refused({}, None, config).startswith("allowed_networks in my.yml covers every public IPv6 address")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("prot: 1", "c.yml has an unknown key 'prot'; did you mean port; known there are host, port, "),
        ("PORT: 1", "c.yml has an unknown key 'PORT'; did you mean port;"),
        (
            "retry: {max_attemps: 1, x: 2}",
            "retry in c.yml has an unknown key 'max_attemps', 'x'; did you mean",
        ),
        ("retry: 3", "retry in c.yml must be a section"),
        ("port: [1, 2]", "port in c.yml takes one value; it has a list"),
        ("port: {a: 1}", "port in c.yml takes one value; it has a section"),
        ("config_file: x", "c.yml has an unknown key 'config_file'"),
        ("models: 3", "models in c.yml must be a list"),
        ("surfaces: tgi", "surfaces in c.yml must be a section"),
        ("surfaces: {openia: {}}", "surfaces in c.yml has an unknown key 'openia'; did you mean openai;"),
        ("surfaces: {tgi: m}", "tgi of surfaces in c.yml must be a section"),
        ("surfaces: {tgi: {modle: m}}", "tgi of surfaces in c.yml has an unknown key 'modle'; did you mean"),
        ("surfaces: {tgi: {model: a b}}", "model of tgi of surfaces in c.yml: 'a b' is not a name"),
    ],
)
def test_bad_config_file_stops(tmp_path: Path, text: str, sentence: str) -> None:
    """An unknown key, at any depth, or a wrong shape stops the start."""
    assert refused({}, None, write(tmp_path / "c.yml", text)).startswith(sentence)


def test_seed_002s_files_are_read(tmp_path: Path) -> None:
    """Its `config.yml` and `.env` mean what they meant; the environment beats `.env`, and that the file."""
    config = write(
        tmp_path / "config.yml",
        "app: {name: LLM FastAPI Service, version: 0.1.0, host: 127.0.0.1, port: 8001, log_level: WARNING}\n"
        "model: {name: google/gemma-3-1b-it, source: hub, device: cpu, max_tokens: 256, temperature: 0.5,\n"
        "  top_p: 0.8, top_k: 40}\n"
        f"security: {{api_key: {'k' * 32}, max_prompt_chars: 99, enable_pii_filter: true}}\n"
        "metrics: {enabled: false, endpoint: /metrics}\n"
        "cache: {enabled: true, size: 7, ttl_seconds: 60}\nchat_history: {enabled: true, ttl_seconds: 90}\n"
        "logging: {format: text, level: ERROR, include_request_body: false}\n",
    )
    env_file = write(tmp_path / ".env", "MODEL__TOP_K=30\nMODEL__TOP_P=0.7\n")
    settings = load({"MODEL__TOP_K": "20"}, env_file, config)
    assert settings.front.listen == (TcpAddress("127.0.0.1", 8001),)
    assert (settings.log_level, settings.log_format) == ("ERROR", "text")
    assert settings.surfaces["llm_service"].model == "google/gemma-3-1b-it"
    assert settings.llm_service == LlmServiceConfig(256, 0.5, 0.7, 20)
    assert settings.security.api_key is not None
    assert settings.security.api_key.digest == digest_of("k" * 32)
    assert settings.security.max_prompt_chars == 99
    assert settings.security.enable_pii_filter is PiiMode.REJECT
    assert not settings.metrics.enabled
    assert settings.answer_cache == AnswerCacheConfig(enabled=True, size=7, ttl_seconds=60)
    assert settings.chat_history == ChatHistoryConfig(enabled=True, ttl_seconds=90)
    assert "k" * 32 not in repr(settings)
    assert [notice.partition(":")[0] for notice in settings.notices] == [
        "name of app in config.yml is not read",
        "version of app in config.yml is not read",
        "source of model in config.yml is not read",
        "device of model in config.yml is not read",
        "endpoint of metrics in config.yml is not read",
        "include_request_body of logging in config.yml is not read",
        "log_level of app in config.yml is ignored",
    ]


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("MODEL__TOPK", "5", "MODEL__TOPK is not a setting; did you mean MODEL__TOP_K"),
        ("APP__HOSTS", "x", "APP__HOSTS is not a setting; did you mean APP__HOST"),
        ("SECURITY__API_KEY", "change-me", "SECURITY__API_KEY is a key that everybody knows"),
        ("SECURITY__API_KEY", "short", "SECURITY__API_KEY is too short"),
        (
            "SECURITY__ENABLE_PII_FILTER",
            "maybe",
            "SECURITY__ENABLE_PII_FILTER: 'maybe' is not one of off, reject",
        ),
        ("MODEL__MAX_TOKENS", "4096", "MODEL__MAX_TOKENS: '4096' is not a whole number from 1 to 2048"),
        ("METRICS__ENABLED", "perhaps", "METRICS__ENABLED: 'perhaps' is neither yes nor no"),
    ],
)
def test_seed_002s_names_are_held_strictly(name: str, value: str, sentence: str) -> None:
    """A misspelt name in one of its sections stops the start, and so does a key that is in its documents."""
    assert refused({name: value}).startswith(sentence)


def test_the_pii_filter_has_three_words_and_the_seeds_two() -> None:
    """`true` is what the seed did: reject."""
    words = {"off": "off", "false": "off", "true": "reject", "reject": "reject", "Redact": "redact"}
    for word, mode in words.items():
        assert given(SECURITY__ENABLE_PII_FILTER=word).security.enable_pii_filter == mode


def test_foreign_names_are_left_alone() -> None:
    """Names of earlier services outside of sections do not stop the start."""
    assert given(HUGGINGFACE_TOKEN="x", PLG_PORT="x").notices == ()


def test_kubernetes_service_links_are_no_settings() -> None:
    """What Kubernetes sets for a Service named pointsman is not taken for ours."""
    settings = given(
        POINTSMAN_PORT="tcp://10.96.0.7:80",
        POINTSMAN_SERVICE_HOST="10.96.0.7",
        POINTSMAN_SERVICE_PORT_HTTP="80",
        POINTSMAN_PORT_80_TCP="tcp://10.96.0.7:80",
        POINTSMAN_PORT_80_TCP_ADDR="10.96.0.7",
    )
    assert settings.front.listen == (TcpAddress("0.0.0.0", 8000),)


def test_slip_in_a_plain_name_is_noticed() -> None:
    """A name outside our namespaces that is almost ours starts, with a notice."""
    assert given(DENIED_NETWORK="10.0.0.1").notices == (
        "DENIED_NETWORK is not a setting; did you mean DENIED_NETWORKS?",
    )
    assert given(HOME="/root", HOSTNAME="box", PATH="/bin").notices == ()


def test_config_file_setting_beats_the_default_one(tmp_path: Path) -> None:
    """CONFIG_FILE names the file to read instead; a default file need not exist."""
    other = write(tmp_path / "other.yml", "port: 7\n")
    usual = write(tmp_path / "config.yml", "port: 8\n")
    assert load({"CONFIG_FILE": str(other)}, None, usual).front.listen == (TcpAddress("0.0.0.0", 7),)
    assert load({}, tmp_path / "none", usual).front.listen == (TcpAddress("0.0.0.0", 8),)
    assert load({}, None, tmp_path / "none.yml") == given()


def test_discover_takes_the_first_folder_that_has_it(tmp_path: Path) -> None:
    """A file in the working directory comes before one in the project's root."""
    (tmp_path / "a").mkdir()
    found = write(tmp_path / "config.yml", "")
    assert discover("config.yml", tmp_path / "a", tmp_path) == found
    first = write(tmp_path / "a" / "config.yml", "")
    assert discover("config.yml", tmp_path / "a", tmp_path) == first
    assert discover(".env", tmp_path) is None


def objection(environ: Mapping[str, str], config_file: Path | None) -> str:
    """What the loader says against a configuration; empty where it loads."""
    try:
        load(environ, None, config_file)
    except SettingsError as error:
        return str(error)
    return ""


_words = st.sampled_from(
    ["a", "id", "url", "engine", "tgi", "replicas", "models", "retry", "http://h", "1", "[", "=", "\n"]
)
_trees = st.recursive(
    st.one_of(_words, st.text(max_size=8), st.integers(), st.none(), st.booleans()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_words, inner, max_size=3)),
    max_leaves=12,
)
_keys = st.sampled_from([*(knob.key for knob in KNOBS.values()), "models", "retry", "upstream", "cache"])
_names = st.sampled_from([*KNOBS, "TGI_A_ENDPOINT", "TGI_A_KEY", "VLLM_A_ENDPOINT"])


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@for_all(st.dictionaries(_keys, _trees, max_size=3))
@example({"models": [{"id": "a\nb", "replicas": [{"url": "http://h\n"}]}]})
def test_any_config_file_loads_or_stops_with_a_sentence(tmp_path: Path, tree: dict[str, object]) -> None:
    """No config file, however odd, ends in anything but settings or one line that says what is wrong."""
    assert "\n" not in objection({}, write(tmp_path / "config.yml", yaml.safe_dump(tree)))


@hypothesis_settings(deadline=None)
@for_all(st.dictionaries(_names, st.text(max_size=12)))
@example({"CONFIG_FILE": "~nobody/\0"})
def test_any_environment_loads_or_stops_with_a_sentence(environ: dict[str, str]) -> None:
    """No value in the environment ends in anything but settings or one line that says what is wrong."""
    assert "\n" not in objection(environ, None)


def test_a_key_file_that_cannot_be_used_stops_the_start(tmp_path: Path) -> None:
    """Better no start than one that lets nobody in, or everybody."""
    path = tmp_path / "keys.json"
    path.write_text('{"keys":[{"sha256":"x"}]}')
    with pytest.raises(SettingsError, match=r"^KEYS_FILE: key file .*keys\[0\]\.sha256"):
        load({"KEYS_FILE": str(path)}, None, None)
    assert load({"KEYS_FILE": str(tmp_path / "none.json")}, None, None).keys_file.name == "none.json"


def test_a_store_that_cannot_be_is_said_and_its_password_is_not() -> None:
    """Neither the error nor the report of the settings shows who signs in."""
    with pytest.raises(SettingsError, match=r"^STORE__URL of the store must be memory://") as caught:
        load({"STORE__URL": "mysql://me:s3cret-word@h/0"}, None, None)
    assert "s3cret" not in str(caught.value)
    settings = load({"STORE__URL": "redis://me:s3cret-word@h:6379/1"}, None, None)
    assert settings.store.url == "redis://me:s3cret-word@h:6379/1"
    (shown,) = [origin.text for origin in settings.origins if origin.name == "STORE__URL"]
    assert shown == "redis://…@h:6379/1"


def test_several_workers_remember_sessions_in_a_shared_store_only() -> None:
    """In one worker's memory a session would come and go from turn to turn."""
    alone = load({"CHAT_HISTORY__ENABLED": "true"}, None, None)
    check_workers(alone, 1)
    with pytest.raises(SettingsError, match=r"CHAT_HISTORY__ENABLED with 3 workers .* STORE__URL"):
        check_workers(alone, 3)
    shared = load({"CHAT_HISTORY__ENABLED": "true", "STORE__URL": "redis://h:6379"}, None, None)
    check_workers(shared, 3)
    check_workers(load({}, None, None), 3)


def test_the_usual_slots_are_those_of_every_replica(tmp_path: Path) -> None:
    """Of the environment's engines and of the file's; one with a limit of its own keeps that."""
    engines = "models:\n  - id: a\n    engine: vllm\n    replicas:\n      - url: http://one:1\n"
    config = write(tmp_path / "config.yml", engines + "        max_in_flight: 3\n")
    told = {"ADMISSION__SLOTS": "7", "VLLM_B_ENDPOINT": "http://two:2"}
    found = {model.id: model.replicas[0] for model in load(told, None, config).models}
    assert (found["a"].max_in_flight, found["a"].usual_slots) == (3, 7)
    assert (found["b"].max_in_flight, found["b"].usual_slots) == (None, 7)
