"""tgi/run and vllm/run: what they start, what they refuse, and their flags by the engines' own lists."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from containers import COMPOSE, ENGINES, KEYS, ROOT, docker_command, flags, run_engine, service, split, tool

FORMS = ("--gpu", "--cpu")
BOTH = [(engine, form) for engine in ENGINES for form in FORMS]

# The launcher's flags as TGI documents them (docs/source/reference/launcher.md of 3.x), less its Ngrok's.
TGI_FLAGS = {
    *("--model-id", "--revision", "--validation-workers", "--sharded", "--num-shard", "--quantize"),
    *("--speculate", "--dtype", "--kv-cache-dtype", "--trust-remote-code", "--max-concurrent-requests"),
    *("--max-best-of", "--max-stop-sequences", "--max-top-n-tokens", "--max-input-tokens"),
    *("--max-input-length", "--max-total-tokens", "--waiting-served-ratio", "--max-batch-prefill-tokens"),
    *("--max-batch-total-tokens", "--max-waiting-tokens", "--max-batch-size", "--cuda-graphs"),
    *("--hostname", "--port", "--shard-uds-path", "--master-addr", "--master-port"),
    *("--huggingface-hub-cache", "--weights-cache-override", "--disable-custom-kernels"),
    *("--cuda-memory-fraction", "--rope-scaling", "--rope-factor", "--json-output", "--otlp-endpoint"),
    *("--otlp-service-name", "--cors-allow-origin", "--api-key", "--watermark-gamma"),
    *("--watermark-delta", "--tokenizer-config-path", "--disable-grammar-support", "--env"),
    *("--max-client-batch-size", "--lora-adapters", "--usage-stats", "--payload-limit"),
    *("--enable-prefill-logprobs",),
}

# Reads command lines (JSON lists, one a line), as `vllm serve` would; prints some of what it understood.
PARSE = """
import json, sys
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.utils.argparse_utils import FlexibleArgumentParser
for line in sys.stdin:
    args = make_arg_parser(FlexibleArgumentParser()).parse_args(json.loads(line))
    validate_parsed_serve_args(args)
    print(json.dumps({name: getattr(args, name) for name in sys.argv[1:]}))
"""


# What vLLM makes of the GPU form.
UNDERSTOOD = {
    "model_tag": "gaunernst/gemma-3-12b-it-qat-autoawq",
    "served_model_name": ["gemma-3-12b-it"],
    "port": 8000,
    "tensor_parallel_size": 2,
    "max_model_len": 32768,
    "gpu_memory_utilization": 0.9,
    "limit_mm_per_prompt": {"image": 0},
    "disable_custom_all_reduce": True,
    "shutdown_timeout": 130,
    "max_num_queued_reqs": 128,
    "sse_keep_alive_interval": 10,
}


@pytest.mark.parametrize("engine", ENGINES)
def test_scripts_are_sound(engine: str) -> None:
    """Each is executable, and shellcheck finds nothing."""
    script = ROOT / engine / "run"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True, timeout=60)
    done = subprocess.run(
        [tool("shellcheck"), script], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize(("engine", "form"), BOTH)
def test_an_engine_is_reached_on_this_machine_alone(engine: str, form: str) -> None:
    """The one port that is published is on 127.0.0.1, where it was asked for."""
    options, _, words = split(docker_command(engine, form, "--port", "8123"))
    assert options.count("--publish") == 1
    assert options[options.index("--publish") + 1] == f"127.0.0.1:8123:{flags(words)['--port']}"
    assert not {"--network", "--net", "-p", "-P", "--publish-all", "--privileged"} & set(options)


@pytest.mark.parametrize(("engine", "form"), BOTH)
def test_no_key_stands_in_the_command(engine: str, form: str) -> None:
    """The key and the token are passed by name, so no process list shows them."""
    command = docker_command(engine, form, **KEYS, HF_TOKEN="hf-secret")
    assert [word for word in command if "secret" in word] == []
    assert {"API_KEY" if engine == "tgi" else "VLLM_API_KEY", "HF_TOKEN"} <= set(command)
    assert "--api-key" not in command


@pytest.mark.parametrize(("engine", "form"), BOTH)
def test_docker_is_started_with_the_key(engine: str, form: str, tmp_path: Path) -> None:
    """Without --dry-run the same command becomes the process, with key and token in its environment."""
    stub = tmp_path / "docker"
    stub.write_text('#!/bin/sh\nprintf "%s\\n" "$0" "$@"\necho "$API_KEY$VLLM_API_KEY $HF_TOKEN"\n')
    stub.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = run_engine(engine, form, PATH=path, **KEYS, HF_TOKEN="hf-secret")
    assert done.returncode == 0, done.stderr
    *words, secrets = done.stdout.splitlines()
    assert words == [str(stub), *docker_command(engine, form)[1:]]
    assert secrets == f"{engine}-secret hf-secret"


@pytest.mark.parametrize("engine", ENGINES)
def test_own_flags_come_last(engine: str) -> None:
    """What follows -- goes to the engine, after the script's own, so that it wins."""
    assert docker_command(engine, "--", "--max-total-tokens", "5")[-2:] == ["--max-total-tokens", "5"]


