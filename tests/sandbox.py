"""Run a command as systemd would under a unit's sandbox, as far as that needs no systemd:

    python sandbox.py SPEC.json COMMAND...

New privileges, umask, open files, user and group, system calls, address families, and memory that is both
written and executed are restricted as the unit says; the system calls by libseccomp, which systemd uses too.
Read-only file systems and namespaces are systemd's own work and are not imitated.
"""

import ctypes
import errno
import json
import os
import resource
import socket
import sys
from pathlib import Path
from typing import Any

_PR_SET_NO_NEW_PRIVS = 38
_ALLOW, _FAIL = 0x7FFF0000, 0x00050000 | errno.EPERM
_EQUAL, _MASKED_EQUAL = 4, 7
_PROT_WRITE, _PROT_EXEC = 2, 4


class _Compare(ctypes.Structure):
    """libseccomp's `struct scmp_arg_cmp`."""

    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("a", ctypes.c_uint64),
        ("b", ctypes.c_uint64),
    )


class Filter:
    """A filter of system calls that stays with this process and its children once it is loaded."""

    def __init__(self, default: int) -> None:
        self._library = ctypes.CDLL("libseccomp.so.2", use_errno=True)
        self._library.seccomp_init.restype = ctypes.c_void_p
        self._context = ctypes.c_void_p(self._library.seccomp_init(ctypes.c_uint32(default)))

    def add(self, action: int, call: str, *compared: _Compare) -> None:
        """Add a rule; calls that this architecture does not have are passed over."""
        number = self._library.seccomp_syscall_resolve_name(call.encode())
        if number < 0:
            return
        array = (_Compare * max(1, len(compared)))(*compared)
        failed = self._library.seccomp_rule_add_array(
            self._context, ctypes.c_uint32(action), number, len(compared), array
        )
        assert failed == 0, f"{call}: {os.strerror(-failed)}"

    def load(self) -> None:
        failed = self._library.seccomp_load(self._context)
        assert failed == 0, os.strerror(-failed)


def confine(spec: dict[str, Any]) -> None:
    """Take the restrictions on; there is no way back."""
    os.umask(int(spec["umask"], 8))
    files = min(spec["files"], resource.getrlimit(resource.RLIMIT_NOFILE)[1])  # more is for root to give
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    if spec["user"] is not None:
        os.setgroups([])
        os.setresgid(*[spec["group"]] * 3)
        os.setresuid(*[spec["user"]] * 3)
    assert ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    no_code = Filter(_ALLOW)  # first: the other may forbid to load more
    no_code.add(_FAIL, "mprotect", _Compare(2, _MASKED_EQUAL, _PROT_EXEC, _PROT_EXEC))
    both = _PROT_WRITE | _PROT_EXEC
    no_code.add(_FAIL, "mmap", _Compare(2, _MASKED_EQUAL, both, both))
    listed = Filter(_FAIL)
    for call in spec["calls"]:
        if call not in {"socket", "socketpair"}:
            listed.add(_ALLOW, call)
    for family in spec["families"]:
        number = int(getattr(socket, family))
        listed.add(_ALLOW, "socket", _Compare(0, _EQUAL, number, 0))
        listed.add(_ALLOW, "socketpair", _Compare(0, _EQUAL, number, 0))
    no_code.load()
    listed.load()


if __name__ == "__main__":
    confine(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    os.execvp(sys.argv[2], sys.argv[2:])
