"""What a client may say, and what it is answered: the messages of the wire that come from clients.

Threads: the client's reader thread.
Locks: none of its own.
Blocks: as long as the app's functions do.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import AuthError
from ..message import MessageType, decode_object, new_error_message, new_message
from ..rooms import room_value
from ..websocket.close_codes import CloseCode
from .subscriptions import BadMessage, Subscription, TooManyRooms, parse

if TYPE_CHECKING:
    from .client import Client

__all__ = ["answer"]

# The most characters by which a client may call its messages.
_MAX_REF = 64

# Messages in a row that make no sense: it is not going to get better.
_MAX_NONSENSE = 10

# How long such a client has to read why it goes.
_NONSENSE_WAIT = 1.0

# So many rooms in one message count for one message more: each is asked for, joined and told of, here and in the hub thread.
_ROOMS_PER_MESSAGE = 10


def answer(client: Client, data: str | bytes) -> None:
    """Do what a client asks for in one message, or say why not."""
    message = decode_object(data)
    ref = message.get("ref") if message is not None else None
    # Any other is left out of the answer: it is a help to clients, and no reason to refuse them.
    ref = ref if isinstance(ref, str) and len(ref) <= _MAX_REF else None
    try:
        _do(client, message, ref)
        client.nonsense = 0
    except BadMessage as error:
        client.nonsense += 1
        if client.nonsense >= _MAX_NONSENSE:
            client.disconnect(
                CloseCode.POLICY_VIOLATION, f"{_MAX_NONSENSE} messages in a row made no sense", within=_NONSENSE_WAIT
            )
        else:
            _refuse(client, ref, "INVALID_MESSAGE", str(error), error.details)
    except Exception:
        client.failed(ref)


def _refuse(client: Client, ref: str | None, code: str, message: str, details: str = "") -> None:
    client.send(new_error_message(code, message, details, ref=ref))


def _do(client: Client, message: Mapping[str, Any] | None, ref: str | None) -> None:
    kind = message.get("type") if message is not None else None
    if message is None or not isinstance(kind, str) or not kind:
        raise BadMessage('A message must be one JSON object with a "type".')
    data = message.get("data")
    if kind == MessageType.PING:
        build = partial(client.hub.position_frame, MessageType.PONG.value, ref=ref)
        client.handle_send_result(client.connection.offer_position(build, client.hub.position))
    elif kind in (MessageType.SUBSCRIBE, MessageType.UNSUBSCRIBE):
        _change_rooms(client, data, ref, joins=kind == MessageType.SUBSCRIBE)
    elif kind == MessageType.AUTH_REFRESH:
        _refresh(client, data, ref)
    elif client.hooks is not None and kind in client.hooks.hooks.messages:
        client.hooks.call(client.hooks.hooks.messages[kind], client, new_message(kind, data, ref=ref))
    elif kind != MessageType.PONG:
        _refuse(client, ref, "UNKNOWN_TYPE", "The server knows no message of this type.", kind[:100])


def _change_rooms(client: Client, data: Any, ref: str | None, *, joins: bool) -> None:
    options = client.connection.options
    cost = options.max_filters // _ROOMS_PER_MESSAGE
    try:
        most = options.max_filters if joins else None
        subscription = parse(data, options.filter_keys, joins=joins, most=most)._replace(ref=ref)
        named = len(subscription.rooms)
        # Whoever shows itself in a room is told who is there, and they are told of it.
        cost = named // _ROOMS_PER_MESSAGE if subscription.meta is None else named
        if joins:
            _join(client, subscription)
        else:
            client.leave_rooms(subscription)
    except TooManyRooms:
        _refuse(client, ref, "FORBIDDEN", f"A client may hold {options.max_filters} rooms at most.", "max_filters")
    if client.connection.limit is not None:
        # At most what may be said at once: whoever has been quiet may say anything.
        client.connection.limit.charge(min(cost, options.rate_burst))


def _join(client: Client, subscription: Subscription) -> None:
    """Join rooms that the app allows, all or none; ask again when it has changed its mind meanwhile."""
    joined = False
    while not joined and not client.connection.closing:
        asked_at = client.hub.revocation_mark()
        for key, value in subscription.rooms:
            if client.hooks is not None and not client.hooks.is_allowed(client.credentials, client.identity, key, value):
                _refuse(client, subscription.ref, "FORBIDDEN", "You may not hear this room.", f"{key}={value[:100]}")
                return
        joined = client.join_rooms(subscription, asked_at)


def _refresh(client: Client, data: Any, ref: str | None) -> None:
    """Take a new token for the same user."""
    token = data.get("token") if isinstance(data, Mapping) else None
    if not isinstance(token, str):
        raise BadMessage('Its "data" must be an object with a "token".')
    try:
        if client.hooks is None:
            raise AuthError("Credentials are not refreshed here: connect again.")
        fresh = client.hooks.refresh(token)
        if fresh.identity is None or room_value(fresh.identity) != client.identity_key:
            raise AuthError("They are not this user's.")
    except AuthError as error:
        _refuse(client, ref, "FORBIDDEN", "The new credentials are not accepted.", str(error))
        return
    changed = fresh.allowed_rooms != client.credentials.allowed_rooms
    left = client.renew(fresh)
    if changed:
        client.reauthorize()
    told = {} if left is None else {"expires_in_ms": round(left * 1000)}
    client.send(new_message(MessageType.AUTH_REFRESHED, told, ref=ref))
