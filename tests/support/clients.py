"""The well-behaved client of the acceptance tests: ``Peer``, on the ``websockets`` package."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import ssl
import threading
import time

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from tests.support.raw_client import Closed, Json
from tests.support.waiting import DEADLINE


class Peer:
    """A WebSocket client that reads JSON messages."""

    def __init__(self, connection: ClientConnection, *, greeted: bool = True) -> None:
        self.connection = connection
        #: The `connected` message, when one is awaited.
        self.hello: Json = self.receive() if greeted else {}

    @property
    def id(self) -> str:
        return str(self.hello["data"]["client_id"])

    def frame(self, deadline: float = DEADLINE) -> str | bytes:
        """Return the next message as it came."""
        return self.connection.recv(timeout=deadline)

    def receive(self, deadline: float = DEADLINE) -> Json:
        """Return the next message, which must be one JSON object in a text frame."""
        frame = self.frame(deadline)
        assert isinstance(frame, str), f"a binary frame: {frame!r}"
        message = json.loads(frame)
        assert isinstance(message, dict), message
        return message

    def send(self, message: Json | str | bytes) -> None:
        self.connection.send(json.dumps(message) if isinstance(message, dict) else message)

    def ask(self, message: Json | str | bytes) -> Json:
        """Send something and return the next message."""
        self.send(message)
        return self.receive()

    def ended(self, deadline: float = DEADLINE) -> tuple[list[Json], Closed]:
        """Return the messages until the server closes, and how it does so."""
        messages: list[Json] = []
        end = time.monotonic() + deadline
        while True:
            try:
                messages.append(self.receive(max(0.0, end - time.monotonic())))
            except ConnectionClosed as error:
                return messages, Closed(error.rcvd.code, error.rcvd.reason) if error.rcvd else Closed(1006, "")

    def close(self) -> None:
        self.connection.close()


# How many bytes a relay keeps for a side that is slower than the other.
_RELAYED = 1 << 16


def without_tls(tls: ssl.SSLSocket) -> socket.socket:
    """Return a plain socket whose other end a thread joins to a TLS connection; closing either ends both.

    ``websockets`` reads in one thread and writes in another, and Python (before 3.13 at the least) lets both into OpenSSL at
    once: now and then a request is lost, or the connection ends with UNEXPECTED_MESSAGE or an early EOF.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        plain = socket.create_connection(listener.getsockname())
        other, _ = listener.accept()
    threading.Thread(target=_relay, args=(tls, other), name="tls-relay", daemon=True).start()
    return plain


def _relay(tls: ssl.SSLSocket, plain: socket.socket) -> None:
    """Move bytes both ways until one side ends, then send the other what is left."""
    ends: dict[socket.socket, bytes] = {tls: b"", plain: b""}  # and the bytes that wait to be sent there
    waits = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
    with tls, plain:
        tls.setblocking(False)
        plain.setblocking(False)
        with contextlib.suppress(OSError):
            while _relay_once(tls, plain, ends, waits):
                pass
        for end, data in ends.items():
            with contextlib.suppress(OSError):
                end.settimeout(DEADLINE)
                end.sendall(data)


def _relay_once(
    tls: ssl.SSLSocket, plain: socket.socket, ends: dict[socket.socket, bytes], waits: tuple[type[OSError], ...]
) -> bool:
    """Move what can be moved now, or wait until something can; return False when one side has ended."""
    moved = False
    for source, target in ((tls, plain), (plain, tls)):
        if len(ends[target]) < _RELAYED:
            with contextlib.suppress(*waits):
                data = source.recv(_RELAYED)
                if not data:
                    return False
                ends[target] += data
                moved = True
        if ends[target]:
            with contextlib.suppress(*waits):
                sent = target.send(ends[target])
                ends[target] = ends[target][sent:]
                moved = moved or sent > 0
    if not moved:
        room = [source for source, target in ((tls, plain), (plain, tls)) if len(ends[target]) < _RELAYED]
        select.select(room, [end for end, data in ends.items() if data], [])
    return True
