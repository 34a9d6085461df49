"""One WebSocket client: its pumps, its filters, and what an application may do with it.

**Threads**: ``read_pump`` and ``handle_incoming_message`` on the reader thread, ``write_pump`` on the writer thread;
everything else on any thread.
**Blocks**: the pumps, and ``accept`` for as long as the app's functions do; nothing else.

Go counterpart: ``client.go``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from ..errors import MessageError, printable
from ..hooks import AppHooks
from ..identity import identity_string
from ..message import EncodeHook, Message, MessageType, encode_text, new_error_message
from ..rooms import Subscriptions
from ..websocket.close_codes import CloseCode, is_ordinary
from ..websocket.frames import Frame
from .authorization import Authorization, AuthorizationHub
from .batch import Batch
from .commands import Commands
from .connection import Connection
from .rate_limit import ADMIT, END, NOTIFY
from .sender import GONE, OVERFLOW, WANTS_WRITER
from .subscriptions import ClientFilters, SubscriptionChange

__all__ = ["Client", "ClientHub"]


class ClientHub(AuthorizationHub, Protocol):
    """What a client needs of its hub. Every method may be called on any thread and never waits."""

    logger: logging.Logger
    enc_hook: EncodeHook | None

    @property
    def position(self) -> int:
        """The number of the last event handed to every client or its queue."""

    def position_frame(self, type: str, number: int, incomplete: bool, ref: str | None = None) -> Frame:
        """Return a message that carries a position; ``incomplete`` notifies the client that it lost events."""

    def client_arrived(self, client: Client) -> bool:
        """Count a client as present; False when its descriptor is closed already."""

    def identify(self, client: Client, identity_key: str | None) -> None:
        """Index a client under another identity."""

    def change_client(self, client: Client, change: SubscriptionChange) -> None:
        """Apply a change of subscriptions in the hub thread, before any event published later."""

    def forget_client(self, client: Client) -> None:
        """Send a client no further event."""

    def remove_client(self, client: Client) -> None:
        """Take a client out of the registry at once."""

    def client_gone(self, client: Client) -> None:
        """Forget a client whose descriptor is closed."""

    def count(self, name: str) -> None:
        """Increment a counter of ``hub.stats()``."""

    def start_writer(self, client: Client) -> None:
        """Start a writer thread for a client, on another thread."""

    def abort_after(self, client: Client, seconds: float) -> None:
        """Abort a client's connection unless it has ended by then."""


