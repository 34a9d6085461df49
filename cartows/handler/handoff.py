"""Take a socket from the web server, so that a client costs no request thread.

flask-sock makes its ``simple_websocket.Server`` itself, from the socket that it finds in the WSGI environ. On the extension's
route a HandshakeSocket stands there: simple-websocket writes its ``101`` into it and finds nothing to read, so its thread ends
once the handshake is done, and the real socket can be taken. The server keeps a descriptor to shut down and close, but a dead
one. Where a socket cannot be taken, the client is *attached*: the request's thread becomes its reader.

**Threads**: the request's own; ``dead_end`` any; the worker is checked on the hub's timer thread.
**Locks**: ``_lock`` guards the making of the dead end.
**Blocks**: an attached response's iteration, for as long as the client stays.
"""

from __future__ import annotations

import atexit
import logging
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from flask import Response
from werkzeug.datastructures import Headers

from ..auth.base import SUBPROTOCOL
from ..client.client import Client
from ..client.transport import PlainTransport, SharedTransport, Transport
from ..hub.hub import Hub
from ..options import Options
from ..servers.base import Server, StartResponse, Worker
from ..servers.detection import find_worker
from .checks import Refusal, unavailable

__all__ = ["HandOff", "HandshakeSocket", "UpgradeResponse", "dead_end", "is_tls", "shake_hands", "with_headers"]

# How often the worker of attached clients is checked, and how long they may then take to end, in seconds.
_WORKER_CHECK = 0.25
_WORKER_STOP_WAIT = 0.75

_lock = threading.Lock()
_dead: socket.socket | None = None


def is_tls(sock: Any) -> bool:
    """Return whether TLS ends in this process, so that the socket is more than its descriptor."""
    return isinstance(sock, ssl.SSLSocket)


def dead_end() -> socket.socket:
    """Return the process's one end of a socket pair whose other end is closed: it is at end-of-file and takes nothing."""
    global _dead
    with _lock:
        if _dead is None:
            _dead, other = socket.socketpair()
            other.close()
        return _dead


def _close_dead_end() -> None:
    """Close the dead end when the interpreter exits, which may warn of a socket that is left open."""
    global _dead
    with _lock:
        dead, _dead = _dead, None
    if dead is not None:
        dead.close()


# At import, since exit handlers run in reverse order: those of the hubs, at which clients end, come before this one.
atexit.register(_close_dead_end)


def _forget_lock() -> None:
    # In the child of a fork: a thread that it does not have may have held the lock. The socket itself can be shared.
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_lock)


# The handshake ----------------------------------------------------------------------------------------------------


class HandshakeSocket:
    """The socket that simple-websocket uses during the handshake."""

    def __init__(self) -> None:
        #: The ``101`` response, once ``accepted``.
        self.reply = b""
        self.accepted = False

    def send(self, data: bytes) -> int:
        """Keep the reply; simple-websocket's close frame, which comes after it, is dropped."""
        if not self.accepted:
            self.reply += data
        return len(data)

    def recv(self, size: int) -> bytes:
        """Return end-of-file, at which simple-websocket's reading thread ends."""
        return b""

    def fileno(self) -> int:
        """Return a descriptor that is at end-of-file, for an app that sets a ``ping_interval`` for its other routes."""
        return dead_end().fileno()

    def close(self) -> None:
        """Close nothing."""


def shake_hands(request: Any, server: Server, view: Callable[[], Any], subprotocol: str | None) -> bytes | Refusal:
    """Return the ``101`` response to an upgrade request, or why there is none.

    ``view`` is what flask-sock makes of ``handle_websocket``. Of what the client offers, ``subprotocol`` is preferred.
    """
    environ = request.environ
    sock = environ[server.socket_key]
    stand_in = HandshakeSocket()
    environ[server.socket_key] = stand_in
    try:
        # Its response is of no use: UpgradeResponse is the one that the server gets.
        view()
    except Exception as error:
        if stand_in.reply and not stand_in.accepted and isinstance(error, RuntimeError):
            return unavailable("NO_THREAD", f"The server has no thread left for another client: {error}.")
        if stand_in.reply:
            raise
        return Refusal(400, "BAD_HANDSHAKE", f"The WebSocket handshake failed: {error}")
    finally:
        environ[server.socket_key] = sock
    # RFC 6455, section 4.2.2: only one that the client offers. A browser that offers some and is answered with none of them
    # fails the connection.
    offered = [each.strip() for each in request.headers.get("Sec-WebSocket-Protocol", "").split(",")]
    return _with_subprotocol(stand_in.reply, next((each for each in (subprotocol, SUBPROTOCOL) if each in offered), None))


def _with_subprotocol(reply: bytes, subprotocol: str | None) -> bytes:
    """Return a ``101`` response that names a subprotocol, unless it names one already."""
    if subprotocol is None or b"sec-websocket-protocol:" in reply.lower():
        return reply
    head, end, rest = reply.partition(b"\r\n\r\n")
    return b"%s\r\nSec-WebSocket-Protocol: %s%s%s" % (head, subprotocol.encode("latin-1"), end, rest)


