"""Command line: every flag with its unit and default; what is wrong is said in one sentence."""

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from emulator.faults import FAULTS, Armed, FaultError, Scope, parse_fault
from emulator.settings import Kind, Outcome, Settings

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


def _outcome(text: str) -> Outcome:
    try:
        return Outcome(text)
    except ValueError:
        names = ", ".join(outcome.value for outcome in Outcome)
        raise argparse.ArgumentTypeError(f"{text!r} is none of {names}") from None


def _amount(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of at least 0")
    return number


@dataclass(frozen=True, slots=True)
class _Flag:
    """One flag: its names, how its value is read, its default as both engines have it, its help."""

    names: str
    read: Callable[[str], object] | None  # None: a switch
    default: object
    help: str
    many: bool = False


_FLAGS = (
    _Flag("--host", str, "127.0.0.1", "address to listen on"),
    _Flag("--model --model-id", str, None, "model id"),
    _Flag("--served-model-name", str, None, "names in requests; default: the model id", many=True),
    _Flag("--ttft-ms", _amount, 20.0, "prefill time of any request (20)"),
    _Flag("--tokens-per-s", _amount, 200.0, "per running sequence; 0: as fast as can be (200)"),
    _Flag(
        "--prefill-tokens-per-s",
        _amount,
        0.0,
        "uncached prompt tokens, one request at a time; 0: free",
    ),
    _Flag(
        "--max-concurrent --max-num-seqs --max-concurrent-requests",
        _positive,
        None,
        "vllm: sequences that run at once (256); tgi: permits, queued and running, above them 429 (128)",
    ),
    _Flag("--max-batch-size", _positive, None, "tgi: sequences that run at once (all permits)"),
    _Flag("--max-total-tokens --max-model-len", _positive, None, "context (tgi 1024, vllm 32768)"),
    _Flag("--max-num-queued-reqs", _count, 0, "vllm: waiting and running, above them 503 (0: off)"),
    _Flag("--kv-cache-tokens", _positive, 131072, "size of the KV cache, for gauge and prefixes (131072)"),
    _Flag("--seed", _count, 0, "another seed writes another text (0)"),
    _Flag("--eos-after", _count, 200, "mean tokens until the text ends by itself; 0: never (200)"),
    _Flag("--api-key", str, [], "keys that are asked for", many=True),
    _Flag("--chat-template", None, False, "tgi: have one (vllm has)"),
    _Flag("--no-chat-template", None, False, "vllm: have none, as a base model"),
    _Flag("--embedding", None, False, "vllm: serve /v1/embeddings"),
    _Flag("--enable-auto-tool-choice", None, False, "vllm: allow tools"),
    _Flag("--tool-call-parser", str, None, "vllm: accepted, without effect"),
    _Flag("--enable-request-id-headers", None, False, "vllm: echo X-Request-Id"),
    _Flag("--enable-force-include-usage", None, False, "vllm: usage chunk on every stream"),
    _Flag("--enable-server-load-tracking", None, False, "vllm: /load counts"),
    _Flag("--sse-keep-alive-interval", _amount, None, "seconds; 0: off (tgi 15, vllm 0)"),
    _Flag("--keep-alive-s", _amount, None, "idle connections close after; 0: never (tgi 0, vllm 5)"),
    _Flag("--ready-after", _amount, 0.0, "refuse connections for so many seconds first"),
    _Flag(
        "--shutdown-timeout --graceful-termination-timeout",
        _amount,
        None,
        "seconds after SIGTERM for running requests (tgi 90, vllm 0)",
    ),
    _Flag(
        "--unfinished",
        _outcome,
        Outcome.HANG,
        "vllm: requests that outlast it hang, abort or get an error; with the real one chance decides (hang)",
    ),
    _Flag("--engine-version", str, None, "version to report"),
)


def _parser() -> argparse.ArgumentParser:
    table = []
    for name, kind in FAULTS.items():
        shown = f"{name}={kind.argument}" if kind.argument else name
        table.append(f"  {shown:32} {kind.summary}")
    parser = _Parser(
        prog="python -m emulator",
        description="Speaks the wire protocol of TGI or vLLM without a model. The text is emulated.",
        epilog="\n".join(["faults (--fault, POST /__faults):", *table]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--engine", choices=[kind.value for kind in Kind], required=True)
    parser.add_argument("--port", type=_count, required=True, help="0: any free port, which is printed")
    for flag in _FLAGS:
        names = flag.names.split()
        if flag.read is None:
            parser.add_argument(*names, action="store_true", help=flag.help)
        else:
            many = "+" if flag.many else None
            parser.add_argument(*names, type=flag.read, default=flag.default, nargs=many, help=flag.help)
    told = "a fault for ever; see below"
    parser.add_argument("--fault", type=_fault, action="append", default=[], metavar="NAME[=ARG]", help=told)
    return parser


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
        chat_template=given.chat_template if tgi else not given.no_chat_template,
        embedding=given.embedding,
        auto_tools=given.enable_auto_tool_choice,
        request_id_headers=given.enable_request_id_headers,
        force_include_usage=given.enable_force_include_usage,
        load_tracking=given.enable_server_load_tracking,
        sse_keep_alive_s=_or(given.sse_keep_alive_interval, 15.0 if tgi else 0.0),
        keep_alive_s=keep_alive or None,
        ready_after_s=given.ready_after,
        shutdown_timeout_s=_or(given.shutdown_timeout, 90.0 if tgi else 0.0),
        unfinished=given.unfinished,
        version=given.engine_version or ("3.3.6-dev0" if tgi else "0.33.0"),
        faults=tuple(given.fault),
    )


def _or(value: float | None, default: float) -> float:
    return default if value is None else value
