"""vllm/memory: its arithmetic against cases computed by hand and against vLLM's own functions."""

import importlib.util
import json
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest

from containers import ROOT, docker_command, flags, service, split

SCRIPT = ROOT / "vllm" / "memory"
GIB = 1024**3

# Asks vLLM itself: how its layers are grouped, how large a block is, what a request needs, how many fit.
ASK_VLLM = """
import json, sys
from types import SimpleNamespace as Record
import torch
from vllm.v1.core import kv_cache_utils
from vllm.v1.kv_cache_interface import FullAttentionSpec, SlidingWindowSpec
for line in sys.stdin:
    case = json.loads(line)
    size = dict(block_size=16, num_kv_heads=case["heads"], head_size=case["head_dim"], dtype=torch.bfloat16)
    specs = {
        f"layer {n}": SlidingWindowSpec(sliding_window=case["window"], **size)
        if case["window"] and (n + 1) % case["full_every"] else FullAttentionSpec(**size)
        for n in range(case["layers"])
    }
    groups = kv_cache_utils._get_kv_cache_groups_uniform_page_size(specs)
    config = Record(
        max_in_flight_tokens=case["in_flight"],
        model_config=Record(max_model_len=case["tokens"]),
        parallel_config=Record(decode_context_parallel_size=1),
    )
    pages = [group.kv_cache_spec.page_size_bytes for group in groups]
    needs = [group.kv_cache_spec.max_memory_usage_bytes(config) // page for group, page in zip(groups, pages)]
    block = max(len(group.layer_names) * page for group, page in zip(groups, pages))
    pool = Record(kv_cache_groups=groups, num_blocks=case["blocks"])
    times = kv_cache_utils.get_max_concurrency_for_kv_cache_config(config, pool)
    print(json.dumps([block, sum(needs), times]))
"""


def load() -> ModuleType:
    """The script as a module."""
    loader = SourceFileLoader("vllm_memory", str(SCRIPT))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[loader.name] = module  # dataclasses look their module up
    loader.exec_module(module)
    return module


memory = load()
GEMMA = memory.GEMMA_3_12B
SERVING = memory.Serving()


def ask(*options: str) -> subprocess.CompletedProcess[str]:
    """Run the script."""
    return subprocess.run(
        [SCRIPT, *options], capture_output=True, text=True, timeout=60, check=False, cwd="/"
    )


def test_a_small_model_by_hand() -> None:
    """Six layers of 8 x (2 + 1) heads of 4 in 16 bits: 8512 bytes of weights, pages of 256 bytes."""
    small = memory.Model(layers=6, hidden=8, ffn=16, heads=2, kv_heads=1, head_dim=4, vocab=100)
    one = memory.Serving(tensor_parallel_size=1)
    # attention 8 * 4 * (2 * 2 + 2 * 1) = 192, MLP 3 * 8 * 16 = 384; (6 * 576 + 100 * 8) * 2 bytes
    assert memory.weight_bytes(small) == 8512
    assert memory.page_bytes(small, one) == 2 * 1 * 4 * 2 * 16 == 256
    assert memory.block_bytes(small, one) == 6 * 256
    assert [memory.request_blocks(small, one, tokens) for tokens in (1, 16, 17, 160)] == [1, 1, 2, 10]


def test_quantised_weights_by_hand() -> None:
    """4 bits in groups of 32 take 4 + 20/32 = 4.625 bits; the embedding, tied or not, stays at 16."""
    tied = memory.Model(
        layers=1, hidden=8, ffn=16, heads=2, kv_heads=1, head_dim=4, vocab=100, weight_bits=4, weight_group=32
    )
    untied = memory.Model(**{**memory.fields(tied), "embeddings": 2, "other_params": 10})
    assert memory.weight_bytes(tied) == 576 * 4.625 / 8 + 800 * 2
    assert memory.weight_bytes(untied) == 576 * 4.625 / 8 + 1600 * 2 + 20


def test_sliding_layers_by_hand() -> None:
    """A sliding layer holds its window and what is in flight, at most the request, and a block more."""
    model = memory.Model(
        layers=4, hidden=8, ffn=16, heads=2, kv_heads=2, head_dim=4, vocab=10, window=33, full_every=4
    )
    serving = memory.Serving(tensor_parallel_size=1, max_num_batched_tokens=32, batches=1)
    assert (model.full_layers, model.sliding_layers, memory.group_size(model)) == (1, 3, 1)
    # 32 + 32 = 64 tokens: 4 blocks and 1; three such groups beside the full one with ceil(n / 16)
    assert memory.request_blocks(model, serving, 160) == 10 + 3 * 5
    assert memory.request_blocks(model, serving, 16) == 1 + 3 * 2


