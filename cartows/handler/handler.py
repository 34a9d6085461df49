"""The way in: from an HTTP request to a registered client.

Threads: the request's own; in attached mode it becomes the client's reader thread.
Locks: none of its own.
Blocks: ``handle_websocket`` in a route of the app's own, and an attached response's iteration, for as long as the client stays.

Go counterpart: ``handler.go``.
"""

from __future__ import annotations

import logging
import os
import threading
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any

from flask import Response, current_app, request

from ..auth.base import SUBPROTOCOL
from ..client.client import Client
from ..client.connection import Connection
from ..client.simple_websocket import RouteConnection, abort_socket
from ..client.transport import PlainTransport, SharedTransport, Transport
from ..errors import CartowsError, HubClosed, printable
from ..handler import handoff
from ..hooks import AppHooks
from ..hub.hub import Hub
from ..options import Options, OriginCheck
from ..servers.base import gunicorn_worker
from ..websocket.close_codes import CloseCode
from .admission import Admission, AdmissionPolicy
from .checks import Refusal, unavailable
from .upgrade import UpgradeResponse

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
    # Browsers and proxies may keep such an answer.
    (("Cache-Control", "no-store"),),
)

# How often an attached client's worker is asked whether it goes on, and how long the client then has to go.
_WORKER_CHECK = 0.25
_WORKER_PATIENCE = 0.75


def _asks(client: Client) -> bool:
    return client.hooks is not None and bool(client.hooks.hooks.connect)