def test_gpus_are_those_asked_for() -> None:
    """vLLM spreads over as many GPUs as it is given; the CPU forms ask for none."""
    for gpus, count in (("0,1", "2"), ("3", "1"), ("0,1,2,3", "4")):
        options, _, words = split(docker_command("vllm", GPUS=gpus))
        assert options[options.index("--gpus") + 1] == f'"device={gpus}"'
        assert flags(words)["--tensor-parallel-size"] == count
    options, _, words = split(docker_command("tgi", GPU="0", MEMORY="0.15"))
    assert options[options.index("--gpus") + 1] == '"device=0"'
    assert flags(words)["--cuda-memory-fraction"] == "0.15"
    assert not any("--gpus" in docker_command(engine, "--cpu") for engine in ENGINES)


@pytest.mark.parametrize(("engine", "form"), BOTH)
def test_docker_waits_longer_than_the_engine_drains(engine: str, form: str) -> None:
    """`docker stop` gives running answers the time that the engine does."""
    options, _, words = split(docker_command(engine, form))
    drain_s = float(flags(words).get("--shutdown-timeout", "90"))  # TGI's own
    assert float(flags(options)["--stop-timeout"]) > drain_s


@pytest.mark.parametrize(
    ("engine", "options", "environment", "said"),
    [
        ("vllm", ["--port", "0"], {}, "--port 0 is no port; write a number from 1 to 65535"),
        ("tgi", ["--port", "65536"], {}, "--port 65536 is no port; write a number from 1 to 65535"),
        ("tgi", ["--port"], {}, "--port needs a number"),
        (
            "vllm",
            ["--max-model-len", "5"],
            {},
            "unknown option --max-model-len; vLLM's own flags come after --",
        ),
        ("tgi", ["x"], {}, "unknown option x; TGI's own flags come after --"),
        ("vllm", [], {"GPUS": "all"}, "GPUS=all is no list of GPUs; write it like 0,1"),
        ("vllm", [], {"GPUS": "0,"}, "GPUS=0, is no list of GPUs; write it like 0,1"),
        ("vllm", ["--cpu"], {"CPU_CACHE_GIB": "x"}, "CPU_CACHE_GIB=x is no number of GiB"),
        ("tgi", [], {"GPU": "0,1"}, "GPU=0,1 is no GPU; write its number"),
        ("tgi", [], {"MEMORY": "8"}, "MEMORY=8 is no share; write it like 0.08"),
        ("tgi", [], {"MEMORY": "0.0"}, "MEMORY=0.0 is no share; write it like 0.08"),
    ],
)
def test_bad_input_is_told(engine: str, options: list[str], environment: dict[str, str], said: str) -> None:
    """A bad option or variable ends the script with 2 and one line, before anything is started."""
    done = run_engine(engine, *options, "--dry-run", **environment)
    if options == ["--port"]:
        done = run_engine(engine, *options)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"{engine}/run: {said}\n")


@pytest.mark.parametrize(("engine", "key"), list(zip(ENGINES, KEYS, strict=True)))
def test_a_key_is_needed(engine: str, key: str) -> None:
    """Without a key nothing is started: the engine would generate for anybody who reaches it."""
    done = run_engine(engine)
    said = f"{engine}/run: set {key} to the key that callers of this engine must send\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", said)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_missing_docker_is_told(engine: str, tmp_path: Path) -> None:
    """Where Docker is not installed, the script says so."""
    (tmp_path / "bash").symlink_to("/bin/bash")
    (tmp_path / "env").symlink_to("/usr/bin/env")
    done = run_engine(engine, PATH=str(tmp_path), **KEYS)
    assert (done.returncode, done.stderr) == (2, f"{engine}/run: docker is not installed\n")


@pytest.mark.parametrize("form", FORMS)
def test_tgi_knows_its_flags(form: str) -> None:
    """Each flag for TGI is one that its launcher documents, in both forms and in compose."""
    words = split(docker_command("tgi", form))[2] + service("tgi")["command"]
    assert {name for name in flags(words) if name not in TGI_FLAGS} == set()


@pytest.mark.parametrize("engine", ENGINES)
def test_flags_are_explained(engine: str) -> None:
    """Each flag and variable that is given stands in the folder's README."""
    told = (ROOT / engine / "README.md").read_text(encoding="utf-8")
    given = set()
    for form in FORMS:
        options, _, words = split(docker_command(engine, form))
        given |= {*flags(words), *flags(options)}
    given |= {*service(engine)["environment"]}
    assert {name for name in given if f"`{name}" not in told} == set()


@pytest.mark.real
def test_vllm_takes_the_flags(vllm_python: str) -> None:
    """vLLM's own parser understands the commands of compose and of vllm/run, and refuses others."""
    described = service("vllm")
    assert described["entrypoint"] == ["vllm", "serve"], COMPOSE
    forms = [split(docker_command("vllm", form))[2] for form in FORMS]
    assert all(words[0] == "serve" for words in forms)
    lines = [described["command"], *(words[1:] for words in forms)]
    done = parse(vllm_python, *lines)
    assert done.returncode == 0, done.stderr[-2000:]
    composed, gpu, cpu = (json.loads(line) for line in done.stdout.splitlines())
    assert composed == gpu
    assert gpu == UNDERSTOOD
    assert (cpu["model_tag"], cpu["max_model_len"]) == ("Qwen/Qwen2-0.5B-Instruct", 2048)
    assert "--max-num-queued-requests" in parse(vllm_python, ["m", "--max-num-queued-requests=1"]).stderr


def parse(python: str, *lines: list[str]) -> subprocess.CompletedProcess[str]:
    """Have vLLM parse command lines."""
    return subprocess.run(
        [python, "-c", PARSE, *UNDERSTOOD],
        input="\n".join(json.dumps(line) for line in lines),
        env={**os.environ, "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