class Client:
    """One connection of one hub; Go's ``Client`` and ``NewClient``.

    The handler makes a client for each connection. Subclass it for a protocol of your own: override
    ``handle_incoming_message`` and pass the class as ``CartoWS(app, client_class=...)``.

    Args:
        hub: The hub that the client receives events from.
        connection: The connection to serve.
        id: The client's id, unique in the hub.
    """

    def __init__(self, hub: ClientHub, connection: Connection, id: str) -> None:
        self.hub = hub
        self.connection = connection
        #: The client's id: the ``client_id`` of its ``connected`` message, and the argument of ``hub.send_to``.
        self.id = id
        self._identity: Any = None
        #: The identity as a string; under the registry lock.
        self.identity_key: str | None = None
        #: The id of the event after which the client resumes; None for a client that has not been connected before.
        self.since: str | None = None
        #: The app's functions; None where it has none.
        self.hooks: AppHooks | None = None
        #: Called once at the start of the reader thread: it asks the app and registers the client. None where the handler did.
        self.before_reading: Callable[[], None] | None = None
        self._accepted = False
        #: The reader thread is the request's own.
        self.attached = False
        #: The slot that it occupies, which the hub releases when the descriptor is closed.
        self.slot: Any = None
        self._end_logged = False
        #: The descriptor is closed; under the registry lock.
        self.gone = False
        self._filters = ClientFilters(partial(hub.change_client, self))
        #: The client's credentials, and what they allow.
        self.authorization = Authorization(self, hub, self._filters)
        self._commands = Commands(self, self.authorization, self._filters)
        connection.owner = self

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id}>"

    @property
    def identity(self) -> Any:
        """What ``@ws.authenticate`` returned for this client, or None.

        The app may set it. The hub and other clients compare identities as strings, a user object by its ``get_id()``.
        """
        return self._identity

    @identity.setter
    def identity(self, identity: Any) -> None:
        identity_key = None if identity is None else identity_string(identity)
        self._identity = identity
        self.hub.identify(self, identity_key)

    @property
    def subscriptions(self) -> Subscriptions:
        """The events that the client receives, by its filters."""
        return self._filters.subscriptions

    @property
    def filters(self) -> dict[str, tuple[str, ...]]:
        """A copy of the filters that the client holds: each key with its values."""
        return dict(self._filters.held)

    def set_filter(self, key: str, value: Any) -> None:
        """Set the values of one filter key, in place of those held before; Go's ``SetFilter``.

        Takes effect in the hub thread, before any event that is broadcast after this call. A client that is left without a
        filter receives only events for every client, and leaves the rooms where it was present. Runs on any thread.

        Args:
            key: The filter's key, such as ``board_id``.
            value: A value, compared as a string, or an iterable of several; an empty one removes the key.
        """
        self._filters.set(key, value)

    def get_filter(self, key: str) -> str | None:
        """Return the value that the client holds for a key; Go's ``GetFilter``.

        Args:
            key: The filter's key, such as ``board_id``.

        Returns:
            The value, the first one where there are several, or None.
        """
        return next(iter(self._filters.held.get(key, ())), None)

    # Sending ------------------------------------------------------------------------------------------------------

    def send(self, message: str | bytes | Message) -> bool:
        """Send a message to this client alone; Go's ``Send``. Runs on any thread and never waits.

        Args:
            message: Sent as text for ``str``, as binary for ``bytes``, as JSON for a ``Message``.

        Returns:
            False when the connection is closing, or is closed now because the send queue is full.

        Raises:
            MessageError: The message cannot be serialised, or is larger than ``send_queue_bytes``.
        """
        if isinstance(message, Message):
            frame = Frame(message.encode(self.hub.enc_hook), compress_min_size=self.connection.options.compress_min_size)
        elif isinstance(message, str):
            frame = Frame(encode_text(message), compress_min_size=self.connection.options.compress_min_size)
        else:
            frame = Frame(bytes(message), binary=True)
        if len(frame.plain) > self.connection.options.send_queue_bytes:
            raise MessageError(
                f"Cannot send {len(frame.plain)} bytes to one client: no client is sent more than "
                f"CARTOWS_SEND_QUEUE_BYTES={self.connection.options.send_queue_bytes} in one message"
            )
        outcome = self.connection.offer(Batch((frame,)))
        self.handle_send_result(outcome)
        return outcome not in (GONE, OVERFLOW)

    def handle_send_result(self, outcome: int) -> None:
        """Act on the result of an offer: start the writer, or disconnect a client whose send queue is over its bound."""
        if outcome == WANTS_WRITER:
            self.start_writer()
        elif outcome == OVERFLOW:
            self.overflow()

    def send_pong(self, ref: str | None) -> None:
        """See CommandClient.send_pong."""
        build = partial(self.hub.position_frame, MessageType.PONG.value, ref=ref)
        self.handle_send_result(self.connection.offer_position(build, self.hub.position))

    def send_internal_error(self, ref: str | None = None) -> None:
        """Send ``error INTERNAL``, unless the protocol is the app's own; ``ref`` is the failed message's."""
        if self.connection.options.greeting:
            self.send(new_error_message("INTERNAL", "The server failed to handle the message.", ref=ref))

    # Closing ------------------------------------------------------------------------------------------------------

    @property
    def close_code(self) -> int | None:
        """The code that either side closed the connection with; None while it is open."""
        return self.connection.close_code

    @property
    def close_reason(self) -> str:
        """The reason that goes with ``close_code``."""
        return self.connection.close_reason

    def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> bool:
        """Close the connection once everything queued has been sent. Runs on any thread and never waits.

        Args:
            code: The close code (RFC 6455, section 7.4); default 1000. An app has 4000 to 4999.
            reason: For the peer, cut to 123 bytes in UTF-8.

        Returns:
            False when the connection was closing already.

        Raises:
            ValueError: No close frame can carry the code.
        """
        return self.connection.close(code, reason)

    def _log_end(self) -> None:
        """Log once why the client is closed: at info when the server closed it for a fault, else at debug."""
        if not self._end_logged:
            self._end_logged = True
            code, reason = self.connection.close_code, self.connection.close_reason
            level = logging.DEBUG if code is None or is_ordinary(code) else logging.INFO
            self.hub.logger.log(level, "cartows: client %s is closed: %s %s", self.id, code, printable(reason))

    # The connection's owner (connection.Owner) ----------------------------------------------------------------------

    def start_writer(self) -> None:
        """See Owner.start_writer. Started elsewhere, since starting a thread beside a busy handler takes long."""
        self.hub.start_writer(self)

    def incomplete_frame(self, number: int) -> Frame:
        """See Owner.incomplete_frame: a ``pong``."""
        return self.hub.position_frame(MessageType.PONG.value, number, True)

    def closing_begun(self, within: float) -> None:
        """See Owner.closing_begun."""
        self._log_end()
        self.hub.forget_client(self)
        self.hub.abort_after(self, within)

    def overflow(self) -> None:
        """See Owner.overflow. The client may reconnect and resume."""
        options = self.connection.options
        own = f"{options.send_queue_size} messages or {options.send_queue_bytes} bytes"
        reason = f"slow consumer: over {own} waited, or too much for all clients"
        if self.connection.disconnect(CloseCode.SLOW_CONSUMER, reason):
            self.hub.count("slow_consumers")

    # Pumps --------------------------------------------------------------------------------------------------------

    def accept(self) -> bool:
        """Ask the app whether it accepts the client; one that it refuses is closed with a close code. Reader thread."""
        # A shutdown meanwhile must find the client, also one that is refused.
        self.hub.client_arrived(self)
        code = self.hooks.connected(self) if self.hooks is not None else None
        self._accepted = code is None
        if code is not None:
            self.connection.open(None)
            self.close(code, "refused by the app")
        return self._accepted

    def read_pump(self) -> None:
        """Handle what the client sends until the connection ends, then free all that it used; Go's ``ReadPump``.

        Runs on the client's reader thread, once.
        """
        try:
            before_reading, self.before_reading = self.before_reading, None
            if before_reading is not None and not self.connection.ended:
                before_reading()
            for message in self.connection.messages():
                self._handle(message)
        except BaseException as error:
            if not self.connection.close_on_exception(error):
                raise
            self.hub.logger.exception("cartows: reading from client %s failed; its connection is closed", self.id)
        finally:
            self.connection.finish()
            # Not before: a registration that the hub thread reaches after this finds a connection that has ended.
            self.hub.forget_client(self)
            try:
                if self._accepted and self.hooks is not None:
                    # The app's function may ask which clients are left.
                    self.hub.remove_client(self)
                    self.hooks.disconnected(self)
            finally:
                self.hub.client_gone(self)
                self._log_end()

    def write_pump(self) -> None:
        """Write what other threads had to leave, until the connection ends; Go's ``WritePump``.

        Runs on the client's writer thread.
        """
        self.connection.write_pump()

    def _handle(self, message: str | bytes) -> None:
        limit = self.connection.limit
        verdict = ADMIT if limit is None else limit.admit(self.connection.message_size)
        if verdict == ADMIT:
            try:
                self.handle_incoming_message(message)
            except Exception:
                self.handling_failed()
        elif verdict == END:
            self.connection.close_flooded()
        elif verdict == NOTIFY and limit is not None and self.connection.options.greeting:
            details = f"retry after {round(limit.wait() * 1000)} ms"
            self.send(new_error_message("RATE_LIMITED", "Too many messages, or bytes: this one was not handled.", details))

    def handle_incoming_message(self, data: str | bytes) -> None:
        """Handle one whole message; Go's ``handleIncomingMessage``. Override it for a protocol of your own.

        Runs on the client's reader thread. An exception is logged and answered with ``error INTERNAL``; the client stays
        connected.

        Args:
            data: ``str`` for text messages, ``bytes`` for binary ones.
        """
        self._commands.handle(data)

    def handling_failed(self, ref: str | None = None) -> None:
        """See CommandClient.handling_failed."""
        self.hub.logger.exception("cartows: handling a message of client %s failed; it stays connected", self.id)
        self.send_internal_error(ref)
