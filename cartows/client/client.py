"""One WebSocket client: its pumps, its filters and what may be asked of it.

Threads: ``read_pump`` and ``handle_incoming_message`` on the reader thread, ``write_pump`` on the writer thread; everything
    else on any thread.
Locks: ``_filters_lock``, shared by all clients, guards the change of a client's filters, and that the hub hears of changes in
    their order; the channel's is taken within it.
Blocks: the pumps; nothing else.

Go counterpart: ``client.go``.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from ..auth.base import Credentials
from ..errors import MessageError, printable
from ..hooks import AppHooks
from ..message import EncodeHook, Message, MessageType, encode_text, new_error_message, new_message
from ..rooms import Filters, Room, Subscriptions, room_value, with_rooms, without_rooms
from ..websocket.close_codes import CloseCode, is_final, is_ordinary
from ..websocket.frames import Frame
from .commands import answer
from .connection import Connection
from .rate_limit import ADMIT, END, TELL
from .sender import GONE, OVERFLOW, WANTS_WRITER, Batch
from .subscriptions import Change, Subscription, TooManyRooms

__all__ = ["Client", "ClientHub"]

NOBODY = Credentials(None)

# When who has said too much may come back, and how long it has to read that.
_FLOODING_RETRY_MS = 5000
_FLOODING_WAIT = 1.0

# How long the peer has to read that the server failed.
_BREAK_OFF_WAIT = 1.0

# How long those who are dismissed are asked to stay away.
_RETRY_AFTER_MS = (500, 3000)

_filters_lock = threading.Lock()


class ClientHub(Protocol):
    """What a client needs of its hub. Every method may be called on any thread and never waits."""

    logger: logging.Logger
    enc_hook: EncodeHook | None

    @property
    def position(self) -> int:
        """The number of the last event handed to every client or its queue."""

    def position_frame(self, type: str, number: int, incomplete: bool, ref: str | None = None) -> Frame:
        """Return a message that carries a position; ``incomplete`` tells the client that it lost something."""

    def client_arrived(self, client: Client) -> bool:
        """Count a client as present; False when its descriptor is closed already."""

    def identify(self, client: Client, identity_key: str | None) -> None:
        """Index a client under another identity."""

    def change_client(self, client: Client, change: Change) -> None:
        """Apply a change of subscriptions in the hub thread, before any event published later."""

    def forget_client(self, client: Client) -> None:
        """Send a client no further event."""

    def remove_client(self, client: Client) -> None:
        """Take a client out of the registry at once."""

    def client_gone(self, client: Client) -> None:
        """Forget a client whose descriptor is closed."""

    def count(self, name: str) -> None:
        """Increment a counter of ``hub.stats()``."""

    def revocation_mark(self) -> int:
        """Return the number of the last revocation, to be compared later by ``revoked_since``."""

    def revoked_since(self, mark: int, identity_key: str | None) -> bool:
        """Return whether an identity was disconnected or is to be authorized again since that mark."""

    def start_writer(self, client: Client) -> None:
        """Start a writer thread for a client, on another thread."""

    def abort_after(self, client: Client, seconds: float) -> None:
        """Abort a client's connection unless it has ended by then."""

    def recheck_expiry(self, client: Client) -> None:
        """Schedule the expiry of a client's credentials anew."""


