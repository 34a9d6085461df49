"""What a client may say, and how it is answered: the messages of the wire that clients send.

**Threads**: the client's reader thread.
**Blocks**: for as long as the app's functions do.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from functools import partial
from typing import Any, Protocol

from ..errors import AuthError
from ..hooks import RESERVED, AppHooks
from ..message import (
    InboundMessage,
    Message,
    MessageType,
    decode_inbound,
    decode_object,
    decode_string,
    decode_value,
    encoded_size,
    new_error_message,
    new_message,
    size_of,
)
from ..nesting import containers
from ..rooms import MAX_ROOM_BYTES, Room, is_room_name, room_value
from ..websocket.close_codes import CloseCode
from .authorization import Authorization
from .connection import Connection
from .rate_limit import Bucket
from .subscriptions import ClientFilters, SubscriptionRequest, TooManyRooms

__all__ = ["CommandClient", "Commands", "InvalidMessage", "parse_subscription"]

# How many characters a client's own name for a message may have.
_MAX_REF = 64

# With so many invalid messages the client is disconnected, not counting one for each of these periods, in seconds. Valid ones
# between them change nothing. A page's heartbeat in a format of another protocol is slower than that.
MAX_INVALID = 10
INVALID_PERIOD = 10.0

# How many seconds such a client has to read the reason.
_INVALID_WAIT = 1.0

# So many rooms in one message count as one message more: each room is authorized, joined and answered.
_ROOMS_PER_MESSAGE = 10

# How many bytes a message may have that cartows answers itself, and how many more for each room that a client may hold.
_COMMAND_SIZE = 32 * 1024
_ROOM_SIZE = 512

# How many bytes an array or an object counts against the rate limit, beyond its text, in a message that is decoded for the app:
# about what it takes in memory. An array is two bytes long.
_CONTAINER_SIZE = 64

# In shorter messages they do not count: their number is limited.
_FEW_CONTAINERS = 1024

# How many bytes, as JSON, a client's presence entry may have.
MAX_META = 1024
# And how many values, those within it included: a kilobyte of "[],[],…" takes twenty in memory, for each room.
MAX_META_VALUES = 64

# Integers with more bits have longer names than a room may have, and Python refuses to write very large ones.
_MAX_BITS = 4 * MAX_ROOM_BYTES


class InvalidMessage(ValueError):
    """A message breaks the protocol; ``details`` names the place."""

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message)
        self.details = details


class CommandClient(Protocol):
    """What commands need of the client that sends them."""

    connection: Connection
    #: The app's functions; None where it has none.
    hooks: AppHooks | None

    def send(self, message: Message) -> bool:
        """Send a message to this client alone."""

    def send_pong(self, ref: str | None) -> None:
        """Answer a ping with the client's position."""

    def handling_failed(self, ref: str | None) -> None:
        """Log the exception that is being handled, and send ``error INTERNAL``."""


class Commands:
    """Do what one client asks for in its messages, and answer."""

    __slots__ = ("_authorization", "_client", "_filters", "_invalid", "_invalid_at")

    def __init__(self, client: CommandClient, authorization: Authorization, filters: ClientFilters) -> None:
        self._client = client
        self._authorization = authorization
        self._filters = filters
        #: How many more invalid messages are answered, and when the last one came; made with the first.
        self._invalid: Bucket | None = None
        self._invalid_at = 0.0

    def handle(self, data: str | bytes) -> None:
        """Do what one message asks for, or answer why not."""
        message = decode_inbound(data)
        ref = None if message is None else _ref(message)
        try:
            self._dispatch(message, ref, data)
        except InvalidMessage as error:
            if self._is_one_too_many():
                self._client.connection.disconnect(
                    CloseCode.POLICY_VIOLATION, f"{MAX_INVALID} invalid messages", within=_INVALID_WAIT
                )
            else:
                self._refuse(ref, "INVALID_MESSAGE", str(error), error.details)
        except Exception:
            self._client.handling_failed(ref)

    def _is_one_too_many(self) -> bool:
        """Count an invalid message; return whether the client has sent too many."""
        now = time.monotonic()
        if self._invalid is None:
            self._invalid = Bucket(1 / INVALID_PERIOD, MAX_INVALID - 1)
        else:
            self._invalid.refill(now - self._invalid_at)
        self._invalid_at = now
        if not self._invalid.has(1):
            return True
        self._invalid.take(1)
        return False

    def _refuse(self, ref: str | None, code: str, message: str, details: str = "") -> None:
        self._client.send(new_error_message(code, message, details, ref=ref))

    def _dispatch(self, message: InboundMessage | None, ref: str | None, text: str | bytes) -> None:
        kind = None if message is None else decode_string(message.type)
        if message is None or not kind:
            raise InvalidMessage('A message must be one JSON object with a "type".')
        hooks = self._client.hooks
        if kind in RESERVED:
            self._check_size(kind, size_of(text))
        if kind == MessageType.PING:
            self._client.send_pong(ref)
        elif kind in (MessageType.SUBSCRIBE, MessageType.UNSUBSCRIBE):
            self._change_rooms(_value(message.data), ref, joins=kind == MessageType.SUBSCRIBE)
        elif kind == MessageType.AUTH_REFRESH:
            self._refresh(decode_object(message.data), ref)
        elif hooks is not None and kind in hooks.hooks.messages:
            limit = self._client.connection.limit
            if limit is not None and len(text) > _FEW_CONTAINERS:
                limit.charge(size=_CONTAINER_SIZE * containers(text))
            hooks.call(hooks.hooks.messages[kind], self._client, new_message(kind, _value(message.data), ref=ref))
        elif kind != MessageType.PONG:
            self._refuse(ref, "UNKNOWN_TYPE", "The server has no handler for this message type.", kind[:100])

    def _check_size(self, kind: str, size: int) -> None:
        """Raise InvalidMessage for a message that cartows answers itself and that is too large for anything it may say."""
        max_size = _COMMAND_SIZE + _ROOM_SIZE * self._client.connection.options.max_filters
        if size > max_size:
            raise InvalidMessage(f"A message of this type may have {max_size} bytes, not {size}.", kind)

    def _change_rooms(self, data: Any, ref: str | None, *, joins: bool) -> None:
        connection = self._client.connection
        options = connection.options
        cost = options.max_filters // _ROOMS_PER_MESSAGE
        try:
            max_rooms = options.max_filters if joins else None
            request = parse_subscription(data, options.filter_keys, joins=joins, max_rooms=max_rooms)._replace(ref=ref)
            named = len(request.rooms)
            # A presence entry costs more: the client is sent each room's entries, and the room is sent the new one.
            cost = named // _ROOMS_PER_MESSAGE if request.meta is None else named
            if joins:
                self._join(request)
            else:
                self._filters.leave(request)
        except TooManyRooms:
            self._refuse(ref, "FORBIDDEN", f"A client may hold {options.max_filters} rooms at most.", "max_filters")
        if connection.limit is not None:
            # Never more than the burst: a client that has been quiet may send any message.
            connection.limit.charge(min(cost, options.rate_burst))

    def _join(self, request: SubscriptionRequest) -> None:
        """Join rooms that the app allows, all or none. Asks again if its answer may be out of date by then."""
        authorization, connection = self._authorization, self._client.connection
        joined = False
        while not joined and not connection.closing:
            mark = authorization.revocation_mark()
            for key, value in request.rooms:
                if not authorization.is_allowed(key, value):
                    self._refuse(request.ref, "FORBIDDEN", "You may not subscribe to this room.", f"{key}={value[:100]}")
                    return
            is_revoked = partial(authorization.revoked_since, mark)
            joined = self._filters.join(request, connection.options.max_filters, is_revoked)

    def _refresh(self, data: Any, ref: str | None) -> None:
        """Accept a new token of the same user."""
        token = data.get("token") if isinstance(data, Mapping) else None
        if not isinstance(token, str):
            raise InvalidMessage('Its "data" must be an object with a "token".')
        try:
            fresh = self._authorization.check_token(token)
        except AuthError as error:
            self._refuse(ref, "FORBIDDEN", "The new credentials are not accepted.", str(error))
            return
        left = self._authorization.renew(fresh)
        answer = {} if left is None else {"expires_in_ms": round(left * 1000)}
        self._client.send(new_message(MessageType.AUTH_REFRESHED, answer, ref=ref))


