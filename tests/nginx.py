"""The real nginx with a site of ours, and clients that come from addresses of their own.

The addresses are of 127.0.0.0/8, all of which is this machine on Linux.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from ports import free_port
from processes import BACKEND, wait_for
from wire import LIMIT_S, Incoming

SITE = BACKEND.parent / "deploy" / "nginx" / "pointsman.conf"
SOCKET = "unix:/run/pointsman/pointsman.sock"
_START_S = 20.0
_TRIES = 3  # the port is free when it is chosen, and may be taken a moment later
_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


def tool(name: str) -> str:
    """Where an outside program is; without it the test is skipped, and fails under CI."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is not None:
        return found
    why = f"{name} is not installed"
    if os.environ.get("CI"):
        pytest.fail(why)
    pytest.skip(why)


@contextmanager
def short_folder() -> Iterator[Path]:
    """A folder whose path is short enough for unix sockets."""
    with tempfile.TemporaryDirectory(prefix="pm-") as name:
        yield Path(name)


def our_site(path: Path, *, tls: Path | None = None) -> str:
    """`deploy/nginx/pointsman.conf` for a router's socket; PORT stands where the test's port goes.

    Args:
        tls: a PEM file with certificate and key; None: HTTP.
    """
    text = SITE.read_text(encoding="utf-8")
    assert text.count(SOCKET) == 1
    text = text.replace(SOCKET, f"unix:{path}")
    text = re.sub(r"(?m)^ *(#tls )? *listen \[::\]:.*\n", "", text)
    if tls is None:
        return text.replace("listen 80;", "listen 127.0.0.1:PORT;")
    text = text.replace("    listen 80;        #", "    #").replace("#tls ", "")
    text = text.replace("listen 80;", "listen 127.0.0.3:PORT;")  # the one that sends to HTTPS
    text = re.sub(r"(?m)^( *ssl_certificate(_key)?) .*;", rf"\1 {tls};", text)
    return text.replace("listen 443 ssl", "listen 127.0.0.1:PORT ssl")


def certificate(folder: Path) -> Path:
    """A self-signed certificate for 127.0.0.1 and its key, in one file."""
    made = folder / "site.pem"
    subprocess.run(
        (
            *(tool("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")),
        ),
        check=True,
        capture_output=True,
        timeout=60,
    )
    made.write_text((folder / "cert.pem").read_text() + (folder / "key.pem").read_text())
    return made


class Nginx:
    """nginx in the foreground with one site; `site` is its text, with PORT for the port."""

    def __init__(self, folder: Path, site: str, *, user: str = "root") -> None:
        if sys.platform != "linux":
            pytest.skip("other systems have but one address of 127.0.0.0/8")
        self._program = tool("nginx")
        self._folder, self._site = folder, site
        as_root = f"user {user};" if os.geteuid() == 0 else ""
        paths = "".join(f"{name}_temp_path {folder}/{name};" for name in _TEMPORARY)
        self.port = 0
        # What others may have set for all sites; ours has to hold its own against it.
        spoiled = "gzip on; gzip_proxied any; gzip_types *; proxy_buffering on; proxy_read_timeout 2s;"
        self._frame = (
            f"{as_root} daemon off; worker_processes 1; pid {folder}/nginx.pid;"
            f"error_log {folder}/error.log info; events {{}}"
            f"http {{ access_log off; {spoiled} {paths} include {folder}/site.conf; }}"
        )

    def __enter__(self) -> Self:
        for _ in range(_TRIES):
            self._process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            wait_for(lambda: self._process.poll() is not None or self._listens(), "nginx", _START_S)
            if self._process.poll() is None:
                return self
        raise AssertionError(f"nginx did not start:\n{self.log()}")

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        try:
            self._process.wait(_START_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(_START_S)

    def check(self, *flags: str) -> str:
        """What `nginx -t` says of the site; it must be fit."""
        done = subprocess.run(
            [*self._command(), *flags], capture_output=True, text=True, timeout=_START_S, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    def log(self) -> str:
        """nginx's error log, from the level `info`."""
        path = self._folder / "error.log"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def _command(self) -> list[str]:
        self.port = free_port()
        (self._folder / "site.conf").write_text(self._site.replace("PORT", str(self.port)), encoding="utf-8")
        main = self._folder / "nginx.conf"
        main.write_text(self._frame, encoding="utf-8")
        return [self._program, "-p", str(self._folder), "-e", f"{self._folder}/error.log", "-c", str(main)]

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True


@contextmanager
def connected(port: int, source: str = "127.0.0.1") -> Iterator[socket.socket]:
    """A client connection from an address of 127.0.0.0/8."""
    with socket.create_connection(("127.0.0.1", port), LIMIT_S, source_address=(source, 0)) as client:
        yield client


def read(client: socket.socket, *, until: bytes | None = None) -> Incoming:
    """One answer, to its end or until its body holds `until`."""
    incoming = Incoming()
    while not incoming.ended and not (until is not None and until in incoming.body):
        try:
            data = client.recv(65536)
        except ConnectionResetError:
            data = b""
        if not data:
            return incoming
        incoming.feed(data)
    return incoming


def ask(port: int, data: bytes, source: str = "127.0.0.1") -> Incoming:
    """One exchange on a connection of its own."""
    with connected(port, source) as client:
        client.sendall(data)
        return read(client)
