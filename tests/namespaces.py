"""Hosts of the tests' own, each in a network namespace behind a cable; what they send can be made to vanish.

The calling thread is in a namespace of its own while the `with` block lasts, and so is what it starts: there
the addresses 10.77.N.1 are its own, and 10.77.N.2 is host N. The kernel takes all of it away once nobody is
inside any more. Nothing is changed outside.
"""

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from nginx import tool

_CLONE_NEWNET = 0x40000000
_OWN = "/proc/thread-self/ns/net"
_NOBODY = "02:00:00:00:77:77"  # a station that no cable leads to
_TIMEOUT_S = 30.0
_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def _inside(namespace: int) -> Iterator[None]:
    """Be in another namespace for a while; sockets and processes made there stay there."""
    before = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.setns(namespace, _CLONE_NEWNET))
        try:
            yield
        finally:
            _check(_libc.setns(before, _CLONE_NEWNET))
    finally:
        os.close(before)


@contextmanager
def _made() -> Iterator[int]:
    """A new namespace whose loopback interface is up."""
    before = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.unshare(_CLONE_NEWNET))
        try:
            made = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
            _ip("link", "set", "lo", "up")
        finally:
            _check(_libc.setns(before, _CLONE_NEWNET))
    finally:
        os.close(before)
    try:
        yield made
    finally:
        os.close(made)


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _ip(*words: str) -> str:
    done = subprocess.run(
        (tool("ip"), *words), capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
    )
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"
    return done.stdout


@dataclass(frozen=True)
class Host:
    """A host behind a cable: `with host.inside()` starts things there, `host.address` reaches them."""

    number: int
    namespace: int

    @property
    def address(self) -> str:
        return f"10.77.{self.number}.2"

    @contextmanager
    def inside(self) -> Iterator[None]:
        with _inside(self.namespace):
            yield

    def vanish(self) -> None:
        """From now on all packets to it and from it are lost on the way, and nobody is told."""
        self._point(_NOBODY, _NOBODY)

    def unplug(self) -> None:
        """Take its end of the cable down, which our end notices."""
        with self.inside():
            _ip("link", "set", "far", "down")

    def come_back(self) -> None:
        """The cable is as it was at first."""
        with self.inside():
            _ip("link", "set", "far", "up")
        self._point(self._station(near=False), self._station(near=True))

    def connect(self) -> None:
        """Lay the cable; from the namespace in which we are."""
        near = f"near{self.number}"
        path = f"/proc/{os.getpid()}/fd/{self.namespace}"
        _ip("link", "add", "name", near, "type", "veth", "peer", "name", "far", "netns", path)
        _ip("address", "add", f"10.77.{self.number}.1/24", "dev", near)
        _ip("link", "set", near, "address", self._station(near=True), "up")
        with self.inside():
            _ip("address", "add", f"{self.address}/24", "dev", "far")
            _ip("link", "set", "far", "address", self._station(near=False), "up")
        self.come_back()

    def _station(self, *, near: bool) -> str:
        return f"02:00:00:00:{self.number:02x}:{1 if near else 2:02x}"

    def _point(self, far: str, near: str) -> None:
        """To which stations the two ends send; said for good, so that they need not ask each other."""
        _ip(*self._neighbour(self.address, far, f"near{self.number}"))
        with self.inside():
            _ip(*self._neighbour(f"10.77.{self.number}.1", near, "far"))

    @staticmethod
    def _neighbour(address: str, station: str, device: str) -> tuple[str, ...]:
        return ("neighbour", "replace", address, "lladdr", station, "nud", "permanent", "dev", device)


@contextmanager
def hosts(count: int) -> Iterator[list[Host]]:
    """So many hosts, and the calling thread in front of them.

    Needs the right to make namespaces, such as root has; without it the test is skipped.
    """
    if sys.platform != "linux" or not Path(_OWN).exists():
        pytest.skip("network namespaces are Linux's")
    tool("ip")
    with ExitStack() as stack:
        try:
            front = stack.enter_context(_made())
        except PermissionError:
            pytest.skip("network namespaces need root, or CAP_SYS_ADMIN and CAP_NET_ADMIN")
        stack.enter_context(_inside(front))
        found = [Host(number, stack.enter_context(_made())) for number in range(1, count + 1)]
        for host in found:
            host.connect()
        yield found
