"""One client's connection: whether it is taken, how long it may keep us waiting, and how it ends.

Source of the rules: `reliability.md` sections 8, 9 and 11.
"""

import logging
import socket
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from pointsman.cycle import Cycle
from pointsman.door import Door, is_health_check
from pointsman.errors import REQUEST_TIMEOUT
from pointsman.front import FrontConfig
from pointsman.pace import Pace, Phase
from pointsman.refusal import MALFORMED, Refused, refusal
from pointsman.sockets import readable

_UNSENT_BYTES = 16 * 1024  # for a client that does not read, above which its engine is held up
_LINGER_S = 2.0  # for a client that is still sending to read the answer
_FRESH_S = 2.0  # for who has just connected to ask, when the server ends
_FRONT = FrontConfig()  # where another runner has a configuration without ours
_DOOR = Door(_FRONT.max_connections)
_log = logging.getLogger("pointsman.front")


class ClientConnection(HttpToolsProtocol):
    """What of our HTTP protocol is not about a message: when a connection is taken, waits, and ends."""

    cycle: Cycle | None  # type: ignore[assignment] # uvicorn says it is always there
    _fed_bytes = 0  # of the current message, as they came
    _body_bytes = 0  # of them, body
    _deaf = False  # nothing more is read from this connection
    _surplus = False  # one connection too many, which has not been told so
    _fresh_until = 0.0  # loop's time

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=_UNSENT_BYTES)
        self.access_log = False  # one line per request is enough, and it is ours
        self._fresh_until = self.loop.time() + _FRESH_S
        self.pace = Pace(self.loop, getattr(self.config, "front", _FRONT), self)
        self.pace.expect(Phase.NEW)
        self._door = getattr(self.config, "door", _DOOR)
        if self._door.crowded(len(self.connections)):
            self._deaf = self._surplus = True
            if self._door.shut(len(self.connections)):
                self._door.refuse(self.loop.time())
                transport.abort()
        if self.client is None and transport.get_extra_info("socket").family != socket.AF_UNIX:
            self._deaf = True  # gone already, and its address with it; None is who comes by a unix socket
            transport.abort()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.pace.expect(Phase.READER)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.transport.is_closing():
            self._close()
        elif self.cycle is not None and self.cycle.response_complete:
            self.pace.idle()
        else:
            self.pace.phase = Phase.BUSY

    def eof_received(self) -> None:
        self._tell_gone()  # a half-closed client counts as gone, even while it still has to read
        self._close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._tell_gone()
        super().connection_lost(exc)
        self.pace.stop()

    @property
    def taken_bytes(self) -> int:
        return self._body_bytes

    @property
    def holds_back(self) -> bool:
        return self.flow.read_paused or (self.cycle is not None and self.cycle.waiting_for_100_continue)

    @property
    def unsent_bytes(self) -> int:
        return self.transport.get_write_buffer_size()

    def overdue(self, phase: Phase) -> None:
        """The client took too long for what its connection waits for."""
        cycle = self.cycle
        running = cycle is not None and not cycle.response_complete
        if phase is Phase.READER and running and cycle is not None and cycle.on_disconnect is not None:
            self.pace.expect(phase)  # the data plane has a limit of its own, and words for it
        elif phase is Phase.READER:
            _log.info("a client that did not read the last %d bytes of its answer is left", self.unsent_bytes)
            self.transport.abort()
        elif phase is Phase.HEAD or (phase is Phase.BODY and running):
            self._stop(Refused(REQUEST_TIMEOUT, REQUEST_TIMEOUT.message))
        else:
            self._close()

    def _close(self) -> None:
        """Close once the client has what was written; it must take it in time."""
        self.transport.close()
        if self.unsent_bytes:
            self.pace.expect(Phase.READER)
        else:
            self.pace.phase = Phase.BUSY

    def _linger(self) -> None:
        """Half-close, and drop what still comes of the body until the client has read the answer.

        Closing with bytes unread would reset the connection, and the answer may be lost with it: nginx, for
        one, then finds that it cannot write, and tells its client 502.
        """
        self._deaf = True
        self.pace.phase = Phase.BUSY
        self.flow.resume_reading()
        self.transport.write_eof()
        self.loop.call_later(_LINGER_S, self._close)

    def _turn_away(self, data: bytes) -> None:
        """Tell one client too many so, now that it has begun to ask; health checks are answered."""
        self._surplus = False
        if not is_health_check(data):
            self._refuse(self._door.refuse(self.loop.time()))
            return
        self._deaf = False
        self.data_received(data)
        if self.cycle is not None:
            self.cycle.keep_alive = False
        elif not self._deaf:  # its head does not fit into one segment
            self._refuse(self._door.refuse(self.loop.time()))

    def leave(self) -> None:
        """The server begins to end: an answer that has not begun is told to be this connection's last."""
        if self.cycle is not None and not self.cycle.response_started:
            self.cycle.keep_alive = False

    def shutdown(self) -> None:
        """Close if nothing is on its way; the server asks again and again while it ends.

        What has come already is answered, for to close with bytes unread would reset the connection; and who
        has just connected is about to ask.
        """
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            cycle.keep_alive = False
        elif not (self._fed_bytes or self.transport.is_closing() or readable(self.transport)) and (
            cycle is not None or self.loop.time() >= self._fresh_until
        ):
            self._close()

    def _tell_gone(self) -> None:
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            cycle.gone()

    def _stop(self, cause: BaseException | None) -> None:
        """Read no more from this connection: let a running answer end, or refuse at once."""
        self._deaf = True
        refused = cause if isinstance(cause, Refused) else MALFORMED
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            if not cycle.more_body:
                # What follows a message that is being answered is not read: the client must ask again on a
                # new connection (RFC 9112 9.3.2), and this one closes when the answer is whole.
                cycle.keep_alive = False
                return
            if cycle.response_started:
                self._close()
                return
            cycle.refused = refused.kind
            cycle.gone()  # its body is malformed, or too slow: nobody is to answer it any more
        self._refuse(refused)

    def _refuse(self, refused: Refused) -> None:
        self.transport.write(refusal(refused, self.headers or []))
        self._linger()
