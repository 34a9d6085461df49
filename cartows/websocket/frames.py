"""WebSocket frames as bytes: built once per event, shared by all of its recipients.

**Threads**: any. A Frame never changes, except that its compressed form is added on first use, and for
the counts of the queues that hold it (``client.queue_budget``).
**Locks**: ``_compress_lock`` is held while a frame is compressed, so that each is compressed once. Nothing else is taken
meanwhile.

Server frames are unmasked and unfragmented (RFC 6455, sections 5.1 and 5.2).
"""

from __future__ import annotations

import os
import struct
import threading
import zlib

from .close_codes import APP_CODES_END, APP_CODES_START, CloseCode, is_never_sent, sendable

__all__ = ["CONTROL_PAYLOAD", "Entity", "Frame", "close_frame", "ping_frame", "pong_frame"]

TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA
FIN, RSV1 = 0x80, 0x40

#: The largest payload of a control frame, in bytes (RFC 6455, section 5.5).
CONTROL_PAYLOAD = 125

# A reason follows the two bytes of the code.
_REASON_BYTES = CONTROL_PAYLOAD - 2

# The kind and the id of what an event is about, as strings: ("task", "t1").
Entity = tuple[str, str]

_compress_lock = threading.Lock()


def _header(first_byte: int, length: int) -> bytes:
    if length < 126:
        return bytes((first_byte, length))
    if length < 65536:
        return struct.pack("!BBH", first_byte, 126, length)
    return struct.pack("!BBQ", first_byte, 127, length)


class Frame:
    """One whole message, ready to send.

    Args:
        payload: The message without a header.
        binary: Whether the message is binary; text by default.
        number: The number of the event in the order of its hub; 0 for a message that is not an event.
        compress_min_size: The smallest payload, in bytes, that is compressed; None never compresses.
        entity: What the event is about, if that is known.
        merges: Whether a newer update of the same entity may replace this one, with the changes of both.
    """

    __slots__ = ("_compressed", "_head", "compressible", "entity", "held_bytes", "holders", "merges", "number", "plain")

    def __init__(
        self,
        payload: bytes,
        *,
        binary: bool = False,
        number: int = 0,
        compress_min_size: int | None = None,
        entity: Entity | None = None,
        merges: bool = False,
    ) -> None:
        self.number = number
        self.entity = entity
        self.merges = merges
        header = _header(FIN | (BINARY if binary else TEXT), len(payload))
        self.plain = header + payload
        self.compressible = compress_min_size is not None and len(payload) >= compress_min_size
        self._head = len(header)
        self._compressed: bytes | None = None
        #: How many send queues hold it, and the bytes that it counts for in their budget, under whose lock these are.
        self.holders = 0
        self.held_bytes = 0

    @property
    def payload(self) -> bytes:
        """The message without a header."""
        return self.plain[self._head :]

    def size(self) -> int:
        """Return the bytes of both forms, as far as they have been made."""
        deflated = self._compressed
        return len(self.plain) + (0 if deflated is None or deflated is self.plain else len(deflated))

    def wire(self, deflate: bool) -> bytes:
        """Return the bytes to send; ``deflate`` is whether the client reads compressed messages."""
        return self.compressed() if deflate and self.compressible else self.plain

    def compressed(self) -> bytes:
        """Return the compressed form: the payload deflated from a fresh 15-bit window, made on first use.

        Every connection whose server window is 15 bits can read it, with or without context takeover (RFC 7692, sections
        7.1.1 and 7.2.1), so one form serves all clients. Where deflate saves nothing it is the plain frame.
        """
        if self._compressed is None:
            with _compress_lock:
                if self._compressed is None:
                    engine = zlib.compressobj(zlib.Z_DEFAULT_COMPRESSION, zlib.DEFLATED, -15)
                    body = engine.compress(memoryview(self.plain)[self._head :]) + engine.flush(zlib.Z_SYNC_FLUSH)
                    deflated = _header(self.plain[0] | RSV1, len(body) - 4) + body[:-4]
                    self._compressed = deflated if len(deflated) < len(self.plain) else self.plain
        return self._compressed


def ping_frame(payload: bytes = b"") -> bytes:
    """Return a ping frame (RFC 6455, section 5.5.2)."""
    return _control(PING, payload)


def pong_frame(payload: bytes) -> bytes:
    """Return the pong frame that answers a ping with that payload (RFC 6455, section 5.5.3)."""
    return _control(PONG, payload)


def close_frame(code: int | None, reason: str = "") -> bytes:
    """Return a close frame, without a code for None and for a code that must not be sent.

    A reason is cut to 123 bytes, never within a character (RFC 6455, section 5.5.1).

    Raises:
        ValueError: If a peer would not accept the code.
    """
    if code is None or is_never_sent(code):
        return _control(CLOSE, b"")
    if not sendable(code):
        raise ValueError(
            f"{code} is not a close code that can be sent: an application may use {APP_CODES_START} to {APP_CODES_END}, or "
            f"{CloseCode.NORMAL:d} for a normal closure (RFC 6455, section 7.4.2)"
        )
    text = reason.encode(errors="replace")[:_REASON_BYTES].decode(errors="ignore").encode()
    return _control(CLOSE, struct.pack("!H", code) + text)


def _unlock_in_child() -> None:
    # A thread of the parent process, which the child of a fork does not have, may hold the lock.
    global _compress_lock
    _compress_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock_in_child)


def _control(opcode: int, payload: bytes) -> bytes:
    if len(payload) > CONTROL_PAYLOAD:
        raise ValueError(f"A control frame carries at most {CONTROL_PAYLOAD} bytes, not {len(payload)}")
    return _header(FIN | opcode, len(payload)) + payload
