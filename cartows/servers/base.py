"""What the library needs of a web server, and what the servers have in common.

**Threads**: any; what runs the app is found from the thread of a request and from the one that makes the app.

gunicorn and Werkzeug give an application no reference to themselves. They are found on the caller's own stack, as the ``self``
of the frames that load the app or run the request. Other threads' stacks are not read: their frames come and go meanwhile, and
a walk along them may never end.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import FrameType
from typing import Any, Protocol

__all__ = ["Server", "SocketServer", "StartResponse", "Worker", "find_on_stack"]

StartResponse = Callable[..., Any]


class Worker(Protocol):
    """A worker process of a web server."""

    @property
    def alive(self) -> bool:
        """Whether the worker goes on serving; False once it was asked to stop."""


class Server(Protocol):
    """One kind of web server."""

    #: The key of the WSGI environ below which simple-websocket looks for the socket of a request.
    socket_key: str

    def serves(self) -> bool:
        """Return whether this process runs the server and answers requests, as far as the caller's stack and the system show.

        The environment proves nothing: every child process inherits it.
        """

    def starts_worker(self, forker: FrameType) -> bool:
        """Return whether the code that has forked this process is the server, which starts a worker."""

    def cannot_serve(self, environ: Mapping[str, Any]) -> str | None:
        """Return why no client can stay in the process that received a request, or None where one can."""

    def find_socket(self, environ: Mapping[str, Any]) -> Any | None:
        """Return the socket of a request, or None where another server received it."""

    def can_take(self, sock: Any) -> bool:
        """Return whether ``take`` works for this socket."""

    def take(self, sock: Any, dead_end: socket.socket) -> None:
        """Leave the server a dead end in place of its descriptor; the caller has a duplicate of it."""

    def early_bytes(self, environ: Mapping[str, Any], sock: Any) -> bytes:
        """Return, once, what the server has read of a request's socket beyond the request: frames sent with the handshake."""

    def end(self, sock: Any) -> None:
        """Leave the server a socket that takes nothing more: its client was attached, and has gone.

        The server sends the upgrade response when its body is over, and takes the error for a peer that has gone.
        """

    def workers(self) -> int | None:
        """Return how many worker processes are configured, or None where the server neither loads nor runs the app."""

    def threads(self) -> int | None:
        """Return how many threads for requests one worker process starts, or None where that is unknown or unlimited."""

    def find_worker(self) -> Worker | None:
        """Return the worker that runs the caller's request, or None where no worker waits for its requests when it stops."""


class SocketServer:
    """The base of the servers that put the socket of a request into the WSGI environ."""

    socket_key: str

    def starts_worker(self, forker: FrameType) -> bool:
        """Return False: see Server.starts_worker."""
        return False

    def cannot_serve(self, environ: Mapping[str, Any]) -> str | None:
        """Return None: see Server.cannot_serve."""
        return None

    def find_socket(self, environ: Mapping[str, Any]) -> Any | None:
        """See Server.find_socket."""
        return environ.get(self.socket_key)

    def can_take(self, sock: Any) -> bool:
        """Return whether it is a plain socket of the standard library's own class, which is no more than its descriptor."""
        return type(sock) is socket.socket and type(sock).__module__ == "socket" and hasattr(os, "dup2")

    def take(self, sock: Any, dead_end: socket.socket) -> None:
        """Replace the server's descriptor by a copy of the dead end.

        A duplicate alone is not enough, since a server may call ``shutdown`` before it closes. The socket object cannot be
        detached either: a server counts its connections by it.
        """
        os.dup2(dead_end.fileno(), sock.fileno(), inheritable=False)

    def end(self, sock: Any) -> None:
        """Shut the socket down, and its TLS: see Server.end."""
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


def find_on_stack(module: str, name: str) -> list[Any]:
    """Return what is called ``self`` on the caller's stack and is an instance of that class, the innermost first."""
    kind = getattr(sys.modules.get(module), name, None)
    found: list[Any] = []
    frame: FrameType | None = sys._getframe() if isinstance(kind, type) else None
    while frame is not None and isinstance(kind, type):
        if "self" in frame.f_code.co_varnames and isinstance(frame.f_locals.get("self"), kind):
            found.append(frame.f_locals["self"])
        frame = frame.f_back
    return found