def _value(text: Any) -> Any:
    """Return a value of a message. Raises InvalidMessage for one that cannot be read."""
    try:
        return decode_value(text)
    except ValueError as error:
        raise InvalidMessage(f'Its "data" cannot be read: {error}.') from None


def _ref(message: InboundMessage) -> str | None:
    """Return the client's own name for a message; any other ``ref`` is left out of the answer, and no reason to refuse it."""
    ref = decode_string(message.ref) if len(message.ref) else None
    return ref if ref is not None and len(ref) <= _MAX_REF else None


def parse_subscription(data: Any, keys: Collection[str], *, joins: bool, max_rooms: int | None = None) -> SubscriptionRequest:
    """Return the request in the ``data`` of a message; ``joins`` for ``subscribe``.

    Raises InvalidMessage, and TooManyRooms for more than ``max_rooms``.
    """
    allowed = ", ".join(sorted(keys))
    if not isinstance(data, Mapping):
        raise InvalidMessage(f'Its "data" must be an object that names rooms, by {allowed}.')
    rooms: dict[Room, None] = {}
    since = meta = None
    for key, value in data.items():
        if key in keys:
            for each in _values(key, value):
                rooms[key, each] = None
                if max_rooms is not None and len(rooms) > max_rooms:
                    raise TooManyRooms
        elif key == "since" and joins:
            # Of whatever type: an id that is none of the hub's is answered with recovered: false.
            since = value if isinstance(value, str) else ""
        elif key == "presence" and joins:
            meta = _meta(value)
        else:
            raise InvalidMessage(f"Rooms are named by {allowed}.", key[:100])
    if not rooms:
        raise InvalidMessage(f"It names no room; rooms are named by {allowed}.")
    return SubscriptionRequest(tuple(rooms), since, meta)


def _values(key: str, value: Any) -> list[str]:
    """Return the values as strings: all integers that a client chooses may have one hash, so they are never a key."""
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(each, str) or (isinstance(each, int) and not isinstance(each, bool)) for each in values):
        raise InvalidMessage("A room is named by a string or an integer, or by a list of them.", key)
    if not any(isinstance(each, int) and each.bit_length() > _MAX_BITS for each in values):
        names = [room_value(each) for each in values]
        if all(map(is_room_name, names)):
            return names
    raise InvalidMessage(f"The name of a room may have {MAX_ROOM_BYTES} bytes as UTF-8.", key)


def _meta(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidMessage("A presence entry must be an object.", "presence")
    size = encoded_size(value)
    if size > MAX_META:
        raise InvalidMessage(f"A presence entry may have {MAX_META} bytes as JSON, not {size}.", "presence")
    if _count_values(value) > MAX_META_VALUES:
        raise InvalidMessage(f"A presence entry may have {MAX_META_VALUES} values.", "presence")
    return value


def _count_values(value: Any) -> int:
    """Return how many values are within a value of JSON; it is small, since its size has been checked."""
    count, left = 0, [value]
    while left:
        each = left.pop()
        inner = each.values() if isinstance(each, Mapping) else each if isinstance(each, list) else ()
        count += len(inner)
        left += inner
    return count