# What describes the response itself, or its body, is not the app's to say in a handshake; those of the handshake are there.
_NOT_PASSED_ON = frozenset({"connection", "upgrade", "transfer-encoding", "keep-alive", "te", "trailer", "date", "server"})


def with_headers(reply: bytes, headers: Headers) -> bytes:
    """Return a ``101`` response with the headers that an app has set for it, such as ``Set-Cookie``."""
    added = b"".join(
        f"{name}: {value}\r\n".encode("latin-1", "replace")
        for name, value in headers.to_wsgi_list()
        if name.lower() not in _NOT_PASSED_ON and not name.lower().startswith(("content-", "sec-websocket-"))
    )
    head, end, rest = reply.partition(b"\r\n\r\n")
    return head + b"\r\n" + added + b"\r\n" + rest if end else reply


# The response -----------------------------------------------------------------------------------------------------


class UpgradeResponse(Response):
    """A ``101`` that connects the client when the server asks for it, once the app is done with the request.

    To everything between the app and the server it is a response like any other. The server's own sending of it comes to
    nothing: the client has been sent it by then, with the headers that the app has set.

    ``connect`` is called with these headers, and returns the client and whether its socket was taken; ``attach`` is called with
    a client whose socket was not, and ``end`` when that has gone.
    """

    def __init__(
        self,
        connect: Callable[[Headers], tuple[Client, bool] | Refusal],
        refuse: Callable[[Refusal], Response],
        attach: Callable[[Client], None],
        end: Callable[[], None],
    ) -> None:
        super().__init__(status=101)
        self._connect, self._refuse, self._attach, self._end = connect, refuse, attach, end

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Run as the WSGI application, still within the request's context."""
        headers = self.get_wsgi_headers(environ)
        connected = self._connect(headers)
        if isinstance(connected, Refusal):
            return self._refuse(connected)(environ, start_response)
        # What the app wants to be called at the response's close runs now, not when the client goes.
        self.close()
        client, taken = connected
        if taken:
            start_response(self.status, headers.to_wsgi_list())
            return ()
        body = _AttachedBody(client, self._end)
        try:
            self._attach(client)
            start_response(self.status, headers.to_wsgi_list())
        except BaseException:
            body.close()
            raise
        return body


class _AttachedBody:
    """The body of an attached client's response: its iteration, which begins after Flask's app context ended, is the reader."""

    def __init__(self, client: Client, end: Callable[[], None]) -> None:
        self._client = client
        self._end = end
        self._begun = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if not self._begun:
            self._begun = True
            try:
                self._client.read_pump()
            finally:
                self._end()
        raise StopIteration

    def close(self) -> None:
        """End the client where the server has not iterated the body."""
        if not self._begun:
            self._client.connection.abort()
            next(self, None)


# The socket -------------------------------------------------------------------------------------------------------


class HandOff:
    """The choice between taking a socket and attaching its client, for one handler, and what each of the two needs."""

    def __init__(self, hub: Hub, logger: logging.Logger) -> None:
        self._hub = hub
        self._logger = logger
        #: The process whose worker is checked: the child of a fork has another one.
        self._checking_in: int | None = None
        self._logged: set[str] = set()

    def takes(self, sock: Any, server: Server, wanted: bool | None) -> bool:
        """Return whether a socket is to be taken, by the option ``handoff``, and log each mode once."""
        possible = server.can_take(sock)
        taken = possible and wanted is not False
        if taken:
            mode = "clients are handed off: none of them holds a request thread"
        else:
            why = "CARTOWS_HANDOFF is off" if possible else f"a {type(sock).__qualname__} cannot be handed off"
            mode = f"clients are attached, each of them holds a request thread: {why}"
        if mode not in self._logged:
            self._logged.add(mode)
            self._logger.log(logging.WARNING if wanted and not possible else logging.INFO, "cartows: %s", mode)
        return taken

    def open_transport(self, sock: Any, taken: bool, options: Options, early: bytes = b"") -> tuple[Transport, threading.Lock]:
        """Return the transport for a socket, of which ``early`` has been read already, and its connection's send lock.

        Raises OSError when no descriptor is left.
        """
        lock = threading.Lock()
        transport: Transport
        if is_tls(sock):
            transport = SharedTransport(sock, lock, borrowed=True)
        else:
            own = sock.dup() if taken else sock
            # A timeout of the server's, or Python's default one, would end a client that is merely quiet.
            own.setblocking(True)
            transport = PlainTransport(own, self._hub.read_scheduler, borrowed=not taken)
        transport.early = early
        transport.tune(options.write_buffer)
        return transport, lock

    def attach(self, client: Client) -> None:
        """Close a client that holds a request thread for a restart when its worker stops: the worker waits for that thread."""
        client.attached = True
        worker = find_worker()
        if worker is not None and self._checking_in != os.getpid():
            self._checking_in = os.getpid()
            self._hub.call_every(_WORKER_CHECK, partial(self._check_worker, worker))

    def _check_worker(self, worker: Worker) -> bool:
        if not worker.alive:
            for client in self._hub.present_clients():
                if client.attached:
                    client.connection.close_for_restart(_WORKER_STOP_WAIT)
                    self._hub.abort_after(client, _WORKER_STOP_WAIT)
        return True
