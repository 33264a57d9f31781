"""docker-compose.gpu.yml: by the specification's schema, by what it must hold, and its health checks run."""

import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from containers import COMPOSE, ENGINES, KEYS, ROOT, compose, flags, seconds, service, split, tool
from containers import docker_command as docker
from pointsman.engines.vllm import Vllm
from pointsman.front import FrontConfig, TcpAddress
from pointsman.replica import Endpoint
from pointsman.settings import load
from processes import Emulator

VARIABLE = re.compile(r"\$\{(\w+)(:[-?])?([^}]*)\}")
DRAIN_S = FrontConfig().grace_s + FrontConfig().drain_s


def check_schema(path: Path) -> subprocess.CompletedProcess[str]:
    """Hold a compose file against the schema of the Compose specification, which check-jsonschema brings."""
    command = [tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_it_follows_the_specification(tmp_path: Path) -> None:
    """The Compose specification's own schema finds nothing wrong, and would."""
    done = check_schema(COMPOSE)
    assert done.returncode == 0, done.stdout + done.stderr
    wrong = tmp_path / "wrong.yml"
    wrong.write_text(COMPOSE.read_text().replace("cap_drop:", "cap_drops:"))
    assert "cap_drops" in check_schema(wrong).stdout


def test_no_engine_is_published() -> None:
    """Engines have no port on the host, by no way, and stand in no network of others."""
    for name in ENGINES:
        engine = service(name)
        assert {"ports", "network_mode", "container_name"} & set(engine) == set()
        assert engine["networks"] == ["engines"]
        assert engine["expose"] == [flags(engine["command"])["--port"]]


def test_the_router_is_published_on_loopback_alone() -> None:
    """Its one port on the host is bound to 127.0.0.1."""
    assert service("router")["ports"] == ["127.0.0.1:${ROUTER_PORT:-8082}:8082"]


def test_the_go_gateway_finds_the_router() -> None:
    """On the network `ai-llm-network` it answers to the name `llm-server`, on port 8082."""
    assert service("router")["networks"]["ai-llm-network"] == {"aliases": ["llm-server"]}
    assert compose()["networks"]["ai-llm-network"]["name"] == "ai-llm-network"


def test_keys_are_required() -> None:
    """Each engine has a key, the router has the same, and without one Compose stops with a sentence."""
    router, tgi, vllm = (service(name)["environment"] for name in ("router", *ENGINES))
    for key, own in (("TGI_DISTILGPT2_KEY", tgi["API_KEY"]), ("VLLM_GEMMA3_KEY", vllm["VLLM_API_KEY"])):
        assert router[key] == own
        ((name, operator, sentence),) = VARIABLE.findall(own)
        assert (name, operator) == (key, ":?")
        assert len(sentence.split()) > 5


def test_what_can_be_set_is_told() -> None:
    """Each variable stands in the file's head."""
    head = COMPOSE.read_text().partition("\nname:")[0]
    names = {name for name, _, _ in VARIABLE.findall(COMPOSE.read_text())}
    assert names >= set(KEYS)
    assert {name for name in names if name not in head} == set()


def test_the_router_waits_for_nobody() -> None:
    """It starts with every engine down; vLLM's wait for TGI ends when TGI fails."""
    assert "depends_on" not in service("router")
    assert service("vllm")["depends_on"] == {"tgi": {"condition": "service_healthy", "required": False}}


def test_the_router_is_locked_in() -> None:
    """It cannot write, has no capabilities and gains none, and what it takes is bounded."""
    router = service("router")
    assert router["read_only"] is True
    assert router["cap_drop"] == ["ALL"]
    assert router["security_opt"] == ["no-new-privileges:true"]
    assert all("size=" in mount for mount in router["tmpfs"])
    assert {"pids_limit", "mem_limit", "ulimits"} <= set(router)
    assert not {"privileged", "volumes", "cap_add", "user"} & set(router)


def test_the_router_reads_its_settings() -> None:
    """What the router is given are settings of its own, and name both engines where they listen."""
    given = {name: VARIABLE.sub("a-key", text) for name, text in service("router")["environment"].items()}
    settings = load({"PORT": "9", "HOST": "127.0.0.1", "LISTEN": "unix:/run/x", **given}, None, None)
    assert settings.front.listen == (TcpAddress("0.0.0.0", 8082),)
    assert {model.id for model in settings.models} == {"distilgpt2", "gemma-3-12b"}
    for model, engine in zip(settings.models, ENGINES, strict=True):
        (replica,) = model.replicas
        assert replica.key == "a-key"
        port = flags(service(engine)["command"])["--port"]
        assert replica.endpoint == Endpoint.parse(f"http://{engine}:{port}")
        assert str(model.hf_name) in " ".join(service(engine)["command"])


def test_gpus_are_reserved() -> None:
    """vLLM has, by number, as many GPUs as it spreads over; what both take of a card leaves a rest."""
    devices = {name: service(name)["deploy"]["resources"]["reservations"]["devices"][0] for name in ENGINES}
    assert all(device["capabilities"] == ["gpu"] for device in devices.values())
    vllm, tgi = flags(service("vllm")["command"]), flags(service("tgi")["command"])
    assert devices["vllm"]["device_ids"] == ["0", "1"]
    assert vllm["--tensor-parallel-size"] == "2"
    assert devices["tgi"]["device_ids"] in (["0"], ["1"])
    assert float(vllm["--gpu-memory-utilization"]) + float(tgi["--cuda-memory-fraction"]) < 1


def test_there_is_time_to_finish() -> None:
    """Docker waits longer than a service drains, and an engine drains no shorter than the router."""
    grace = {name: seconds(service(name)["stop_grace_period"]) for name in ("router", *ENGINES)}
    shutdown = float(flags(service("vllm")["command"])["--shutdown-timeout"])
    assert grace["router"] > DRAIN_S
    assert grace["vllm"] > shutdown > DRAIN_S
    assert grace["tgi"] > 90  # what TGI's launcher gives its web server


def test_the_router_lets_go_of_idle_connections_first() -> None:
    """vLLM keeps an idle connection longer than the router does, by far."""
    assert float(service("vllm")["environment"]["VLLM_HTTP_TIMEOUT_KEEP_ALIVE"]) > 2 * Vllm.idle_expiry_s


def test_4090s_do_not_reach_for_one_another() -> None:
    """Both ways of direct memory access between the cards are off, and shared memory is there instead."""
    vllm = service("vllm")
    assert vllm["environment"]["NCCL_P2P_DISABLE"] == "1"
    assert "NCCL_SHM_DISABLE" not in vllm["environment"]
    assert "--disable-custom-all-reduce" in vllm["command"]
    assert vllm["shm_size"] == "10g"


def test_models_are_kept() -> None:
    """Each volume is a named one that is declared, so that nothing is downloaded twice."""
    used = [mount.partition(":")[0] for name in ENGINES for mount in service(name)["volumes"]]
    assert sorted(used) == sorted(compose()["volumes"])


def test_services_come_back() -> None:
    """Each restarts and bounds its logs; each engine has a health check that waits for the first start."""
    for name in ("router", *ENGINES):
        assert service(name)["restart"] == "unless-stopped"
        assert set(service(name)["logging"]["options"]) == {"max-size", "max-file"}
    for name, least_s in (("tgi", 300), ("vllm", 900)):
        check = service(name)["healthcheck"]
        assert seconds(check["start_period"]) >= least_s
        assert seconds(check["timeout"]) < seconds(check["interval"])


@pytest.mark.parametrize("engine", ENGINES)
def test_images_and_flags_are_those_of_run(engine: str) -> None:
    """Compose and tgi/run or vllm/run start the same image with the same flags."""
    _, image, words = split(docker(engine, "--gpu"))
    described = service(engine)
    assert described["image"] == image
    assert flags(described["command"]) == flags(words)
    if engine == "vllm":
        assert [*described["entrypoint"][1:], described["command"][0]] == words[:2]


def test_images_are_pinned() -> None:
    """Each engine's image has a full version; vLLM's is the one that the contract tests run."""
    for name in ENGINES:
        assert re.search(r":v?\d+\.\d+\.\d+$", service(name)["image"])
    tested = re.search(r'^VLLM = "(.+)"$', (ROOT / "scripts" / "vllm-cpu").read_text(), flags=re.MULTILINE)
    assert tested is not None
    assert service("vllm")["image"].endswith(f":v{tested[1]}")


def probe(engine: str, port: int) -> int:
    """Run an engine's health check as Docker would, but on another port; its exit code."""
    _, program, *arguments = service(engine)["healthcheck"]["test"]
    own = flags(service(engine)["command"])["--port"]
    words = [word.replace("$$", "$").replace(f"127.0.0.1/{own}", f"127.0.0.1/{port}") for word in arguments]
    words = [word.replace(f"127.0.0.1:{own}/", f"127.0.0.1:{port}/") for word in words]
    assert words != arguments
    program = {"python3": sys.executable}.get(program, program)
    return subprocess.run([program, *words], capture_output=True, timeout=60, check=False).returncode


@pytest.mark.parametrize("engine", ENGINES)
def test_health_checks_work(engine: str) -> None:
    """The check passes on a running engine, and fails on one that is ill and on one that is not there."""
    with Emulator(engine) as running:
        assert probe(engine, running.port) == 0
        running.arm("health_status", 503)
        assert probe(engine, running.port) != 0
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        assert probe(engine, taken.getsockname()[1]) != 0