class Handler:
    """Turn requests into clients of a hub; Go's ``NewHandler``.

    ``options`` defaults to the hub's, ``logger`` to the hub's, ``client_class`` to Client; ``hooks`` to the functions that the
    app has given to an extension with the same hub.
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
        #: The process whose worker is checked: the child of a fork has another one.
        self._checking_in: int | None = None
        self._modes_said: set[str] = set()

    @property
    def options(self) -> Options:
        """The settings in force."""
        return self._admission.options

    def set_check_origin(self, check: OriginCheck) -> None:
        """Let ``check(request)`` say which origins may connect, for this handler alone; Go's ``SetCheckOrigin``."""
        self._admission.change_options(allowed_origins=check)

    def set_buffer_sizes(self, read: int, write: int | None) -> None:
        """Set ``read_buffer`` and ``write_buffer`` in bytes, for this handler alone; Go's ``SetBufferSizes``."""
        self._admission.change_options(read_buffer=read, write_buffer=write)

    @property
    def max_clients(self) -> int:
        """How many clients this process serves."""
        return self._admission.max_clients

    # Before the upgrade -------------------------------------------------------------------------------------------

    def refuse(self, refusal: Refusal) -> Response:
        """Return a refusal as HTTP, and log it in one line."""
        said = printable(f"{refusal.message} {refusal.aside}".rstrip())
        self.logger.info("cartows: refused %s with %d: %s", request.remote_addr, refusal.status, said)
        body = {"code": refusal.code, "message": refusal.message}
        response = current_app.response_class(current_app.json.dumps(body), refusal.status, mimetype="application/json")
        response.headers.extend(refusal.headers)
        return response

    def upgrade(self, flask_sock_view: Callable[[], Response]) -> Response:
        """Answer a request on the extension's route: a refusal, or a response that connects the client when it is sent.

        ``flask_sock_view`` is what flask-sock makes of ``handle_websocket``: it shakes hands, and its response knows how each
        server wants to be left.
        """
        admitted = self._admission.check() or self._admission.admit()
        if isinstance(admitted, Refusal):
            return self.refuse(admitted)
        environ = request.environ
        found = handoff.find_socket(environ)
        if found is None:
            return self.refuse(_NO_SOCKET)
        asks_only = self._admission.check_question(admitted.slot)
        if asks_only is not None:
            return self.refuse(asks_only)
        key, sock = found
        stand_in = handoff.HandshakeSocket()
        environ[key] = stand_in
        try:
            response = flask_sock_view()
        except Exception as error:
            if stand_in.reply and not stand_in.accepted and isinstance(error, RuntimeError):
                return self.refuse(unavailable("NO_THREAD", f"The server has no thread left for another client: {error}."))
            if stand_in.reply:
                raise
            return self.refuse(Refusal(400, "BAD_HANDSHAKE", f"The WebSocket handshake failed: {error}"))
        finally:
            environ[key] = sock
        # RFC 6455, section 4.2.2: none but one that the client offers.
        offered = [each.strip() for each in request.headers.get("Sec-WebSocket-Protocol", "").split(",")]
        # A browser that is answered with none of those which it offered ends the connection.
        spoken = next((each for each in (admitted.credentials.subprotocol, SUBPROTOCOL) if each in offered), None)
        reply = handoff.with_subprotocol(stand_in.reply, spoken)
        return UpgradeResponse(partial(self.connect, sock, reply, admitted), self.refuse, self.attach, response)

    # Connecting ---------------------------------------------------------------------------------------------------

    def connect(self, sock: Any, reply: bytes, admission: Admission) -> tuple[Client, bool] | Refusal:
        """Make a client of the server's socket and register it; returns whether its reader runs in a thread of its own."""
        options = self.options
        try:
            self.hub.start()
            handoff.dead_end()
        except HubClosed:
            return unavailable("SHUTTING_DOWN", "The server is restarting; connect again.")
        except (CartowsError, OSError) as error:
            return unavailable("NO_RESOURCES", f"The server cannot take another client now: {error}.")
        full = self._admission.take_slot(admission.slot)
        if full is not None:
            return full
        hands_off = self._hands_off(sock)
        try:
            transport, lock = self._transport(sock, hands_off)
        except OSError as error:
            self.hub.release_slot(admission.slot)
            return unavailable("NO_DESCRIPTOR", f"The server has no descriptor left for another client: {error.strerror}.")
        connection = Connection(transport, lock, options, reply)
        try:
            client = self._client(connection, admission)
        except Exception:
            self.logger.exception("cartows: the app's client class failed; the client is refused")
            return Refusal(500, "CLIENT_CLASS", "The server failed to make a client of this connection.")
        changed = self._admission.recheck(client, admission)
        if changed is not None:
            connection.release()
            self.hub.release_slot(admission.slot, client)
            return changed
        if hands_off:
            try:
                threading.Thread(target=client.read_pump, name=f"cartows-reader-{client.id}", daemon=True).start()
            except RuntimeError as error:
                connection.release()
                self.hub.release_slot(admission.slot, client)
                return unavailable("NO_THREAD", f"The server has no thread left for another client: {error}.")
            handoff.take_over(sock)
        self._enter_unless_asked(client)
        return client, hands_off

    def _enter_unless_asked(self, client: Client) -> None:
        """Register a client, unless the app wants to be asked first, at the beginning of the reader thread."""
        if not _asks(client):
            self._enter(client)

    def _enter(self, client: Client) -> None:
        if not client.accept():
            return
        try:
            self.hub.register_client(client)
        except CartowsError:
            client.connection.abort(CloseCode.RESTART, "service restart")
            return
        every = None if client.hooks is None else client.hooks.recheck_interval
        if every is not None:
            try:
                self.hub.recheck_every(client, every)
            except RuntimeError as error:
                self.logger.error("cartows: client %s cannot be looked up again and goes: %s", client.id, error)
                client.connection.close_on_error()

    def _hands_off(self, sock: Any) -> bool:
        """Choose between a thread of the client's own and the request's, and say so once."""
        wanted, possible = self.options.handoff, handoff.can_hand_off(sock)
        hands_off = possible and wanted is not False
        if hands_off:
            said = "clients are handed off: none of them holds a request thread"
        else:
            why = "CARTOWS_HANDOFF is off" if possible else f"a {type(sock).__qualname__} cannot be handed off"
            said = f"clients are attached, each of them holds a request thread: {why}"
        if said not in self._modes_said:
            self._modes_said.add(said)
            self.logger.log(logging.WARNING if wanted and not possible else logging.INFO, "cartows: %s", said)
        return hands_off

    def _transport(self, sock: Any, hands_off: bool) -> tuple[Transport, threading.Lock]:
        lock = threading.Lock()
        transport: Transport
        if handoff.is_tls(sock):
            transport = SharedTransport(sock, lock, borrowed=True)
        elif hands_off:
            transport = PlainTransport(handoff.duplicate(sock), self.hub.read_scheduler)
        else:
            # A time limit of the server's, or Python's default one, would end a client that is merely quiet.
            sock.setblocking(True)
            transport = PlainTransport(sock, self.hub.read_scheduler, borrowed=True)
        transport.tune(self.options.write_buffer)
        return transport, lock

    def _client(self, connection: Connection, admission: Admission) -> Client:
        """Make the client that takes the place which was taken; an app's own class may fail, and leaves nothing behind."""
        try:
            client = self.client_class(self.hub, connection, uuid.uuid4().hex)
            for key, values in admission.filters.items():
                client.set_filter(key, values)
            if admission.credentials.identity is not None:
                client.identity = admission.credentials.identity
            client.authorization.credentials = admission.credentials
            client.since, client.hooks = admission.since, admission.hooks
            client.before_reading = partial(self._enter, client) if _asks(client) else None
        except BaseException:
            connection.release()
            made = connection.owner
            self.hub.release_slot(admission.slot, made if isinstance(made, Client) else None)
            raise
        client.slot = admission.slot
        return client

    def attach(self, client: Client) -> None:
        """Have a client that holds a request thread let go when its worker stops, or the worker waits for it in vain."""
        client.attached = True
        worker = gunicorn_worker()
        if worker is not None and self._checking_in != os.getpid():
            self._checking_in = os.getpid()
            self.hub.call_every(_WORKER_CHECK, partial(self._check_worker, worker))

    def _check_worker(self, worker: Any) -> bool:
        if not worker.alive:
            for client in self.hub.present_clients():
                if client.attached:
                    client.connection.close_for_restart(_WORKER_PATIENCE)
                    self.hub.abort_after(client, _WORKER_PATIENCE)
        return True

    # A route of the app's own -------------------------------------------------------------------------------------

    def handle_websocket(self, ws: Any) -> None:
        """Serve a connection until it ends: the body of a flask-sock route; Go's ``HandleWebSocket``.

        In a route of the app's own the handshake is over when this runs, so whoever may not come in is shown out with a final
        close code, and the request's thread stays for as long as the client does.
        """
        if isinstance(ws.sock, handoff.HandshakeSocket):
            ws.sock.accepted = True
            return
        path = printable(request.path)
        try:
            admitted = self._admission.check_route() or self._admission.admit()
        except Exception:
            # Flask would write its error page into the WebSocket connection.
            self.logger.exception("cartows: the app failed to say who may connect to %s; the client is refused", path)
            ws.close(CloseCode.SERVER_ERROR, "server error")
            return
        if isinstance(admitted, Refusal):
            ws.close(*self._refuse_route(admitted))
            return
        if handoff.is_tls(ws.sock):
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
            connection = RouteConnection(ws, self.options)
        except OSError:
            # The peer has gone, and simple-websocket has closed the socket.
            self.hub.release_slot(admitted.slot)
            abort_socket(ws)
            return
        try:
            client = self._client(connection, admitted)
        except Exception:
            self.logger.exception("cartows: the app's client class failed; the connection is cut off")
            abort_socket(ws)
            return
        changed = self._admission.recheck(client, admitted)
        if changed is None:
            self._enter_unless_asked(client)
        else:
            client.before_reading = None
            connection.open(None)
            client.close(*self._refuse_route(changed))
        self.attach(client)
        client.read_pump()

    def _refuse_route(self, refusal: Refusal) -> tuple[int, str]:
        """Log a refusal, and return the close code and reason that stand for it."""
        said = printable(f"{refusal.message} {refusal.aside}".rstrip())
        self.logger.info("cartows: refused %s: %s", request.remote_addr, said)
        return _CLOSE_CODES.get(refusal.status, CloseCode.FORBIDDEN), refusal.message[:120]
