"""Models of `config.yml`, and how they join those of the environment."""

from pathlib import Path

import pytest

from pointsman.call import Timeouts
from pointsman.model import ModelConfig, ReplicaConfig
from pointsman.replica import Endpoint, Engine
from pointsman.settings import Settings, SettingsError, load

MINIMAL = "models:\n- {id: m, engine: tgi, replicas: [http://h:1]}\n"


def loaded(folder: Path, text: str, **environ: str) -> Settings:
    config = folder / "config.yml"
    config.write_text(text, encoding="utf-8")
    return load(environ, None, config)


def refused(folder: Path, text: str, **environ: str) -> str:
    with pytest.raises(SettingsError) as caught:
        loaded(folder, text, **environ)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_short_entry_gets_the_defaults(tmp_path: Path) -> None:
    """Id, engine and URLs are enough."""
    (model,) = loaded(tmp_path, MINIMAL + "timeout: {connect_s: 1}\n").models
    assert model == ModelConfig(
        id="m",
        name="m",
        replicas=(ReplicaConfig(Endpoint("http", "h", 1), Engine.TGI),),
        timeouts=Timeouts(connect_s=1),
        origin="config.yml",
    )


def test_full_entry_is_read(tmp_path: Path) -> None:
    """All that an entry can say arrives."""
    text = """
models:
- id: big.model_1
  engine: vllm
  hf_name: org/Big
  name: Big one
  aliases: [gpt-4, org/Other, gpt-4, big.model_1]
  default: yes
  fallbacks: []
  policy: weighted
  timeouts: {total_s: 5, connect_s: 0.5}
  limits: {max_body_bytes: 2048}
  replicas:
  - url: https://a/base
    served_name: big
    weight: 3
    max_in_flight: 9
    key: k-1
  - {url: "http://b", engine: tgi, key_env: B_KEY}
"""
    (model,) = loaded(tmp_path, text, B_KEY="k-2").models
    assert model == ModelConfig(
        id="big.model_1",
        name="Big one",
        hf_name="org/Big",
        aliases=("gpt-4", "org/Other"),
        default=True,
        policy="weighted",
        timeouts=Timeouts(total_s=5, connect_s=0.5),
        max_body_bytes=2048,
        replicas=(
            ReplicaConfig(Endpoint("https", "a", 443, "/base"), Engine.VLLM, "big", 3, 9, "k-1"),
            ReplicaConfig(Endpoint("http", "b", 80), Engine.TGI, key="k-2"),
        ),
        origin="config.yml",
    )
    assert "k-1" not in repr(model)


def entry(rest: str) -> str:
    return f"models:\n- id: m\n  engine: tgi\n{rest}\n"