class Client:
    """Serve one connection of one hub; override ``handle_incoming_message`` for a protocol of your own."""

    def __init__(self, hub: ClientHub, connection: Connection, id: str) -> None:
        self.hub = hub
        self.connection = connection
        self.id = id
        self._identity: Any = None
        #: The identity as text; under the registry lock.
        self.identity_key: str | None = None
        #: The id behind which it asks for what it missed.
        self.since: str | None = None
        #: The app's functions, None where it has none.
        self.hooks: AppHooks | None = None
        #: What asks the app and registers it, at the beginning of its reader thread; None when that is done elsewhere.
        self.before_reading: Callable[[], None] | None = None
        self._accepted = False
        #: The reader is a request's own thread.
        self.attached = False
        #: The place it holds, given back when it has gone.
        self.slot: Any = None
        #: Who it is by its token or session; replaced as a whole by the reader thread.
        self.credentials = NOBODY
        #: Messages in a row that made no sense; the reader thread's.
        self.nonsense = 0
        self._end_logged = False
        #: Its descriptor is closed; under the hub's lock.
        self.gone = False
        # A new mapping with every change: readers take no lock.
        self._filters: Filters = {}
        #: Its filters have been spoken of, and it does not hear everything for want of one.
        self._selective = False
        connection.owner = self

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id}>"

    @property
    def identity(self) -> Any:
        """Who it is: what ``@ws.authenticate`` returned, and the app's to set; known to others by its text."""
        return self._identity

    @identity.setter
    def identity(self, identity: Any) -> None:
        identity_key = None if identity is None else room_value(identity)
        self._identity = identity
        self.hub.identify(self, identity_key)

    @property
    def close_code(self) -> int | None:
        """The code that the connection is closed with, by whichever side; None while it is open."""
        return self.connection.close_code

    @property
    def close_reason(self) -> str:
        """The reason that goes with the code."""
        return self.connection.close_reason

    # Filters ------------------------------------------------------------------------------------------------------

    @property
    def subscriptions(self) -> Subscriptions:
        """What it hears, by its filters."""
        return Subscriptions.of(self._filters, self._selective)

    @property
    def filters(self) -> dict[str, tuple[str, ...]]:
        """The filters held, a copy: each key with its values."""
        return dict(self._filters)

    def set_filter(self, key: str, value: Any) -> None:
        """Hold this value, or these, for the key, in place of those held before; an empty list drops the key.

        Takes effect in the hub thread, before any event that is broadcast after this call. A client that is left without a
        filter hears only ``broadcast_message``, and leaves the rooms where it was present.
        """
        several = isinstance(value, Iterable) and not isinstance(value, (str, bytes))
        values = tuple(dict.fromkeys(room_value(each) for each in (value if several else [value])))
        with _filters_lock:
            filters = {**self._filters, key: values}
            self._refilter_locked({each: held for each, held in filters.items() if held})

    def _refilter_locked(
        self, filters: Filters, answer: str | None = None, subscription: Subscription | None = None, revoked: bool = False
    ) -> None:
        before = self.subscriptions
        self._filters = filters
        # Of whom a filter has been set or taken does not hear everything for want of one: it may be one that sees no board.
        self._selective = True
        self.hub.change_client(
            self, Change(self.subscriptions, filters, before, answer, subscription or Subscription(()), revoked)
        )

    def join_rooms(self, subscription: Subscription, asked_at: int) -> bool:
        """Hold more rooms, and be told so by the hub thread.

        False when there has been a revocation of this identity since the app was asked. Raises TooManyRooms.
        """
        with _filters_lock:
            if self.hub.revoked_since(asked_at, self.identity_key):
                return False
            filters = with_rooms(self._filters, subscription.rooms)
            if sum([len(values) for values in filters.values()]) > self.connection.options.max_filters:
                raise TooManyRooms
            self._refilter_locked(filters, MessageType.SUBSCRIBED.value, subscription)
            return True

    def leave_rooms(self, subscription: Subscription, *, revoked: bool = False) -> None:
        """Hold fewer rooms, and be told so by the hub thread; ``revoked`` where the app has taken them away."""
        gone = frozenset(subscription.rooms)
        with _filters_lock:
            filters = without_rooms(self._filters, gone)
            self._refilter_locked(filters, MessageType.UNSUBSCRIBED.value, subscription, revoked)

    def get_filter(self, key: str) -> str | None:
        """Return the value held for the key, the first where there are several, or None; Go's ``GetFilter``."""
        return next(iter(self._filters.get(key, ())), None)

    # Sending ------------------------------------------------------------------------------------------------------

    def send(self, message: str | bytes | Message) -> bool:
        """Send to this client alone: text for str, a binary message for bytes, JSON for a Message.

        False when the client is going, or has just been put out because its send queue is full. Never waits. Raises
        MessageError for what cannot be serialised or is larger than the queue.
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
        """Act on what became of an offer: start the writer, or put out a client whose queue is over its bound."""
        if outcome == WANTS_WRITER:
            self.start_writer()
        elif outcome == OVERFLOW:
            self.overflow()

    def overflow(self) -> None:
        """Put out a client that takes less than it is sent; it may come back for the rest."""
        options = self.connection.options
        reason = f"slow consumer: over {options.send_queue_size} messages or {options.send_queue_bytes} bytes waited"
        if self.disconnect(CloseCode.SLOW_CONSUMER, reason):
            self.hub.count("slow_consumers")

    def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> bool:
        """Close the connection behind what is queued; False when that had begun before. Any thread; never waits.

        The app's own codes are 4000 to 4999. Raises ValueError for what is no close code.
        """
        return self.connection.close(code, reason)

    def close_for_restart(self, within: float | None = None) -> None:
        """Tell the client that the server restarts and when to come back, then close; behind what is queued.

        The waits are spread at random, so that those who are dismissed together do not come back together.
        """
        advice = self.advise(
            CloseCode.RESTART, "service restart", reconnect=True, retry_after_ms=random.randint(*_RETRY_AFTER_MS)
        )
        self.connection.close(CloseCode.RESTART, "service restart", advice=advice, within=within)

    def disconnect(self, code: int, reason: str, *, retry_after_ms: int = 0, within: float | None = None) -> bool:
        """Advise the client whether to come back, and close in front of all that waits; False when it was closing already."""
        advice = self.advise(code, reason, reconnect=not is_final(code), retry_after_ms=retry_after_ms)
        return self.connection.close(code, reason, advice=advice, drop_queue=True, within=within)

    def close_on_error(self) -> None:
        """Close with 1011 after an error of the server's own."""
        try:
            self.connection.close(CloseCode.SERVER_ERROR, "server error", drop_queue=True, within=_BREAK_OFF_WAIT)
        except Exception:
            self.connection.abort(CloseCode.SERVER_ERROR, "server error")

    def advise(self, code: int, reason: str, *, reconnect: bool, retry_after_ms: int) -> Frame | None:
        """Return the ``disconnect`` advice that goes before a close frame; None for a raw protocol."""
        if not self.connection.options.greeting:
            return None
        data = {"code": code, "reason": reason, "reconnect": reconnect, "retry_after_ms": retry_after_ms}
        return Frame(new_message(MessageType.DISCONNECT, data).encode())

    # The connection's news (connection.Owner) -------------------------------------------------------------------------

    def start_writer(self) -> None:
        """Ask for a writer thread; it is started elsewhere, since starting one beside a busy handler takes long."""
        self.hub.start_writer(self)

    def incomplete_frame(self, number: int) -> Frame:
        """Return the ``pong`` that stands for lost events up to a number."""
        return self.hub.position_frame(MessageType.PONG.value, number, True)

    def closing_begun(self, within: float) -> None:
        """Hear no event any more, and have the connection aborted unless it has ended in ``within`` seconds."""
        self.log_end()
        self.hub.forget_client(self)
        self.hub.abort_after(self, within)

    def log_end(self) -> None:
        """Say in one line, once, why the client goes: at info when it was put out, else at debug."""
        if not self._end_logged:
            self._end_logged = True
            code, reason = self.connection.close_code, self.connection.close_reason
            level = logging.DEBUG if code is None or is_ordinary(code) else logging.INFO
            self.hub.logger.log(level, "cartows: client %s goes: %s %s", self.id, code, printable(reason))

    # Credentials ------------------------------------------------------------------------------------------------------

    def expires_in(self) -> float | None:
        """Return in how many seconds the credentials expire, None for never."""
        at = self.credentials.expires_at
        return None if at is None else at - time.time()

    def check_expiry(self, slack: float = 0.0) -> float | None:
        """Show the client out if its credentials expire within ``slack`` seconds.

        Returns in how many seconds they do, None for never.
        """
        left = self.expires_in()
        if left is not None and left <= slack:
            self.expire("credentials expired")
        return left

    def expire(self, reason: str) -> None:
        """Show out a client whose credentials hold no more; it may come back with new ones."""
        self.disconnect(CloseCode.EXPIRED, reason)

    def renew(self, credentials: Credentials) -> float | None:
        """Hold new credentials of the same user; returns in how many seconds they expire."""
        self.credentials = credentials
        self.hub.recheck_expiry(self)
        return self.expires_in()

    def is_valid(self) -> bool:
        """Ask the app whether the client may stay."""
        return self.hooks is None or self.hooks.is_valid(self.credentials)

    def reauthorize(self) -> bool:
        """Ask again for all that it hears, and take away what is refused; returns whether anything was.

        A check that raises is a no as well, and is raised once all has been asked.
        """
        hooks = self.hooks
        if hooks is None:
            return False
        # Of whoever joins a room at this moment: it is held by now, or the revocation is seen.
        with _filters_lock:
            subscriptions = self.subscriptions
        failed: list[Exception] = []

        def allowed(key: str | None, value: str | None) -> bool:
            try:
                return hooks.is_allowed(self.credentials, self.identity, key, value)
            except Exception as error:
                failed.append(error)
                return False

        if subscriptions.unfiltered:
            lost: list[Room] = []
            if refused := not allowed(None, None):
                self.disconnect(CloseCode.FORBIDDEN, "may not hear everything any more")
        else:
            lost = [room for room in sorted(subscriptions.rooms) if not allowed(*room)]
            refused = bool(lost)
        if lost:
            self.leave_rooms(Subscription(tuple(lost)), revoked=True)
        if failed:
            raise failed[0]
        return refused

    # Pumps --------------------------------------------------------------------------------------------------------

    def read_pump(self) -> None:
        """Handle what the client says until it is gone, then leave nothing behind. Reader thread; Go's ``ReadPump``."""
        try:
            self._enter()
            for message in self.connection.messages():
                self._handle(message)
        except Exception:
            self.hub.logger.exception("cartows: reading from client %s failed; the client is put out", self.id)
            self.close_on_error()
            self.connection.flush(time.monotonic() + _BREAK_OFF_WAIT)
        finally:
            self.connection.finish()
            # Only now: what the hub thread registers after this is seen to have ended, and is not registered.
            self.hub.forget_client(self)
            try:
                if self._accepted and self.hooks is not None:
                    # The app may ask who is left.
                    self.hub.remove_client(self)
                    self.hooks.disconnected(self)
            finally:
                self.hub.client_gone(self)

    def _enter(self) -> None:
        before_reading, self.before_reading = self.before_reading, None
        if before_reading is not None and not self.connection.ended:
            before_reading()

    def accept(self) -> bool:
        """Ask the app whether the client may come in; one that may not is shown out with a close code. Reader thread."""
        # A shutdown meanwhile finds it, one that is refused too.
        self.hub.client_arrived(self)
        code = self.hooks.connected(self) if self.hooks is not None else None
        self._accepted = code is None
        if code is not None:
            self.connection.open(None)
            self.close(code, "refused by the app")
        return self._accepted

    def write_pump(self) -> None:
        """Write what the hub had to leave. Writer thread; Go's ``WritePump``."""
        self.connection.write_pump()

    def flooded(self) -> None:
        """Show out a client that goes on though it was told to slow down."""
        self.disconnect(
            CloseCode.TOO_MANY_MESSAGES, "too many messages", retry_after_ms=_FLOODING_RETRY_MS, within=_FLOODING_WAIT
        )

    def _limited(self) -> bool:
        """Return whether what has come is too much, and tell the client."""
        limit = self.connection.limit
        verdict = ADMIT if limit is None else limit.admit()
        if verdict == END:
            self.flooded()
        elif verdict == TELL and limit is not None and self.connection.options.greeting:
            wait = round(limit.wait() * 1000)
            self.send_error("RATE_LIMITED", "Too many messages: this one was not handled.", f"retry after {wait} ms")
        return verdict != ADMIT

    def _handle(self, message: str | bytes) -> None:
        if self._limited():
            return
        try:
            self.handle_incoming_message(message)
        except Exception:
            self.failed()

    def handle_incoming_message(self, data: str | bytes) -> None:
        """Handle one whole message: override for a raw protocol. Reader thread; Go's ``handleIncomingMessage``.

        Whatever it raises is logged and answered with ``error INTERNAL``; the connection stays.
        """
        answer(self, data)

    def send_error(self, code: str, message: str, details: str = "") -> bool:
        """Send an ``error`` message."""
        return self.send(new_error_message(code, message, details))

    def failed(self, ref: str | None = None) -> None:
        """Log what is being raised by the handling of a message, and tell the client; it stays connected."""
        self.hub.logger.exception("cartows: handling a message of client %s failed; it stays connected", self.id)
        self.send_internal_error(ref)

    def send_internal_error(self, ref: str | None = None) -> None:
        """Say that the app's own code failed, unless the protocol is the app's own; ``ref`` is that of the message."""
        if self.connection.options.greeting:
            self.send(new_error_message("INTERNAL", "The server failed to handle the message.", ref=ref))


def _unlock_in_child() -> None:
    # A thread that the child of a fork does not have may have been changing a filter.
    global _filters_lock
    _filters_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock_in_child)
