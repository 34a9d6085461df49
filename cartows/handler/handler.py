"""The handler: the two ways in which a request becomes a client of a hub.

**Threads**: the request's own; when the client is attached, it becomes the client's reader thread.
**Blocks**: ``handle_websocket`` in a route of the app's own, for as long as the client stays.

Go counterpart: ``handler.go``.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from flask import Response, current_app, request
from werkzeug.datastructures import Headers

from ..client.client import Client
from ..client.connection import Connection
from ..client.simple_websocket import RouteConnection, abort_socket
from ..errors import CartowsError, HubClosed, printable
from ..hooks import AppHooks
from ..hub.hub import Hub
from ..limits import bound_arenas
from ..options import Options, OriginCheck
from ..servers.base import Server
from ..servers.detection import find_socket
from ..websocket.close_codes import CloseCode
from .admission import Admission, AdmissionPolicy
from .checks import ORIGIN_REFUSED, Refusal, unavailable
from .handoff import HandOff, HandshakeSocket, UpgradeResponse, dead_end, is_tls, shake_hands, with_headers
from .registration import Registration

__all__ = ["Handler"]

# Close codes for a route of the app's own, where the handshake is over before anything can be refused.
_CLOSE_CODES = {
    401: CloseCode.UNAUTHORIZED,
    429: CloseCode.CONNECTION_LIMIT,
    500: CloseCode.SERVER_ERROR,
    503: CloseCode.CONNECTION_LIMIT,
}

_NO_SOCKET = Refusal(
    501,
    "NO_SOCKET",
    "This web server gives an app no access to its sockets, so WebSocket cannot work here. Use gunicorn -k gthread, plain "
    "gunicorn, or flask run.",
    # Browsers and proxies may cache a 501.
    (("Cache-Control", "no-store"),),
)


# How many refused origins are logged at WARNING; a sender of more of them makes them up.
_MAX_WARNED_ORIGINS = 20


class Handler:
    """Turn requests into clients of a hub; Go's ``NewHandler``.

    ``CartoWS`` makes one for its own route. Make one for a flask-sock route of the app's own.

    Args:
        hub: The hub that the clients are registered with.
        logger: Where refusals and failures are logged; the hub's logger by default.
        options: The settings of this handler's clients; the hub's by default.
        client_class: The class of the clients, for a protocol of the app's own.
        hooks: The app's functions. By default those that were given to the extension with the same hub, if there is one.
    """

    def __init__(
        self,
        hub: Hub,
        logger: logging.Logger | None = None,
        *,
        options: Options | None = None,
        client_class: type[Client] = Client,
        hooks: AppHooks | None = None,
    ) -> None:
        self.hub = hub
        self.logger = logger or hub.logger
        self.client_class = client_class
        self._admission = AdmissionPolicy(hub, self.logger, options, hooks)
        self._handoff = HandOff(hub, self.logger)
        self._registration = Registration(hub, self.logger)
        self._warned_origins: set[str] = set()

    @property
    def options(self) -> Options:
        """The settings in force."""
        return self._admission.options

    @property
    def max_clients(self) -> int:
        """The number of clients that this process serves at most."""
        return self._admission.max_clients

    def log_limits(self, path: str) -> None:
        """Log how many clients this process serves at most, and why; called when a route is added, before the server serves."""
        if bound_arenas():
            self.logger.info(
                "cartows: the address space is limited (RLIMIT_AS), so that malloc makes no more than two arenas; "
                "MALLOC_ARENA_MAX in the environment sets another number"
            )
        if self.options.max_clients is not None:
            self.logger.info("cartows: %s serves up to %d clients per process (CARTOWS_MAX_CLIENTS)", path, self.max_clients)
            return
        limits = self._admission.find_limits()
        self.logger.info("cartows: %s serves up to %d clients per process: %s", path, limits.clients, limits)

    def set_check_origin(self, check: OriginCheck) -> None:
        """Decide with a function which origins may connect, for this handler alone; Go's ``SetCheckOrigin``.

        Replaces the option ``allowed_origins``.

        Args:
            check: Called as ``check(request)`` for each request with an ``Origin`` header, on its thread and in its context;
                a true result allows the connection.
        """
        self._admission.change_options(allowed_origins=check)

    def set_buffer_sizes(self, read: int, write: int | None) -> None:
        """Set the options ``read_buffer`` and ``write_buffer``, for this handler alone; Go's ``SetBufferSizes``.

        Args:
            read: The number of bytes asked of the kernel at each read.
            write: ``SO_SNDBUF`` of each client's socket in bytes; None leaves it to the kernel.

        Raises:
            OptionsError: A size is invalid.
        """
        self._admission.change_options(read_buffer=read, write_buffer=write)

    def handle_websocket(self, ws: Any) -> None:
        """Serve a connection until it ends, as the body of a flask-sock route; Go's ``HandleWebSocket``.

        In a route of the app's own the handshake is over when this runs. A client that may not connect is therefore closed
        with a final close code instead of an HTTP answer. Runs on the request's thread, which becomes the client's reader
        thread and stays for as long as the client does.

        Args:
            ws: The ``simple_websocket.Server`` that flask-sock passes to the route.
        """
        if isinstance(ws.sock, HandshakeSocket):
            ws.sock.accepted = True
            return
        path = printable(request.path)
        try:
            admitted = self._admission.check_route() or self._admission.admit()
        except Exception as error:
            # Flask would write its error page into the WebSocket connection.
            admitted = self._admission.answer_to(error)
        if isinstance(admitted, Refusal):
            ws.close(*self._refuse_route(admitted))
            return
        if is_tls(ws.sock):
            self.logger.error(
                "cartows: %s is a flask-sock route of the app's own, which cannot be served over TLS that ends in the worker: "
                "simple-websocket reads there already, and two threads must not use one TLS object. Use CartoWS, or end TLS "
                "in a proxy",
                path,
            )
            abort_socket(ws)
            return
        if self.hub.closed:
            ws.close(CloseCode.RESTART, "service restart")
            return
        full = self._admission.take_slot(admitted.slot)
        if full is not None:
            ws.close(*self._refuse_route(full))
            return
        try:
            connection = RouteConnection(ws, self.options, self.hub.queue_budget)
        except OSError:
            # The peer has gone, and simple-websocket has closed the socket.
            self.hub.release_slot(admitted.slot)
            abort_socket(ws)
            return
        try:
            client = self._registration.make(self.client_class, connection, admitted)
        except Exception:
            self.logger.exception("cartows: the app's client class failed; the connection is aborted")
            abort_socket(ws)
            return
        changed = self._admission.recheck(client, admitted)
        if changed is None:
            self._registration.enter(client)
        else:
            client.before_reading = None
            connection.open(None)
            client.close(*self._refuse_route(changed))
        self._handoff.attach(client)
        client.read_pump()

    def _refuse_route(self, refusal: Refusal) -> tuple[int, str]:
        """Log a refusal, and return the close code and reason that stand for it."""
        self._log_refusal(refusal, "")
        code = _CLOSE_CODES.get(refusal.status, CloseCode.FORBIDDEN)
        if refusal.response is not None and code == CloseCode.FORBIDDEN and refusal.status != 403:
            # What the app answers who is not logged in may as well be a redirect, or 422.
            code = CloseCode.SERVER_ERROR if refusal.status >= 500 else CloseCode.UNAUTHORIZED
        return code, refusal.message[:120]

    # The extension's route ----------------------------------------------------------------------------------------

    def upgrade(self, flask_sock_view: Callable[[], Any]) -> Response:
        """Answer a request on the extension's route: refuse it, or connect the client when the response is sent.

        Args:
            flask_sock_view: What flask-sock makes of ``handle_websocket``, which does the handshake.

        Returns:
            The response, for Flask's own processing.
        """
        admitted = self._admission.check() or self._admission.admit()
        if isinstance(admitted, Refusal):
            return self._refuse(admitted)
        found = find_socket(request.environ)
        if found is None:
            return self._refuse(_NO_SOCKET)
        explained = self._admission.explain(admitted.slot)
        if explained is not None:
            return self._refuse(explained)
        server, sock = found
        reply = shake_hands(request, server, flask_sock_view, admitted.credentials.subprotocol)
        if isinstance(reply, Refusal):
            return self._refuse(reply)
        early = server.early_bytes(request.environ, sock)
        connect = partial(self._connect, server, sock, reply, early, admitted)
        return UpgradeResponse(connect, self._refuse, self._handoff.attach, partial(server.end, sock))

    def _refuse(self, refusal: Refusal) -> Response:
        """Return a refusal as HTTP, and log it in one line."""
        self._log_refusal(refusal, f" with {refusal.status}")
        if refusal.response is not None:
            app_response: Response = refusal.response
            return app_response
        body = {"code": refusal.code, "message": refusal.message}
        response = current_app.response_class(current_app.json.dumps(body), refusal.status, mimetype="application/json")
        response.headers.extend(refusal.headers)
        return response

    def _log_refusal(self, refusal: Refusal, how: str) -> None:
        """Log a refusal in one line: at WARNING, with its remedy, where it is the first for an origin."""
        level, text = logging.INFO, refusal.log_text
        if refusal.code == ORIGIN_REFUSED:
            origin = request.headers.get("Origin", "")[:200]
            if origin not in self._warned_origins and len(self._warned_origins) < _MAX_WARNED_ORIGINS:
                self._warned_origins.add(origin)
                level, text = logging.WARNING, printable(f"{text} {refusal.remedy}".rstrip())
        self.logger.log(level, "cartows: refused %s%s: %s", request.remote_addr, how, text)

    def _connect(
        self, server: Server, sock: Any, reply: bytes, early: bytes, admission: Admission, headers: Headers
    ) -> tuple[Client, bool] | Refusal:
        """Make a client of the server's socket and register it; returns whether the socket was taken from the server."""
        options = self.options
        try:
            self.hub.start()
            dead_end()
        except HubClosed:
            return unavailable("SHUTTING_DOWN", "The server is restarting; connect again.")
        except (CartowsError, OSError) as error:
            return unavailable("NO_RESOURCES", f"The server cannot take another client now: {error}.")
        full = self._admission.take_slot(admission.slot)
        if full is not None:
            return full
        taken = self._handoff.takes(sock, server, options.handoff)
        try:
            transport, lock = self._handoff.open_transport(sock, taken, options, early)
        except OSError as error:
            self.hub.release_slot(admission.slot)
            return unavailable("NO_DESCRIPTOR", f"The server has no descriptor left for another client: {error.strerror}.")
        connection = Connection(transport, lock, options, with_headers(reply, headers), self.hub.queue_budget)
        try:
            client = self._registration.make(self.client_class, connection, admission)
        except Exception:
            self.logger.exception("cartows: the app's client class failed; the client is refused")
            return Refusal(500, "CLIENT_CLASS", "The server failed to make a client of this connection.")
        changed = self._admission.recheck(client, admission)
        if changed is not None:
            self._registration.undo(admission, connection, client)
            return changed
        if taken:
            try:
                threading.Thread(target=client.read_pump, name=f"cartows-reader-{client.id}", daemon=True).start()
            except RuntimeError as error:
                self._registration.undo(admission, connection, client)
                return unavailable("NO_THREAD", f"The server has no thread left for another client: {error}.")
            server.take(sock, dead_end())
        self._registration.enter(client)
        return client, taken
