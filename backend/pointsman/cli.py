"""The `pointsman` command: serve, check the settings, make keys, tell the version."""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import NoReturn

from pointsman import __version__, key_command
from pointsman.model import ModelConfig
from pointsman.model_list import named
from pointsman.settings import Settings, SettingsError
from pointsman.source import Source
from pointsman.values import FILE

_BAD_SETTINGS = 2
_CHECK_FAILED = 1
_CANNOT_LISTEN = 1
_FLAGS = {"CONFIG_FILE": "config", "HOST": "host", "PORT": "port"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code; argparse itself exits with 2 on bad usage."""
    asked = _parser().parse_args(argv)
    if asked.command == "version":
        sys.stdout.write(f"pointsman {__version__}\n")
        return 0
    if asked.command == "keys" and asked.file is not None:
        return key_command.run(asked, asked.file)
    try:
        source = _source(asked)
        settings = source.read()
    except SettingsError as error:
        sys.stderr.write(f"pointsman: {error}\n")
        return _CHECK_FAILED if asked.command == "check" else _BAD_SETTINGS
    if asked.command == "keys":
        return key_command.run(asked, settings.keys_file)
    if asked.command == "check":
        sys.stdout.write("\n".join(report(settings)) + "\n")
        return 0
    return _serve(settings, source)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pointsman", description="A router in front of TGI and vLLM engines."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="run the router")
    check = commands.add_parser("check", help="check the settings and tell where each comes from")
    commands.add_parser("version", help="tell the version")
    key_command.add_parser(commands)
    for command in (serve, check):
        command.add_argument(
            "--config", metavar="FILE", help="config file; default: config.yml, where it exists"
        )
        command.add_argument("--env-file", metavar="FILE", help="default: .env, where it exists")
        command.add_argument("--host", help="address to listen on, instead of HOST and LISTEN")
        command.add_argument("--port", help="port to listen on, instead of PORT and LISTEN")
    return parser


def _source(asked: argparse.Namespace) -> Source:
    given = {name: getattr(asked, field, None) for name, field in _FLAGS.items()}
    flags = {name: text for name, text in given.items() if text is not None}
    if "HOST" in flags or "PORT" in flags:
        flags["LISTEN"] = ""
    found = Source.of(os.environ, Path())
    env_file = getattr(asked, "env_file", None)
    env_files = found.env_files if env_file is None else (FILE.read(env_file, "--env-file"),)
    return replace(found, env_files=env_files, flags=flags)


def _serve(settings: Settings, source: Source) -> int:
    # Imported here so that `check` and `version` load neither FastAPI nor the server.
    from pointsman.app import build
    from pointsman.server import serve
    from pointsman.sockets import given

    # Before and after it serves a signal ends it too: a clean end is no failure.
    before = {number: signal.signal(number, _end) for number in (signal.SIGTERM, signal.SIGINT)}
    before[signal.SIGHUP] = signal.signal(
        signal.SIGHUP, signal.SIG_IGN
    )  # heeded from the start of the app on
    try:
        serve(build(settings, source), settings.front, given(os.environ))
    except OSError as error:
        addresses = ", ".join(str(address) for address in settings.front.listen)
        sys.stderr.write(f"pointsman: cannot listen on {addresses}: {error.strerror or error}\n")
        return _CANNOT_LISTEN
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 0


def _end(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)


def report(settings: Settings) -> list[str]:
    """What `check` prints: models with their replicas, then all knobs. It never holds a key."""
    lines = [
        "Models:" if settings.models else "Models: none; set TGI_<NAME>_ENDPOINT or VLLM_<NAME>_ENDPOINT"
    ]
    for model in settings.models:
        lines += _model_lines(model, settings)
    lines.append("Settings:")
    lines += [f"  {origin.name}={origin.text}  ({origin.where})" for origin in settings.origins]
    return lines + [f"Note: {notice}" for notice in settings.notices]


def _model_lines(model: ModelConfig, settings: Settings) -> list[str]:
    wishes = {surface: config.model for surface, config in settings.surfaces.items() if config.model}
    surfaces = [surface for surface, name in wishes.items() if named(settings.models, name) is model]
    facts = [
        model.policy,
        *(["default"] if model.default else []),
        *([f"default of {', '.join(surfaces)}"] if surfaces else []),
        *([model.hf_name] if model.hf_name else []),
    ]
    facts += [f"also {', '.join(model.aliases)}"] if model.aliases else []
    facts += [f"falls back to {', '.join(model.fallbacks)}"] if model.fallbacks else []
    lines = [f"  {model.id}: {'; '.join(facts)}  ({model.origin})"]
    for number, replica in enumerate(model.replicas):
        key = ", with a key" if replica.key else ""
        lines.append(f"    {model.id}-{number}: {replica.engine} at {replica.endpoint.url}{key}")
    return lines
