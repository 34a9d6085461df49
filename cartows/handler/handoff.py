"""Take a socket from the web server, so that a client costs no request thread.

flask-sock makes its ``simple_websocket.Server`` itself, from the socket it finds in the WSGI environ. For our route alone a
HandshakeSocket stands there: simple-websocket writes its ``101`` into it and finds nothing to read, so it shakes hands and its
thread ends, and the real socket is ours. The server keeps a descriptor, but a dead one, to shut down and close as it likes.

Threads: the request's own; ``dead_end`` any.
Locks: ``_lock`` guards the making of the dead end.
Blocks: never.
"""

from __future__ import annotations

import os
import socket
import ssl
import threading
from typing import Any

__all__ = ["HandshakeSocket", "can_hand_off", "dead_end", "find_socket", "take_over"]

# Where the servers that flask-sock knows keep the socket of a request, as far as the hand-off was proved on them.
_KEYS = ("werkzeug.socket", "gunicorn.socket")

_lock = threading.Lock()
_dead: socket.socket | None = None


def find_socket(environ: dict[str, Any]) -> tuple[str, socket.socket] | None:
    """Return the environ's key for the request's socket and the socket, or None on a server that has neither."""
    for key in _KEYS:
        if key in environ:
            return key, environ[key]
    return None


def can_hand_off(sock: Any) -> bool:
    """Return whether the socket can be taken from its server: a plain one, of the standard library's own class."""
    return type(sock) is socket.socket and type(sock).__module__ == "socket" and hasattr(os, "dup2")


def is_tls(sock: Any) -> bool:
    """Return whether TLS ends in this process, so that the socket is more than its descriptor."""
    return isinstance(sock, ssl.SSLSocket)


def dead_end() -> socket.socket:
    """Return the one end of a socket pair whose other end is closed: it gives end-of-file and takes nothing."""
    global _dead
    with _lock:
        if _dead is None:
            _dead, other = socket.socketpair()
            other.close()
        return _dead


def duplicate(sock: socket.socket) -> socket.socket:
    """Return our own descriptor of the server's socket, blocking. Raises OSError when there is none left."""
    mine = sock.dup()
    mine.setblocking(True)
    return mine


def take_over(sock: socket.socket) -> None:
    """Leave the server a dead end in place of its descriptor.

    A duplicate alone is not enough: a server may call ``shutdown`` before it closes. Nor may the socket object be detached:
    a server counts its connections by it.
    """
    os.dup2(dead_end().fileno(), sock.fileno(), inheritable=False)


def with_subprotocol(reply: bytes, subprotocol: str | None) -> bytes:
    """Return a ``101`` response that names a subprotocol, unless it names one already (RFC 6455, section 4.2.2)."""
    if subprotocol is None or b"sec-websocket-protocol:" in reply.lower():
        return reply
    head, end, rest = reply.partition(b"\r\n\r\n")
    return b"%s\r\nSec-WebSocket-Protocol: %s%s%s" % (head, subprotocol.encode("latin-1"), end, rest)


class HandshakeSocket:
    """Stand where simple-websocket expects the client's socket, for the length of the handshake."""

    def __init__(self) -> None:
        #: The ``101`` response, once ``accepted``.
        self.reply = b""
        self.accepted = False

    def send(self, data: bytes) -> int:
        """Keep the reply; what comes after it (simple-websocket's own goodbye) concerns nobody."""
        if not self.accepted:
            self.reply += data
        return len(data)

    def recv(self, size: int) -> bytes:
        """Be at the end: simple-websocket's reading thread stops at once."""
        return b""

    def fileno(self) -> int:
        """Be a descriptor that is readable and at its end, for an app that sets a ``ping_interval`` for its other routes."""
        return dead_end().fileno()

    def close(self) -> None:
        """Close nothing."""


def _forget_dead_end() -> None:
    # The lock may have been held by a thread that the child does not have; the socket itself can be shared.
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_dead_end)