M = "model 'm' in config.yml"
R = f"replica 1 of {M}"
TWO_DEFAULTS = """
models:
- {id: a, engine: tgi, default: true, replicas: [http://i]}
- {id: b, engine: tgi, default: true, replicas: [http://i]}
"""


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("models:\n- {engine: tgi}", "item 1 of models in config.yml has no id"),
        ("models:\n- gpt-2", "item 1 of models in config.yml must be a section"),
        ("models:\n- {id: GPT/2}", "id of model 'GPT/2' in config.yml may only have a-z"),
        ("models:\n- {id: m, url: x}", f"{M} has an unknown key 'url'"),
        (entry(""), f"{M} has no replicas"),
        (entry("  replicas: [h]"), f"url of {R}: endpoint 'h' must begin"),
        (entry("  replicas: [[a]]"), f"{R} must be a URL"),
        (entry("  replicas: [{weight: 1}]"), f"{R} has no url"),
        (entry("  replicas: [{url: 'http://h', weight: 0}]"), f"weight of {R}: '0' is not"),
        (entry("  replicas: [{url: 'http://h', waight: 1}]"), f"{R} has an unknown key 'waight'; did you"),
        (entry("  replicas: [{url: 'http://h', engine: ollama}]"), f"engine of {R}: 'ollama' is not one of"),
        (entry("  replicas: [http://h, http://h/]"), "model 'm' has http://h twice"),
        (entry("  replicas: [http://h]\n  policy: best"), f"policy of {M}: 'best' is not one of"),
        (entry("  replicas: [http://h]\n  timeouts: {connect: 1}"), f"timeouts of {M} has an unknown"),
        (entry("  replicas: [http://h]\n  timeouts: {send_s: 0}"), f"send_s of timeouts of {M}: '0' is"),
        (entry("  replicas: [http://h]\n  limits: {tokens: 1}"), f"limits of {M} has an unknown"),
        (entry("  replicas: [http://h]\n  aliases: [a b]"), f"aliases of {M}: 'a b' is not a name"),
        ("models:\n- {id: m, replicas: [http://h]}", f"{R} does not say its engine"),
        (MINIMAL + "- {id: m, replicas: []}", "config.yml has two models with the id 'm'"),
        (
            MINIMAL + "- {id: n, engine: tgi, replicas: [http://i], aliases: [m]}",
            "models 'm' and 'n' both answer to 'm'; rename one",
        ),
        (TWO_DEFAULTS, "models a and b are both marked as default"),
    ],
)
def test_bad_entry_stops_with_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    """A wrong or contradictory entry is named with its place."""
    assert refused(tmp_path, text).startswith(sentence)


def test_key_variable_must_exist(tmp_path: Path) -> None:
    """key_env names a variable that is set; key and key_env together are refused; no key is told."""
    text = entry("  replicas: [{url: 'http://h', key_env: NO_KEY}]")
    assert refused(tmp_path, text) == (
        "key_env of replica 1 of model 'm' in config.yml: there is no variable 'NO_KEY'; set it to the key"
    )
    text = entry("  replicas: [{url: 'http://h', key_env: NO_KEY, key: s3cret}]")
    assert "s3cret" not in refused(tmp_path, text)


def test_environment_replaces_the_replicas_of_a_file_model(tmp_path: Path) -> None:
    """A model in both keeps what the file says of it, with the environment's replicas and a notice."""
    text = "models:\n- {id: gpt-2, name: Mine, engine: tgi, replicas: [http://file], policy: weighted}\n"
    settings = loaded(tmp_path, text, VLLM_GPT2_ENDPOINT="http://env:1")
    (model,) = settings.models
    assert (model.name, model.policy) == ("Mine", "weighted")
    assert [replica.endpoint.host for replica in model.replicas] == ["env"]
    assert model.origin == "config.yml, replicas from VLLM_GPT2_ENDPOINT"
    assert settings.notices == ("VLLM_GPT2_ENDPOINT replaces the replicas of model 'gpt-2' in config.yml",)


def test_file_may_leave_the_replicas_to_the_environment(tmp_path: Path) -> None:
    """A file model without replicas takes the environment's, without a notice."""
    settings = loaded(tmp_path, "models:\n- {id: gpt-2, aliases: [g]}\n", TGI_GPT2_ENDPOINT="http://env:1")
    assert settings.models[0].aliases == ("g",)
    assert settings.notices == ()


def test_models_of_the_file_come_first(tmp_path: Path) -> None:
    """The file's order, then the environment's models by name."""
    settings = loaded(tmp_path, MINIMAL, TGI_A_ENDPOINT="http://a", TGI_B_ENDPOINT="http://b")
    assert [model.id for model in settings.models] == ["m", "a", "b"]


FOUR = """
models:
- {id: a, engine: tgi, replicas: [http://h], fallbacks: %s}
- id: b
  engine: vllm
  hf_name: org/B
  aliases: [bee]
  replicas: [{url: http://i, served_name: b-served}]
  fallbacks: a
- {id: c, engine: tgi, replicas: [http://j]}
"""


