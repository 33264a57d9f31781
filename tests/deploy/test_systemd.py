"""`deploy/systemd/pointsman.service`: fit and tight by systemd's own tool, and enough for what it starts.

There is no systemd to start it here. Its commands run as it says, under its settings for system calls,
address families, privileges and memory (`sandbox`); read-only file systems and namespaces are not imitated.
"""

import json
import os
import pwd
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes.util import find_library
from pathlib import Path

import pytest

import sandbox
from nginx import Nginx, ask, connected, our_site, read, short_folder, tool
from pointsman.front import FrontConfig
from processes import BACKEND, Emulator, wait_for
from wire import VLLM, data_of, outcome, request

ROOT = BACKEND.parent
UNIT = ROOT / "deploy" / "systemd" / "pointsman.service"
SOCKET = UNIT.with_suffix(".socket")
EXPOSURE_MAX = 12  # tenths: 1.2; systemd calls up to 2.0 OK and 10.0 dangerous
_LIMIT_S = 60.0
_NOBODY = 65534


def settings() -> dict[str, list[str]]:
    """The [Service] section: each name with its values in order, the comments' ExecStart as `#ExecStart`."""
    section = UNIT.read_text(encoding="utf-8").partition("[Service]\n")[2].partition("\n[Install]")[0]
    found: dict[str, list[str]] = {}
    for line in section.splitlines():
        if re.match(r"#?[A-Z]\w+=", line):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def one(name: str) -> str:
    (value,) = settings()[name]
    return value


def installed(folder: Path) -> Path:
    """The unit with its program where this one is."""
    text = UNIT.read_text(encoding="utf-8")
    place = folder / UNIT.name
    place.write_text(text.replace("/opt/pointsman/.venv/bin/pointsman", sys.executable), encoding="utf-8")
    return place


def systemd_analyze(*arguments: str) -> str:
    """What the tool says; it must be content."""
    done = subprocess.run(
        [tool("systemd-analyze"), *arguments], capture_output=True, text=True, timeout=_LIMIT_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_unit_is_fit(tmp_path: Path) -> None:
    """`systemd-analyze verify` knows every line of it, and has nothing to say."""
    assert systemd_analyze("verify", "--man=no", str(installed(tmp_path))) == ""


def test_the_socket_is_fit(tmp_path: Path) -> None:
    """systemd knows every line of it; it is for nginx's group, and where nobody removes it."""
    place = tmp_path / SOCKET.name
    place.write_bytes(SOCKET.read_bytes())
    installed(tmp_path)
    assert systemd_analyze("verify", "--man=no", str(place)) == ""
    lines = SOCKET.read_text(encoding="utf-8").splitlines()
    assert {"SocketMode=0660", f"SocketGroup={one('Group')}"} <= set(lines)
    (path,) = [line.partition("=")[2] for line in lines if line.startswith("ListenStream=")]
    assert Path(path).parent != Path("/run") / one("RuntimeDirectory")


def test_the_unit_is_tight(tmp_path: Path) -> None:
    """Its exposure by `systemd-analyze security` stays below our threshold."""
    threshold = f"--threshold={EXPOSURE_MAX}"
    said = systemd_analyze("security", "--offline=true", threshold, str(installed(tmp_path)))
    assert "Overall exposure level" in said


def test_times_and_rights_fit_the_router() -> None:
    """It waits for grace and drain and 30 s more, gives up on bad settings only, and is nobody's root."""
    front = FrontConfig()
    assert int(one("TimeoutStopSec")) >= front.grace_s + front.drain_s + 30
    assert one("KillMode") == "mixed"
    assert (one("Restart"), one("RestartPreventExitStatus")) == ("always", "2")
    assert one("DynamicUser") == "yes"
    assert one("CapabilityBoundingSet") == one("AmbientCapabilities") == ""
    assert int(one("LimitNOFILE")) >= 65536
    assert one("Environment") == "LISTEN=unix:/run/pointsman/pointsman.sock"
    assert one("RuntimeDirectory") == "pointsman"


# --- its commands, under its settings


@pytest.fixture(scope="module", autouse=True)
def _seccomp() -> None:
    """Without the library its tests are skipped, and fail under CI."""
    if find_library("seccomp") is None:
        why = "libseccomp is not installed"
        pytest.fail(why) if os.environ.get("CI") else pytest.skip(why)


def expanded(name: str, known: dict[str, list[str]]) -> set[str]:
    """The system calls of one of systemd's sets."""
    if not name.startswith("@"):
        return {name}
    return {call for inner in known[name] for call in expanded(inner, known)}


def allowed_calls() -> list[str]:
    """What SystemCallFilter leaves, by systemd's own tables."""
    known: dict[str, list[str]] = {}
    for block in systemd_analyze("syscall-filter").split("\n\n"):
        lines = [line.strip() for line in block.splitlines()]
        names = [line for line in lines if line and not line.startswith("#")]
        if names:
            known[names[0]] = names[1:]
    calls: set[str] = set()
    for line in settings()["SystemCallFilter"]:
        taken = {call for name in line.lstrip("~").split() for call in expanded(name, known)}
        calls = calls - taken if line.startswith("~") else calls | taken
    return sorted(calls)


def stranger() -> tuple[int, int] | None:
    """A user who is not root and nginx's group; None where we are not root, or hide our files from others."""
    open_to_all = all(
        path.stat().st_mode & stat.S_IXOTH for start in (BACKEND, Path(sys.prefix)) for path in start.parents
    )
    try:
        group = pwd.getpwnam(one("Group")).pw_gid
    except KeyError:
        return None
    return (_NOBODY, group) if os.geteuid() == 0 and open_to_all else None


def command(line: str) -> list[str]:
    """ExecStart with the program that runs these tests in place of the installed one."""
    program, *arguments = line.replace("/opt/pointsman/deploy/", f"{ROOT}/deploy/").split()
    assert program.startswith("/opt/pointsman/.venv/bin/")
    return [sys.executable, "-m", Path(program).name, *arguments]


@contextmanager
def service(folder: Path, line: str, **settings_file: str) -> Iterator[subprocess.Popen[bytes]]:
    """The unit's command with its environment, in `folder` for /run/pointsman and /etc/pointsman."""
    user, group = stranger() or (None, None)
    spec = {
        "umask": one("UMask"),
        "files": int(one("LimitNOFILE")),
        "user": user,
        "group": group,
        "calls": allowed_calls(),
        "families": one("RestrictAddressFamilies").split(),
    }
    (folder / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
    if user is not None and group is not None:
        os.chown(folder, user, group)
    folder.chmod(int(one("RuntimeDirectoryMode"), 8))
    name, _, value = one("Environment").replace("/run/pointsman", str(folder)).partition("=")
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(BACKEND), name: value, **settings_file}
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, sandbox.__file__, str(folder / "spec.json"), *command(line)],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait(_LIMIT_S)