@pytest.mark.parametrize(
    ("layers", "every", "size", "groups"),
    [(48, 6, 8, 6), (26, 6, 4, 7), (5, 2, 2, 3), (25, 2, 13, 2), (10, 3, 3, 4)],
)
def test_layers_are_grouped(layers: int, every: int, size: int, groups: int) -> None:
    """Groups are as large as the rarer kind, or as the commoner where that is not half as many again."""
    model = memory.Model(**{**memory.fields(GEMMA), "layers": layers, "full_every": every})
    one = memory.request_blocks(model, memory.Serving(max_num_batched_tokens=16, batches=1), 16)
    sliding = -(-model.sliding_layers // size)
    assert memory.group_size(model) == size
    assert one == (groups - sliding) + 2 * sliding


def test_gpus_share_heads_and_weights() -> None:
    """Twice the GPUs halve the weights and the KV heads of each; beyond the heads, these are copied."""
    two, four, sixteen = (memory.Serving(tensor_parallel_size=n) for n in (2, 4, 16))
    assert memory.page_bytes(GEMMA, two) == 2 * memory.page_bytes(GEMMA, four) == 65536
    assert memory.page_bytes(GEMMA, sixteen) == 65536 // 4  # one head
    room = memory.kv_bytes(GEMMA, four) - memory.kv_bytes(GEMMA, two)
    assert room == pytest.approx(memory.weight_bytes(GEMMA) / 4)


def test_fp8_halves_the_cache() -> None:
    """A KV cache of 8 bits has pages half as large."""
    assert memory.page_bytes(GEMMA, memory.Serving(kv_cache_dtype="fp8")) == 32768


def test_gemma_on_two_4090s() -> None:
    """The figures that the project's contract works out for this model and these cards come out."""
    per_gpu = memory.weight_bytes(GEMMA) / 2 / GIB
    assert per_gpu == pytest.approx(4.2, abs=0.05)
    assert memory.kv_bytes(GEMMA, SERVING) / GIB == pytest.approx(14.5, abs=0.05)
    assert memory.sliding_tokens(GEMMA, SERVING, 32768) == 5119
    block = memory.block_bytes(GEMMA, SERVING)
    for tokens, gib, times in ((8192, 1.03, None), (16384, 1.28, 11), (32768, 1.78, 8), (65536, 2.78, 5)):
        blocks = memory.request_blocks(GEMMA, SERVING, tokens)
        assert blocks * block / GIB == pytest.approx(gib, abs=0.006)
        assert times in (None, memory.pool_blocks(GEMMA, SERVING) // blocks)
    assert memory.request_blocks(GEMMA, SERVING, 131072) * block / GIB == pytest.approx(4.78, abs=0.006)
    uniform = memory.Model(**{**memory.fields(GEMMA), "window": 0})  # the hybrid manager off
    for tokens, gib in ((8192, 1.5), (32768, 6.0), (131072, 24.0)):
        size = memory.request_blocks(uniform, SERVING, tokens) * memory.block_bytes(uniform, SERVING)
        assert size == gib * GIB


@pytest.mark.parametrize("requests", [1, 3, 64, 10_000_000])
def test_the_longest_request_is_the_longest(requests: int) -> None:
    """So many requests of that length fit, and not one token more."""
    tokens = memory.longest(GEMMA, SERVING, requests)
    share = memory.pool_blocks(GEMMA, SERVING) // requests
    assert tokens == 0 or memory.request_blocks(GEMMA, SERVING, tokens) <= share
    assert memory.request_blocks(GEMMA, SERVING, tokens + 1) > share


def test_the_flags_of_run_and_compose_fit() -> None:
    """What vllm/run and compose say is what the calculator takes for granted, and it fits."""
    for given in (flags(split(docker_command("vllm"))[2]), flags(service("vllm")["command"])):
        names = ("--tensor-parallel-size", "--gpu-memory-utilization", "--max-model-len", "--max-num-seqs")
        options = [word for name in names for word in (name, given[name])]
        done = ask(*options)
        assert done.returncode == 0, done.stdout
        assert done.stdout == ask().stdout
    assert "verdict     fits" in done.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ("--tensor-parallel-size", "1", "--gpu-memory-utilization", "0.5"),
            "change --max-model-len 2288 or less",
        ),
        (("--window", "0", "--max-model-len", "131072"), "--kv-cache-dtype fp8"),
        (("--gpu-gib", "4"), "raise --tensor-parallel-size"),
    ],
)
def test_what_does_not_fit_is_told(options: tuple[str, ...], said: str) -> None:
    """The verdict names the flag to change, and the exit code is 1."""
    done = ask(*options)
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1].startswith("verdict     does not fit: ")
    assert said in done.stdout


