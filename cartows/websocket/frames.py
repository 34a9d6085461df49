"""WebSocket frames as bytes: built once per event, shared by every client that hears it.

Threads: any. A Frame never changes, save that its compressed twin is added once.
Locks: ``_twin_lock``, held while a twin is made, so that it is made once.
Blocks: never.

Server frames are unmasked and unfragmented (RFC 6455, sections 5.1 and 5.2).
"""

from __future__ import annotations

import os
import struct
import threading
import zlib

from .close_codes import is_never_sent, sendable

__all__ = ["CONTROL_PAYLOAD", "Entity", "Frame", "close_frame", "ping_frame", "pong_frame"]

TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA
FIN, RSV1 = 0x80, 0x40

#: The most bytes a control frame carries (RFC 6455, section 5.5).
CONTROL_PAYLOAD = 125

# A reason follows the two bytes of the code.
_REASON_BYTES = CONTROL_PAYLOAD - 2

# A kind of thing and its id, as text: ("task", "t1").
Entity = tuple[str, str]

_twin_lock = threading.Lock()


def _header(first_byte: int, length: int) -> bytes:
    if length < 126:
        return bytes((first_byte, length))
    if length < 65536:
        return struct.pack("!BBH", first_byte, 126, length)
    return struct.pack("!BBQ", first_byte, 127, length)


class Frame:
    """Be one whole message, ready to send.

    ``number`` is the event's place in its hub's order, 0 for what is no event of the hub. ``entity`` is what an event is
    about, where that is known, and ``merges`` says that a newer update of the same entity can take it in.
    """

    __slots__ = ("_head", "_twin", "compressible", "entity", "merges", "number", "plain")

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
        self._twin: bytes | None = None

    @property
    def payload(self) -> bytes:
        """The message without its header."""
        return self.plain[self._head :]

    def wire(self, deflate: bool) -> bytes:
        """Return the bytes to send to a client which can, or cannot, read a compressed message."""
        return self.compressed() if deflate and self.compressible else self.plain

    def compressed(self) -> bytes:
        """Return the frame with its payload deflated from a fresh 15-bit window; made on first need.

        Such a message is readable on every connection whose server window is 15 bits, with or without context takeover
        (RFC 7692, sections 7.1.1 and 7.2.1). One that deflate makes no smaller is its own twin.
        """
        if self._twin is None:
            with _twin_lock:
                if self._twin is None:
                    engine = zlib.compressobj(zlib.Z_DEFAULT_COMPRESSION, zlib.DEFLATED, -15)
                    body = engine.compress(memoryview(self.plain)[self._head :]) + engine.flush(zlib.Z_SYNC_FLUSH)
                    twin = _header(self.plain[0] | RSV1, len(body) - 4) + body[:-4]
                    self._twin = twin if len(twin) < len(self.plain) else self.plain
        return self._twin


def ping_frame(payload: bytes = b"") -> bytes:
    """Return a ping (RFC 6455, section 5.5.2)."""
    return _control(PING, payload)


def pong_frame(payload: bytes) -> bytes:
    """Return the pong that answers a ping with that payload (RFC 6455, section 5.5.3)."""
    return _control(PONG, payload)


def close_frame(code: int | None, reason: str = "") -> bytes:
    """Return a close frame; ``None``, or a code that must never be sent, gives one without a code.

    A reason is cut to fit 123 bytes, never within a character (RFC 6455, section 5.5.1).
    """
    if code is None or is_never_sent(code):
        return _control(CLOSE, b"")
    if not sendable(code):
        raise ValueError(
            f"{code} is no close code: an app has 4000 to 4999, and 1000 is a normal end (RFC 6455, section 7.4.2)"
        )
    text = reason.encode(errors="replace")[:_REASON_BYTES].decode(errors="ignore").encode()
    return _control(CLOSE, struct.pack("!H", code) + text)


def _unlock_in_child() -> None:
    # A thread that the child of a fork does not have may have been making a twin.
    global _twin_lock
    _twin_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock_in_child)


def _control(opcode: int, payload: bytes) -> bytes:
    if len(payload) > CONTROL_PAYLOAD:
        raise ValueError(f"A control frame carries {CONTROL_PAYLOAD} bytes at most, not {len(payload)}")
    return _header(FIN | opcode, len(payload)) + payload