@pytest.fixture
def vllm() -> Iterator[Emulator]:
    with Emulator("vllm", "--tokens-per-s", "20") as engine:
        yield engine


@pytest.mark.parametrize("kind", ["ExecStart", "#ExecStart"])
def test_a_stream_through_nginx_under_the_units_settings(vllm: Emulator, kind: str) -> None:
    """The unit's commands serve through nginx on their socket, drain when told to stop, and end with 0."""
    with short_folder() as folder:
        served = {"VLLM_GEMMA3_ENDPOINT": vllm.url, "WEB_CONCURRENCY": "2"}
        with service(folder, one(kind), **served) as process, short_folder() as own:
            web = own / "web"
            web.mkdir()
            own.chmod(0o755)
            user = one("Group") if stranger() else "root"  # nginx's user is named as its group
            with Nginx(web, our_site(folder / "pointsman.sock"), user=user) as nginx:

                def ready() -> bool:
                    assert process.poll() is None, (folder / "output").read_text()
                    return ask(nginx.port, request("GET", "/ready")).status == 200

                wait_for(ready, "the router is ready behind nginx")
                assert (folder / "pointsman.sock").stat().st_mode & 0o777 == 0o660
                assert outcome(VLLM, ask(nginx.port, VLLM.request(stream=False)), stream=False) == "ok"
                with connected(nginx.port) as client:
                    client.sendall(VLLM.request("Hello", 30, stream=True, ignore_eos=True))
                    first = read(client, until=b"data:")
                    os.kill(vllm.pid, signal.SIGSTOP)
                    try:
                        process.send_signal(signal.SIGTERM)
                        wait_for(
                            lambda: ask(nginx.port, request("GET", "/live")).status == 502, "no new requests"
                        )
                    finally:
                        os.kill(vllm.pid, signal.SIGCONT)
                    while not first.ended:
                        block = client.recv(65536)
                        assert block, "the stream was cut"
                        first.feed(block)
                    process.wait(_LIMIT_S)
        assert data_of(first.body)[-1] == "[DONE]"
        output = (folder / "output").read_text(encoding="utf-8")
        assert process.returncode == 0, output
        assert '"level":"ERROR"' not in output


def test_the_sandbox_is_one(tmp_path: Path) -> None:
    """What the unit forbids fails in it: other address families and system calls, code made at run time."""
    code = """
import ctypes, errno, mmap, os, socket
def denied(what):
    try:
        what()
    except OSError as error:
        return error.errno == errno.EPERM
    return False
print([
    denied(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)),
    denied(lambda: os.sched_setaffinity(0, {0})),
    denied(lambda: os.chroot("/")),
    denied(lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC)),
    denied(lambda: os.setuid(0)),
])
"""
    spec = {"umask": "0077", "files": 100, "user": None, "group": None, "calls": allowed_calls()}
    place = tmp_path / "spec.json"
    place.write_text(json.dumps({**spec, "families": one("RestrictAddressFamilies").split()}))
    done = subprocess.run(
        [sys.executable, sandbox.__file__, str(place), sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=_LIMIT_S,
        check=False,
    )
    assert done.stdout.strip() == str([True] * 5), done.stderr