def test_the_advice_helps() -> None:
    """Each flag that a verdict names makes it fit."""
    tight = ("--tensor-parallel-size", "1", "--gpu-memory-utilization", "0.5")
    verdict = ask(*tight).stdout.splitlines()[-1]
    words = verdict.split()
    for name in ("--max-model-len", "--gpu-memory-utilization"):
        assert ask(*tight, name, words[words.index(name) + 1]).returncode == 0
    assert ask("--window", "0", "--max-model-len", "131072", "--kv-cache-dtype", "fp8").returncode == 0


CONFIG = {
    "text_config": {
        "num_hidden_layers": 6,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "vocab_size": 1000,
        "sliding_window": 512,
        "sliding_window_pattern": 6,
    },
    "quantization_config": {"bits": 4, "group_size": 128},
    "tie_word_embeddings": False,
}


def test_a_model_is_read_from_its_config(tmp_path: Path) -> None:
    """A config.json gives the sizes, nested or not; an option beats it."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIG))
    assert memory.Model(**memory.read_config(path)) == memory.Model(
        layers=6, hidden=64, ffn=128, heads=4, kv_heads=2, head_dim=16, vocab=1000,
        window=512, full_every=6, weight_bits=4, weight_group=128, embeddings=2,
    )  # fmt: skip
    assert "in 1 full layers" in ask("--config", str(path)).stdout
    assert "in 3 full layers" in ask("--config", str(path), "--full-every", "2").stdout


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "Expecting property name"),
        ("[]", "it holds no JSON object"),
        ('{"text_config": 5}', "it is not a model's configuration"),
        ('{"num_hidden_layers": "six"}', "num_hidden_layers is not a whole number"),
        ('{"num_hidden_layers": true}', "num_hidden_layers is not a whole number"),
        ('{"num_hidden_layers": 6}', "give --hidden, --ffn, --heads, --kv-heads, --head-dim, --vocab"),
    ],
)
def test_a_bad_config_is_told(tmp_path: Path, text: str, said: str) -> None:
    """A file that is no such config, or does not say all, ends with 2 and one line."""
    path = tmp_path / "config.json"
    path.write_text(text)
    done = ask("--config", str(path))
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--layers", "0"), "--layers must be at least 1"),
        (("--window", "-1"), "--window must be at least 0"),
        (("--max-model-len", "0"), "--max-model-len must be at least 1"),
        (("--gpu-memory-utilization", "1.5"), "--gpu-memory-utilization is a share"),
        (("--gpu-memory-utilization", "nan"), "--gpu-memory-utilization is a share"),
        (("--gpu-gib", "nan"), "--gpu-gib must be above 0"),
        (("--overhead-gib", "-1"), "--overhead-gib at least 0"),
        (("--tensor-parallel-size", "3"), "must divide the 16 attention heads"),
        (("--heads", "12"), "--heads 12 is no multiple of --kv-heads 8"),
        (
            ("--heads", "24", "--tensor-parallel-size", "3"),
            "--tensor-parallel-size does not divide the 8 KV heads",
        ),
        (("--config", "/nowhere/config.json"), "No such file"),
        (("--layers", "six"), "invalid int value"),
        (("--kv-cache-dtype", "int4"), "invalid choice"),
        (("--frob",), "unrecognized arguments"),
    ],
)
def test_bad_input_is_told(options: tuple[str, ...], said: str) -> None:
    """Nonsense ends with 2 and names the option; nothing is computed from it."""
    done = ask(*options)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr


@pytest.mark.real
def test_vllm_counts_the_same(vllm_python: str) -> None:
    """vLLM's own functions group the layers alike, and give the same blocks and the same concurrency."""
    cases = [(GEMMA, tokens) for tokens in (1, 1000, 5119, 32768, 131072)]
    for layers, every, window in ((26, 6, 512), (5, 2, 64), (25, 2, 128), (12, 1, 0)):
        sizes = {"layers": layers, "full_every": every, "window": window}
        cases.append((memory.Model(**{**memory.fields(GEMMA), **sizes}), 8192))
    asked, expected = [], []
    for model, tokens in cases:
        blocks = memory.pool_blocks(model, SERVING)
        request = memory.request_blocks(model, SERVING, tokens)
        expected.append([memory.block_bytes(model, SERVING), request, blocks / request])
        case = {name: getattr(model, name) for name in ("layers", "full_every", "window", "head_dim")}
        asked.append({**case, "heads": 4, "in_flight": 4096, "tokens": tokens, "blocks": blocks})
    done = subprocess.run(
        [vllm_python, "-c", ASK_VLLM],
        input="\n".join(map(json.dumps, asked)),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd="/",
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert [json.loads(line) for line in done.stdout.splitlines()] == expected
