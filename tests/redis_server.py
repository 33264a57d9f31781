"""The real redis-server on a unix socket of its own; it may be killed, stalled and started again."""

import signal
import socket
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from nginx import tool
from processes import wait_for

_START_S = 20.0


class RedisServer:
    """`with RedisServer(folder) as server`; the folder's path must be short (`nginx.short_folder`).

    Args:
        port: it listens on 127.0.0.1 too; 0: it does not.
    """

    def __init__(self, folder: Path, *flags: str, port: int = 0) -> None:
        self._program = tool("redis-server")
        self._path = folder / "redis.sock"
        self._log = folder / "redis.log"
        self._flags = flags
        self._port = port
        self.url = f"unix://{self._path}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Start it, empty, and wait until it answers."""
        options = {"port": str(self._port), "bind": "127.0.0.1", "unixsocket": str(self._path), "save": ""}
        flags = [word for name, value in options.items() for word in (f"--{name}", value)]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [self._program, *flags, "--dir", str(self._path.parent), *self._flags],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_for(lambda: self._process.poll() is not None or self._answers(), "redis-server", _START_S)
        assert self._process.poll() is None, self._log.read_text(errors="replace")

    def kill(self) -> None:
        """End it at once, as a crash would."""
        self._process.kill()
        self._process.wait(_START_S)

    def stall(self) -> None:
        """Let it live, listen and answer nothing."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def say(self, *words: str | bytes) -> bytes:
        """One command on a connection of its own; the answer as it came, for small ones."""
        parts = [word.encode() if isinstance(word, str) else word for word in words]
        command = b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(_START_S)
            client.connect(str(self._path))
            client.sendall(command)
            return client.recv(1 << 16)

    def _answers(self) -> bool:
        try:
            return self.say("PING") in {b"+PONG\r\n", b"-NOAUTH Authentication required.\r\n"}
        except OSError:
            return False
