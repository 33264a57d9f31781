"""Command line: every flag with its unit and default; what is wrong is said in one sentence."""

import argparse
import os
import sys
from typing import NoReturn

from emulator.faults import FAULTS, Armed, FaultError, Scope, parse_fault
from emulator.settings import Kind, Settings

_TGI_MODEL = "distilbert/distilgpt2"
_VLLM_MODEL = "gaunernst/gemma-3-12b-it-qat-autoawq"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One sentence, no usage."""
        print(f"emulator: {message.rstrip('.')}. See python -m emulator --help.", file=sys.stderr)
        raise SystemExit(2)


def _fault(text: str) -> Armed:
    try:
        fault = parse_fault(text)
    except FaultError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if FAULTS[fault.name].scope is Scope.PROCESS:
        raise argparse.ArgumentTypeError(
            f"{fault.name} is armed by POST /__faults, or see --ready-after, --keep-alive-s"
        )
    return fault


def _positive(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return number


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 0")
    return int(text)


def _amount(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of at least 0")
    return number


def _parser() -> argparse.ArgumentParser:
    lines = [
        f"  {name + ('=' + kind.argument if kind.argument else ''):32} {kind.summary}"
        for name, kind in FAULTS.items()
    ]
    parser = _Parser(
        prog="python -m emulator",
        description="Speaks the wire protocol of TGI or vLLM without a model. The text is emulated.",
        epilog="faults (--fault, POST /__faults):\n" + "\n".join(lines),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--engine", choices=[kind.value for kind in Kind], required=True)
    add("--port", type=_count, required=True, help="0: any free port, which is printed")
    add("--host", default="127.0.0.1")
    add("--model", "--model-id", default=None, help="model id")
    add("--served-model-name", nargs="+", default=None, help="names in requests; default: the model id")
    add("--ttft-ms", type=_amount, default=20.0, help="prefill time of any request (20)")
    add(
        "--tokens-per-s", type=_amount, default=200.0, help="per running sequence; 0: as fast as can be (200)"
    )
    add(
        "--prefill-tokens-per-s",
        type=_amount,
        default=0.0,
        help="cost of uncached prompt tokens; 0: none (0)",
    )
    add(
        "--max-concurrent",
        "--max-num-seqs",
        "--max-concurrent-requests",
        type=_positive,
        default=None,
        help="vllm: sequences that run at once (256); tgi: permits, queued and running, above them 429 (128)",
    )
    add(
        "--max-batch-size", type=_positive, default=None, help="tgi: sequences that run at once (all permits)"
    )
    add(
        "--max-total-tokens",
        "--max-model-len",
        type=_positive,
        default=None,
        help="context (tgi 1024, vllm 32768)",
    )
    add(
        "--max-num-queued-reqs",
        type=_count,
        default=0,
        help="vllm: waiting and running above which 503 (0: off)",
    )
    add(
        "--kv-cache-tokens",
        type=_positive,
        default=131072,
        help="size of the KV cache, for its gauge and prefixes",
    )
    add("--seed", type=_count, default=0)
    add(
        "--eos-after",
        type=_count,
        default=200,
        help="mean tokens until the text ends by itself; 0: never (200)",
    )
    add("--api-key", nargs="+", default=[])
    add("--chat-template", action="store_true", help="tgi: have one (vllm always has)")
    add("--embedding", action="store_true", help="vllm: serve /v1/embeddings")
    add("--enable-auto-tool-choice", action="store_true", help="vllm: allow tools")
    add("--tool-call-parser", default=None, help="vllm: accepted, without effect")
    add("--enable-request-id-headers", action="store_true", help="vllm: echo X-Request-Id")
    add("--enable-force-include-usage", action="store_true", help="vllm: usage chunk on every stream")
    add("--enable-server-load-tracking", action="store_true", help="vllm: /load counts")
    add("--sse-keep-alive-interval", type=_amount, default=None, help="seconds; 0: off (tgi 15, vllm 0)")
    add(
        "--keep-alive-s",
        type=_amount,
        default=None,
        help="idle connections close after; 0: never (tgi 0, vllm 5)",
    )
    add("--ready-after", type=_amount, default=0.0, help="refuse connections for so many seconds first")
    add(
        "--shutdown-timeout",
        "--graceful-termination-timeout",
        type=_amount,
        default=None,
        help="seconds after SIGTERM for running requests (tgi 90, vllm 0: abort them)",
    )
    add("--engine-version", default=None, help="version to report")
    add(
        "--fault",
        type=_fault,
        action="append",
        default=[],
        metavar="NAME[=ARG]",
        help="a fault for ever; see below",
    )
    return parser  # fmt: skip


def read_flags(arguments: list[str]) -> Settings:
    """Settings from the command line; ends the process with status 2 and a sentence when they make none."""
    parser = _parser()
    given = parser.parse_args(arguments)
    kind = Kind(given.engine)
    tgi = kind is Kind.TGI
    if given.port > 65535:
        parser.error(f"argument --port: {given.port} is no port")
    model = given.model or (_TGI_MODEL if tgi else _VLLM_MODEL)
    concurrent = given.max_concurrent or (128 if tgi else 256)
    keep_alive = given.keep_alive_s
    if keep_alive is None:
        default = "0" if tgi else os.environ.get("VLLM_HTTP_TIMEOUT_KEEP_ALIVE", "5")
        keep_alive = float(default)
    return Settings(
        engine=kind,
        host=given.host,
        port=given.port,
        model=model,
        served_names=tuple(given.served_model_name or [model]),
        ttft_s=given.ttft_ms / 1000,
        tokens_per_s=given.tokens_per_s,
        prefill_tokens_per_s=given.prefill_tokens_per_s,
        max_concurrent=concurrent,
        max_batch_size=(given.max_batch_size or concurrent) if tgi else concurrent,
        max_total_tokens=given.max_total_tokens or (1024 if tgi else 32768),
        max_queued=given.max_num_queued_reqs,
        kv_tokens=given.kv_cache_tokens,
        seed=given.seed,
        eos_after=given.eos_after,
        api_keys=tuple(given.api_key),
        chat_template=given.chat_template or not tgi,
        embedding=given.embedding,
        auto_tools=given.enable_auto_tool_choice,
        request_id_headers=given.enable_request_id_headers,
        force_include_usage=given.enable_force_include_usage,
        load_tracking=given.enable_server_load_tracking,
        sse_keep_alive_s=_or(given.sse_keep_alive_interval, 15.0 if tgi else 0.0),
        keep_alive_s=keep_alive or None,
        ready_after_s=given.ready_after,
        shutdown_timeout_s=_or(given.shutdown_timeout, 90.0 if tgi else 0.0),
        version=given.engine_version or ("3.3.6-dev0" if tgi else "0.33.0"),
        faults=tuple(given.fault),
    )


def _or(value: float | None, default: float) -> float:
    return default if value is None else value
