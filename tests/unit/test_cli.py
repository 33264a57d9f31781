"""The `pointsman` command, run in a folder of its own."""

import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import cast

import pytest

from pointsman import __version__, cli
from pointsman.front import FrontConfig, TcpAddress
from pointsman.settings import Settings

BACKEND = Path(__file__).parents[2] / "backend"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory and an environment without settings."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        monkeypatch.delenv(name)
    return tmp_path


def test_version(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`version` tells the package's version, even where the settings are bad."""
    (folder / ".env").write_text("PORT=x\n", encoding="utf-8")
    assert cli.main(["version"]) == 0
    assert capsys.readouterr().out == f"pointsman {__version__}\n"


def test_check_tells_models_and_where_settings_come_from(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`check` lists replicas and each knob with its source, and no key."""
    (folder / "config.yml").write_text("port: 9\ngrace_s: 0\n", encoding="utf-8")
    (folder / ".env").write_text("TGI_GPT2_ENDPOINT=http://a:80\nTGI_GPT2_KEY=s3cret\n", encoding="utf-8")
    monkeypatch.setenv("POINTSMAN_PORT", "10")
    monkeypatch.setenv("PORT", "11")
    assert cli.main(["check"]) == 0
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert "  gpt-2: least_in_flight; gpt2  (TGI_GPT2_ENDPOINT in .env)" in lines
    assert "    gpt-2-0: tgi at http://a, with a key" in lines
    assert "  PORT=10  (POINTSMAN_PORT in the environment)" in lines
    assert "  GRACE_S=0  (grace_s in config.yml)" in lines
    assert "  DRAIN_S=120  (default)" in lines
    assert "  CONFIG_FILE=config.yml  (found)" in lines
    assert lines[-1].startswith("Note: PORT is ignored: POINTSMAN_PORT")
    assert "s3cret" not in printed


def test_check_tells_which_models_are_defaults(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Beside each model stands what it is the default of; a name that is no model's is a note."""
    text = "TGI_A_ENDPOINT=http://a\nTGI_B_ENDPOINT=http://b\nDEFAULT_MODEL=a\nSURFACES__TGI__MODEL=b\n"
    (folder / ".env").write_text(text + "SURFACES__OPENAI__MODEL=c\n", encoding="utf-8")
    assert cli.main(["check"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "  a: least_in_flight; default  (TGI_A_ENDPOINT in .env)" in lines
    assert "  b: least_in_flight; default of tgi  (TGI_B_ENDPOINT in .env)" in lines
    assert "  SURFACES__TGI__MODEL=b  (SURFACES__TGI__MODEL in .env)" in lines
    assert lines[-1].startswith("Note: SURFACES__OPENAI__MODEL in .env: no model is configured as 'c'")


@pytest.mark.usefixtures("folder")
def test_check_tells_who_stands_in_for_whom(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By their ids, whatever names the file has."""
    text = "models:\n- {id: a, fallbacks: [bee, c]}\n- {id: b, aliases: [bee]}\n- {id: c}\n"
    (folder / "config.yml").write_text(text, encoding="utf-8")
    endpoints = "".join(f"TGI_{name}_ENDPOINT=http://{name.lower()}\n" for name in "ABC")
    (folder / ".env").write_text(endpoints, encoding="utf-8")
    assert cli.main(["check"]) == 0
    printed = capsys.readouterr().out
    assert "  a: least_in_flight; falls back to b, c  (config.yml, replicas from" in printed
    assert printed.count("falls back") == 1


def test_check_without_models_says_what_to_set(capsys: pytest.CaptureFixture[str]) -> None:
    """No models is no error, and `check` tells how to name some."""
    assert cli.main(["check"]) == 0
    assert capsys.readouterr().out.startswith("Models: none; set TGI_<NAME>_ENDPOINT")


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(("command", "code"), [("check", 1), ("serve", 2)])
@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--port", "x"], "--port: 'x' is not a whole number from 0 to 65535; write one"),
        (["--host", "a/b"], "--host: 'a/b' is not an address"),
        (["--config", "no.yml"], "--config: there is no file 'no.yml'"),
        (["--env-file", "no.env"], "--env-file: there is no file 'no.env'"),
        (["--env-file", "a" * 300], f"--env-file: '{'a' * 63}…' cannot be read (File name too long)"),
    ],
)
def test_bad_settings_end_with_the_sentence(
    capsys: pytest.CaptureFixture[str], command: str, code: int, flags: list[str], sentence: str
) -> None:
    """Bad settings give one line on stderr, and 1 from `check`, 2 from `serve`."""
    assert cli.main([command, *flags]) == code
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith(f"pointsman: {sentence}")
    assert told.err.count("\n") == 1


@pytest.mark.parametrize(("command", "code"), [("check", 1), ("serve", 2)])
@pytest.mark.parametrize("name", ["config.yml", ".env"])
def test_files_that_cannot_be_looked_at_end_with_the_sentence(
    folder: Path, capsys: pytest.CaptureFixture[str], command: str, code: int, name: str
) -> None:
    """They are there, so they are not passed over."""
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(name)
    assert cli.main([command]) == code
    assert capsys.readouterr().err == (
        f"pointsman: {name} cannot be read (Too many levels of symbolic links); check its path and rights\n"
    )


def test_named_files_are_read(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--config and --env-file take the places of the files found."""
    (folder / "config.yml").write_text("nonsense: 1\n", encoding="utf-8")
    (folder / ".env").write_text("nonsense\x00", encoding="utf-8")
    (folder / "my.yml").write_text("grace_s: 1\n", encoding="utf-8")
    (folder / "my.env").write_text("DRAIN_S=2\n", encoding="utf-8")
    assert cli.main(["check", "--config", "my.yml", "--env-file", "my.env"]) == 0
    printed = capsys.readouterr().out
    assert "GRACE_S=1  (grace_s in my.yml)" in printed
    assert "DRAIN_S=2  (DRAIN_S in my.env)" in printed


@pytest.mark.usefixtures("folder")
def test_host_and_port_flags_beat_listen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """--port takes effect also where LISTEN is set."""
    monkeypatch.setenv("LISTEN", "unix:/run/p.sock")
    assert cli.main(["check", "--port", "7"]) == 0
    printed = capsys.readouterr().out
    assert "  PORT=7  (--port on the command line)" in printed
    assert "  LISTEN=  (" in printed


@pytest.mark.parametrize("argv", [[], ["fly"], ["version", "--port", "1"]])
def test_bad_usage(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Unknown commands and flags end with the usage and 2."""
    with pytest.raises(SystemExit) as ended:
        cli.main(argv)
    assert ended.value.code == 2
    assert "usage: pointsman" in capsys.readouterr().err


Serve = Callable[[object, FrontConfig, list[socket.socket]], None]


def stand_in(monkeypatch: pytest.MonkeyPatch, serve: Serve) -> None:
    """Put a server in the place of the real one; the app is the settings it was built from."""
    app = SimpleNamespace(build=lambda settings, source: settings)
    monkeypatch.setitem(sys.modules, "pointsman.app", cast("ModuleType", app))
    monkeypatch.setitem(sys.modules, "pointsman.server", cast("ModuleType", SimpleNamespace(serve=serve)))


@pytest.mark.usefixtures("folder")
def test_serve_hands_the_app_to_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """`serve` builds the app of the settings and runs it where they say."""
    served: list[tuple[object, FrontConfig, list[socket.socket]]] = []
    stand_in(monkeypatch, lambda app, front, given: served.append((app, front, given)))
    assert cli.main(["serve", "--host", "127.0.0.1", "--port", "7"]) == 0
    ((app, front, given),) = served
    assert given == [], "nobody listens for us"
    assert isinstance(app, Settings)
    assert app.front is front
    assert front.listen == (TcpAddress("127.0.0.1", 7),)


@pytest.mark.usefixtures("folder")
def test_serve_that_cannot_listen_ends_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An address that cannot be bound is told in one line."""

    def serve(app: object, front: FrontConfig, given: list[socket.socket]) -> None:
        raise OSError(errno.EADDRINUSE, "Address already in use")

    stand_in(monkeypatch, serve)
    assert cli.main(["serve"]) == 1
    assert capsys.readouterr().err == "pointsman: cannot listen on 0.0.0.0:8000: Address already in use\n"


def run(code: str, folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    environ = {"PYTHONPATH": str(BACKEND), **environ}
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, cwd=folder, env=environ, capture_output=True, text=True, timeout=60, check=False
    )


def test_check_loads_no_server(tmp_path: Path) -> None:
    """`check` must not pay for FastAPI, the server or other heavy libraries."""
    heavy = ("fastapi", "uvicorn", "pydantic", "pydantic_settings", "httpx", "typer", "rich", "pointsman.app")
    code = f"""
import sys
from pointsman import cli
cli.main(["check"])
print([name for name in {heavy!r} if name in sys.modules])
"""
    assert run(code, tmp_path).stdout.splitlines()[-1] == "[]"


def test_importable_app_ends_with_the_sentence(tmp_path: Path) -> None:
    """`uvicorn main:app` with bad settings ends with one sentence and 2, not with a traceback."""
    done = run("import main", tmp_path, PORT="x")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "pointsman: PORT: 'x' is not a whole number from 0 to 65535; write one\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_ends_with_0_when_told_to_stop(tmp_path: Path, number: signal.Signals) -> None:
    """A router without engines serves, and a signal to stop is a clean end, not a failure."""
    path = tmp_path / "p.sock"
    environ = {"PYTHONPATH": str(BACKEND), "LISTEN": f"unix:{path}", "GRACE_S": "0"}
    command = [sys.executable, "-c", "import sys; from pointsman import cli; sys.exit(cli.main(['serve']))"]
    with subprocess.Popen(command, cwd=tmp_path, env=environ, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert answers(path, process, 30), process.stderr
            process.send_signal(number)
            assert process.wait(30) == 0
        finally:
            process.kill()
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()


def answers(path: Path, process: "subprocess.Popen[str]", within_s: float) -> bool:
    """Whether the process answers a request on its unix socket before the time is over."""
    until = time.monotonic() + within_s
    while time.monotonic() < until and process.poll() is None:
        with socket.socket(socket.AF_UNIX) as client, contextlib.suppress(OSError):
            client.settimeout(5)
            client.connect(str(path))
            client.sendall(b"GET /models HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
            if client.recv(64).startswith(b"HTTP/1.1 "):
                return True
        time.sleep(0.05)
    return False
