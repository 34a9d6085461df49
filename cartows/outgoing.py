"""What every way of publishing does first: encode an event once, and refuse what no client could ever be sent.

Threads: any; the caller's own.
Locks: none.
Blocks: never.
"""

from __future__ import annotations

from .backplane.base import Outgoing
from .errors import MessageError
from .message import EncodeHook, Message, entity_of
from .rooms import Audience

__all__ = ["ENVELOPE", "outgoing"]

#: Room for the id and the frame's header beside an encoded event.
ENVELOPE = 64


def outgoing(message: Message, audience: Audience, enc_hook: EncodeHook | None, send_queue_bytes: int) -> Outgoing:
    """Return a message as it is published, without an id.

    Raises MessageError for what cannot be serialised or is larger than any client could be sent.
    """
    if message.id is not None or message.ref is not None:
        message = Message(type=message.type, timestamp=message.timestamp, data=message.data, error=message.error)
    body = message.encode(enc_hook)
    if len(body) + ENVELOPE > send_queue_bytes:
        raise MessageError(
            f"Cannot send a message of type {message.type!r}: it has {len(body)} bytes, and no client is sent more than "
            f"CARTOWS_SEND_QUEUE_BYTES={send_queue_bytes} less {ENVELOPE}. Send less, e.g. an id to fetch by"
        )
    entity = entity_of(message.data)
    return Outgoing(message.type, body, audience, entity, entity is not None and message.type.endswith(".updated"))
