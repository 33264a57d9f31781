"""An engine within this process, so that what it sees has the clock of what its clients do."""

import contextlib
import json
import re
import socket
import threading
import time
from types import TracebackType
from typing import Self

_LIMIT_S = 120.0
_BLOCK_BYTES = 64 * 1024


class Engine:
    """Speaks as much of vLLM as a router asks for; a stream has one event and then waits for its reader.

    Args:
        flood_bytes: what a stream has at once, in small events, before it waits.

    `left_at`: the monotonic second at which the last stream's connection ended. `left`: how many have.
    """

    def __init__(self, flood_bytes: int = 0) -> None:
        self.left_at, self.left = 0.0, 0
        self._flood_bytes = flood_bytes
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        kept = b""
        with client:
            client.settimeout(_LIMIT_S)
            try:
                while True:
                    head, found, rest = kept.partition(b"\r\n\r\n")
                    length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
                    size = int(length[1]) if length else 0
                    if found and len(rest) >= size:
                        kept = rest[size:]
                        if self._answer(client, head.split(b" ", 2)[1]):
                            return
                        continue
                    block = client.recv(65536)
                    if not block:
                        return
                    kept += block
            except OSError:
                return

    def _answer(self, client: socket.socket, path: bytes) -> bool:
        """Answer a request; True: it was a stream, and its reader has left."""
        if not path.endswith(b"/completions"):
            told = {"object": "list", "data": [{"id": "lone", "max_model_len": 4096}], "version": "0.32.0"}
            body = json.dumps(told).encode()
            client.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n")
            client.sendall(b"content-length: %d\r\n\r\n" % len(body) + body)
            return False
        choice = {"index": 0, "delta": {"role": "assistant", "content": "a"}, "finish_reason": None}
        event = f"data: {json.dumps({'object': 'chat.completion.chunk', 'choices': [choice]})}\n\n".encode()
        piece = b"%x\r\n" % len(event) + event + b"\r\n"
        client.sendall(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
            b"transfer-encoding: chunked\r\n\r\n" + piece
        )
        block = piece * (_BLOCK_BYTES // len(piece))
        with contextlib.suppress(OSError):
            for _ in range(self._flood_bytes // len(block)):
                client.sendall(block)
            client.recv(1)
        self.left_at = time.monotonic()
        self.left += 1
        return True
