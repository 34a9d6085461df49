"""A connection in a flask-sock route of the app's own: simple-websocket reads, and everything that is written is ours.

Threads: simple-websocket's thread runs ``RouteSocket.recv`` and ``send``; the request's thread runs ``messages``.
Locks: the connection's send lock; ``RouteSocket._room`` makes the reading thread wait for the request's.
Blocks: ``messages`` until a message comes.

There the handshake is over before our code runs and simple-websocket's thread already waits in ``recv``, so neither can be
taken away; but the socket it writes its pongs and close frames to can be, which keeps them whole and in line.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from simple_websocket import ConnectionClosed

from ..options import Options
from ..websocket.close_codes import CloseCode
from ..websocket.frames import CLOSE, PONG
from .connection import Connection
from .rate_limit import ADMIT, END, RateLimit
from .transport import PlainTransport

__all__ = ["RouteConnection", "abort_socket"]

# How often the request's thread looks whether simple-websocket still reads.
_LOOK_AFTER = 1.0

# How long simple-websocket's thread may take to see the end of its socket.
_ABORT_WAIT = 5.0

# How long it may take to answer a peer that has said goodbye.
_ANSWER_WAIT = 1.0

# Messages that may wait for the app's handler before no more is read.
_AHEAD = 16


class RouteSocket:
    """Stand between simple-websocket and the socket."""

    def __init__(self, ws: Any, connection: Connection) -> None:
        self._ws = ws
        self.sock = ws.sock
        self._connection = connection
        #: How many pings the peer may send; simple-websocket's thread, which answers them, has one of its own.
        options = connection.options
        self._limit = None if options.rate_limit is None else RateLimit(options.rate_limit, options.rate_burst)
        self._room = threading.Condition()
        self._over = False

    def recv(self, size: int) -> bytes:
        """Read on, but not far ahead of the app: what a client sends must not pile up here."""
        with self._room:
            while len(self._ws.input_buffer) >= _AHEAD and not self._over:
                self._room.wait()
        data: bytes = self.sock.recv(size)
        self._connection.last_received = time.monotonic()
        return data

    def send(self, data: bytes) -> int:
        """Take the control frames that simple-websocket makes and send them by the connection's rules."""
        view = data
        while len(view) >= 2:
            opcode, length = view[0] & 0x0F, view[1] & 0x7F
            payload, view = view[2 : 2 + length], view[2 + length :]
            if opcode == PONG:
                verdict = ADMIT if self._limit is None else self._limit.admit(tells=False)
                if verdict == ADMIT:
                    self._connection.pong(payload)
                elif verdict == END and self._connection.owner is not None:
                    self._connection.owner.flooded()
            elif opcode == CLOSE:
                code = int.from_bytes(payload[:2], "big") if len(payload) >= 2 else None
                self._connection.close(code, payload[2:].decode(errors="replace"), drop_queue=True)
        return len(data)

    def taken(self) -> None:
        """Let the reading thread read on."""
        with self._room:
            self._room.notify_all()

    def over(self) -> None:
        """Let the reading thread end."""
        with self._room:
            self._over = True
            self._room.notify_all()

    def fileno(self) -> int:
        """Return the descriptor of the socket itself."""
        descriptor: int = self.sock.fileno()
        return descriptor

    def close(self) -> None:
        """Leave the closing to the connection; simple-websocket's thread is at its end, and whoever waits for it is told."""
        self._ws.connected = False
        self._ws.event.set()


def abort_socket(ws: Any) -> None:
    """End a connection without a word, and wait for simple-websocket's thread.

    It must not be inside the TLS object when the server closes the descriptor: the number may go to another connection, whose
    bytes it would read.
    """
    sock = ws.sock.sock if isinstance(ws.sock, RouteSocket) else ws.sock
    with suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)
    ws.connected = False
    ws.thread.join(_ABORT_WAIT)


class RouteConnection(Connection):
    """Serve a ``simple_websocket.Server`` whose handshake is over; the web server closes its descriptor."""

    __slots__ = ("_socket", "_ws")

    def __init__(self, ws: Any, options: Options) -> None:
        super().__init__(PlainTransport(ws.sock, borrowed=True), threading.Lock(), options)
        self.transport.tune(options.write_buffer)
        self._ws = ws
        self._socket = RouteSocket(ws, self)
        if ws.max_message_size is None:
            ws.max_message_size = options.max_message_size
        # From here on simple-websocket writes through us; its thread sees this at its next use of the socket.
        ws.sock = self._socket
        if not ws.connected:
            # The peer has said goodbye already, and was answered on the socket itself unless the answer has come to us.
            ws.thread.join(_ANSWER_WAIT)
            if not self.closing:
                self.abort(ws.close_reason or CloseCode.NO_STATUS, ws.close_message or "")

    def messages(self) -> Iterator[str | bytes]:
        """See Connection.messages."""
        try:
            while True:
                # Its thread may end, or be about to, without waking whoever waits for a message.
                message = self._ws.receive(timeout=_LOOK_AFTER)
                self._socket.taken()
                if message is None and (self.ended or not self._ws.thread.is_alive()):
                    return
                if message is None or self.closing:
                    continue
                yield from self._handed_on(message)
        except ConnectionClosed:
            # It is raised before the answer to the peer's close frame has been given to us.
            self._socket.over()
            self._ws.thread.join(_ANSWER_WAIT)
            self.flush_close()

    def finish(self) -> None:
        """See Connection.finish."""
        self._socket.over()
        super().finish()