@pytest.mark.parametrize("names", ["[b, c, d]", "[bee, c, d]", "[org/B, c, d]", "[b-served, c, d]"])
def test_fallbacks_are_known_by_all_their_names(tmp_path: Path, names: str) -> None:
    """In their order; two models may stand in for each other, and one may be of the environment."""
    models = {model.id: model for model in loaded(tmp_path, FOUR % names, TGI_D_ENDPOINT="http://k").models}
    assert models["a"].fallbacks == ("b", "c", "d")
    assert models["b"].fallbacks == ("a",)
    assert models["c"].fallbacks == models["d"].fallbacks == ()


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ("[b, see]", "no model is configured as 'see'; known are a, b, c"),
        ("gemma", "no model is configured as 'gemma'; known are a, b, c"),
        ("[a]", "it names itself; name each other model once"),
        ("[c, a]", "it names itself; name each other model once"),
        ("[b, c, b]", "it names 'b' twice; name each other model once"),
        ("[b, bee]", "it names 'b' twice; name each other model once"),
        ("{b: c}", "takes values, not sections"),
    ],
)
def test_a_bad_chain_stops_the_start(tmp_path: Path, names: str, sentence: str) -> None:
    """With a sentence that names the entry and what is wrong with it."""
    told = refused(tmp_path, FOUR % names)
    assert told.startswith("fallbacks of model 'a' in config.yml")
    assert sentence in told


def test_a_fallback_of_the_environment_has_a_chain_by_the_file(tmp_path: Path) -> None:
    """The file says what the environment cannot, and leaves the replicas to it."""
    text = "models:\n- {id: m, fallbacks: [n]}\n"
    environ = {"TGI_M_ENDPOINT": "http://h", "VLLM_N_ENDPOINT": "http://i"}
    assert loaded(tmp_path, text, **environ).models[0].fallbacks == ("n",)


@pytest.mark.parametrize("wanted", ["gpt-2", "gpt2", "small"])
def test_default_model_marks_one(tmp_path: Path, wanted: str) -> None:
    """DEFAULT_MODEL by id, hub name or alias moves the mark to that model."""
    text = MINIMAL.replace("}", ", default: true}") + "- {id: gpt-2, hf_name: gpt2, aliases: [small]}\n"
    settings = loaded(tmp_path, text, TGI_GPT2_ENDPOINT="http://g", DEFAULT_MODEL=wanted)
    assert [model.id for model in settings.models if model.default] == ["gpt-2"]


@pytest.mark.parametrize("setting", ["DEFAULT_MODEL", "SURFACES__TGI__MODEL"])
@pytest.mark.parametrize("wanted", ["m", "mine", "org/M", "served"])
def test_default_models_are_known_by_all_their_names(tmp_path: Path, setting: str, wanted: str) -> None:
    """Id, alias, hub name and the name that a replica is said to serve need no notice."""
    text = entry("  aliases: [mine]\n  hf_name: org/M\n  replicas: [{url: 'http://h', served_name: served}]")
    assert loaded(tmp_path, text, **{setting: wanted}).notices == ()


@pytest.mark.parametrize("setting", ["DEFAULT_MODEL", "SURFACES__TGI__MODEL"])
def test_a_default_model_that_is_not_configured_is_noticed(tmp_path: Path, setting: str) -> None:
    """An engine may serve that name later; the notice tells what happens until then, and the likely slip."""
    text = MINIMAL + "- {id: gpt-2, default: true}\n"
    settings = loaded(tmp_path, text, TGI_GPT2_ENDPOINT="http://g", **{setting: "gtp-2"})
    (notice,) = settings.notices
    assert notice == (
        f"{setting}: no model is configured as 'gtp-2'; did you mean gpt-2; known are m, gpt-2; "
        "requests that this setting is for get 503 until an engine tells that it serves that name"
    )
    assert [model.default for model in settings.models] == [False, setting != "DEFAULT_MODEL"]


def test_default_model_may_wait_for_models() -> None:
    """Without any model DEFAULT_MODEL is kept unchecked, so that an empty start succeeds."""
    assert load({"DEFAULT_MODEL": "later"}, None, None).default_model == "later"
