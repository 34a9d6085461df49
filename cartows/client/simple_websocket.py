"""A connection in a flask-sock route of the app's own: simple-websocket reads, and cartows does all of the writing.

**Threads**: simple-websocket's thread runs ``RouteSocket.recv`` and ``send``; the request's thread runs ``messages``.
**Locks**: the connection's send lock; ``RouteSocket._room`` makes the reading thread wait for the request's.
**Blocks**: ``messages`` until a message comes.

In such a route the handshake is over before our code runs, and simple-websocket's thread already waits in ``recv``: it has to
go on reading. But the socket that it writes its pongs and close frames to can be replaced, which keeps them whole and in order.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from simple_websocket import ConnectionClosed

from ..message import size_of
from ..options import Options
from ..websocket.close_codes import CloseCode
from ..websocket.frames import CLOSE, PONG
from .connection import Connection
from .queue_budget import UNLIMITED, QueueBudget
from .rate_limit import ADMIT, END, RateLimit
from .transport import PlainTransport

__all__ = ["RouteConnection", "abort_socket"]

# How often, in seconds, the request's thread checks that simple-websocket still reads.
_CHECK_INTERVAL = 1.0

# How many seconds simple-websocket's thread may take to see the end of its socket.
_ABORT_WAIT = 5.0

# How many seconds it may take to answer a peer's close frame.
_ANSWER_WAIT = 1.0

# How many messages may wait for the app's handler before reading stops.
_MAX_WAITING = 16


class RouteSocket:
    """The socket that simple-websocket uses: it reads from the real one, and writes through the connection."""

    def __init__(self, ws: Any, connection: Connection) -> None:
        self._ws = ws
        self.sock = ws.sock
        self._connection = connection
        options = connection.options
        #: How many pings the peer may send. Separate from the connection's limit, which belongs to the request's thread.
        self._limit = None if options.rate_limit is None else RateLimit(options.rate_limit, options.rate_burst)
        self._room = threading.Condition()
        self._over = False

    def recv(self, size: int) -> bytes:
        """Read from the socket, but not far ahead of the app: what a client sends must not pile up here."""
        with self._room:
            while len(self._ws.input_buffer) >= _MAX_WAITING and not self._over:
                self._room.wait()
        data: bytes = self.sock.recv(size)
        self._connection.last_received = time.monotonic()
        return data

    def send(self, data: bytes) -> int:
        """Send the control frames that simple-websocket makes by the connection's rules."""
        view = data
        while len(view) >= 2:
            opcode, length = view[0] & 0x0F, view[1] & 0x7F
            payload, view = view[2 : 2 + length], view[2 + length :]
            if opcode == PONG:
                verdict = ADMIT if self._limit is None else self._limit.admit(notify=False)
                if verdict == ADMIT:
                    self._connection.pong(payload)
                elif verdict == END and self._connection.owner is not None:
                    # Without an owner, no thread would abort a connection whose peer does not answer the close frame.
                    self._connection.close_flooded()
            elif opcode == CLOSE:
                code = int.from_bytes(payload[:2], "big") if len(payload) >= 2 else None
                self._connection.close(code, payload[2:].decode(errors="replace"), drop_queue=True)
        return len(data)

    def taken(self) -> None:
        """Wake simple-websocket's thread: a message was taken."""
        with self._room:
            self._room.notify_all()

    def over(self) -> None:
        """Let simple-websocket's thread end."""
        with self._room:
            self._over = True
            self._room.notify_all()

    def fileno(self) -> int:
        """Return the descriptor of the socket itself."""
        descriptor: int = self.sock.fileno()
        return descriptor

    def close(self) -> None:
        """Wake the thread that waits for simple-websocket's thread, which has ended; the connection closes the socket."""
        self._ws.connected = False
        self._ws.event.set()


def abort_socket(ws: Any) -> None:
    """Shut a socket down without a close frame, and wait for simple-websocket's thread.

    That thread must not be inside the TLS object when the server closes the descriptor: another connection may get the same
    number, and the thread would read its bytes.
    """
    sock = ws.sock.sock if isinstance(ws.sock, RouteSocket) else ws.sock
    with suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)
    ws.connected = False
    ws.thread.join(_ABORT_WAIT)


class RouteConnection(Connection):
    """The connection of a ``simple_websocket.Server`` whose handshake is over; the web server closes its descriptor."""

    __slots__ = ("_socket", "_ws")

    def __init__(self, ws: Any, options: Options, budget: QueueBudget = UNLIMITED) -> None:
        super().__init__(PlainTransport(ws.sock, borrowed=True), threading.Lock(), options, budget=budget)
        self.transport.tune(options.write_buffer)
        self._ws = ws
        self._socket = RouteSocket(ws, self)
        if ws.max_message_size is None:
            ws.max_message_size = options.max_message_size
        # From here on simple-websocket writes through ``_socket``; its thread sees this at its next use of the socket.
        ws.sock = self._socket
        if not ws.connected:
            # The peer has closed already. It was answered on the socket itself, unless the answer came through ``_socket``.
            ws.thread.join(_ANSWER_WAIT)
            if not self.closing:
                self.abort(ws.close_reason or CloseCode.NO_STATUS, ws.close_message or "")

    def messages(self) -> Iterator[str | bytes]:
        """See Connection.messages."""
        try:
            while True:
                # simple-websocket's thread may end without waking the one that waits for a message.
                message = self._ws.receive(timeout=_CHECK_INTERVAL)
                self._socket.taken()
                if message is None and (self.ended or not self._ws.thread.is_alive()):
                    return
                if message is None or self.closing:
                    continue
                yield from self._handed_on(message, size_of(message))
        except ConnectionClosed:
            # Raised before the answer to the peer's close frame came through ``_socket``.
            self._socket.over()
            self._ws.thread.join(_ANSWER_WAIT)
            self.flush_close()

    def finish(self) -> None:
        """See Connection.finish."""
        self._socket.over()
        super().finish()
