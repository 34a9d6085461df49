"""The parser of what a client sends: bytes in, whole messages and control frames out, with wsproto as the engine.

**Threads**: the reader thread of the one client; nothing here is shared.

The engine only reads. What the server sends is built in ``frames``, so that no data message goes through the engine's own
compressor and only ``client.connection`` writes to the socket.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

from wsproto.connection import Connection as Engine
from wsproto.connection import ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage
from wsproto.extensions import PerMessageDeflate
from wsproto.frame_protocol import CloseReason, FrameDecoder, FrameProtocol, Opcode, RsvBits

from .close_codes import CloseCode

__all__ = ["Closed", "Extensions", "Inbound", "Overhead", "Pinged"]

# A fragment of fewer bytes costs the server more than the peer, so it is counted against the peer.
_SMALL_FRAGMENT_SIZE = 1024

# A message that inflates to more bytes than this may inflate to at most so many times its bytes on the wire. Deflate reaches a
# thousand times; JSON of that size with any content stays far below (Apache's DeflateInflateRatioLimit is 200 as well).
_RATIO_FROM, _MAX_RATIO = 256 * 1024, 200

# So many times may the deflate stream of one message end and go on. A compressor that can end it does so once in a message, or
# in a fragment; each time costs the server a new window.
_MAX_STREAMS = 100

# What permessage-deflate removes from the end of each message (RFC 7692, section 7.2.1).
_TAIL = b"\x00\x00\xff\xff"


class Overhead(Enum):
    """A frame that needs no answer, but counts against the rate limit of the peer like one that does."""

    PONG = 1
    SMALL_FRAGMENT = 2


class Pinged(NamedTuple):
    """A ping, to be answered with a pong."""

    payload: bytes


class Closed(NamedTuple):
    """The end of the stream: the close frame of the client, or the code and reason for which its bytes were rejected."""

    code: int | None
    reason: str
    by_peer: bool


class Extensions(NamedTuple):
    """The extensions that the opening handshake negotiated."""

    #: The accepted parameters of permessage-deflate, None without it.
    deflate: str | None
    #: Whether the client can read a message deflated with a 15-bit window.
    reads_deflate: bool

    @classmethod
    def agreed(cls, reply: bytes) -> Extensions:
        """Return the extensions named in the ``101`` response, which does not depend on the version of the engine."""
        for line in reply.split(b"\r\n"):
            name, _, value = line.partition(b":")
            if name.strip().lower() == b"sec-websocket-extensions":
                accepted = value.decode("latin-1").strip()
                if accepted.split(";")[0].strip() == PerMessageDeflate.name:
                    return cls(accepted, _server_window(accepted) == 15)
        return cls(None, False)


def _server_window(accepted: str) -> int:
    for parameter in accepted.split(";")[1:]:
        name, _, value = parameter.partition("=")
        if name.strip() == "server_max_window_bits":
            return int(value.strip().strip('"') or 15)
    return 15


class Inbound:
    """The parser of one client's bytes.

    ``max_message_size`` limits a message in bytes after decompression; a larger one is never held in memory as a whole. What a
    compressed message takes on the wire is limited, too.
    """

    __slots__ = ("_deflate", "_engine", "_extension", "_frame_size", "_max", "_parts", "_size", "cost")

    def __init__(self, extensions: Extensions, max_message_size: int) -> None:
        self._max = max_message_size
        self._deflate = extensions.deflate
        # Made with the first bytes: most clients send nothing, and an engine costs memory.
        self._engine: Engine | None = None
        self._extension: _Deflate | None = None
        # What has come of an unfinished message, as UTF-8 where it is text: a str may take four bytes for each.
        self._parts = bytearray()
        #: Bytes so far of the current message, and of the current frame.
        self._size = self._frame_size = 0
        #: The bytes of the message that was yielded last, unpacked or on the wire, whichever are more.
        self.cost = 0

    @property
    def unfinished(self) -> int:
        """The bytes that are held of a message that has not ended."""
        return len(self._parts)

    def feed(self, data: bytes) -> Iterator[str | bytes | Pinged | Overhead | Closed]:
        """Parse more bytes; yield whole messages (str or bytes), pings and what else counts. A Closed is the last item."""
        try:
            engine = self._engine = self._engine or self._new_engine()
            engine.receive_data(data)
            for event in engine.events():
                if isinstance(event, (TextMessage, BytesMessage)):
                    whole = self._gather(event)
                    if whole is not None:
                        yield whole
                elif isinstance(event, Ping):
                    yield Pinged(bytes(event.payload))
                elif isinstance(event, Pong):
                    yield Overhead.PONG
                elif isinstance(event, CloseConnection):
                    by_peer = engine.state is not ConnectionState.OPEN
                    yield Closed(event.code, event.reason or "", by_peer)
                    return
        except _Refused as refused:
            yield refused.closed
        except Exception as error:
            # The engine asserts in places. What it raises was caused by the bytes of this client, and ends this client alone.
            yield Closed(CloseCode.PROTOCOL_ERROR, f"protocol error: {type(error).__name__}", False)

    def _new_engine(self) -> Engine:
        if self._deflate is None:
            return Engine(ConnectionType.SERVER)
        self._extension = _Deflate(self._deflate, self._max)
        return Engine(ConnectionType.SERVER, [self._extension])

    def _gather(self, event: TextMessage | BytesMessage) -> str | bytes | Overhead | None:
        part: str | bytes = event.data if isinstance(event, TextMessage) else bytes(event.data)
        utf8 = part if isinstance(part, bytes) else part.encode()
        self._size += len(utf8)
        self._frame_size += len(utf8)
        if self._size > self._max:
            self._parts = bytearray()
            raise _too_big(self._max)
        frame_size = self._frame_size
        if event.frame_finished:
            self._frame_size = 0
        if not event.message_finished:
            self._parts += utf8
            return Overhead.SMALL_FRAGMENT if event.frame_finished and frame_size < _SMALL_FRAGMENT_SIZE else None
        self.cost = max(self._size, 0 if self._extension is None else self._extension.wire)
        self._size = 0
        if not self._parts:
            return part
        whole, self._parts = self._parts, bytearray()
        whole += utf8
        return bytes(whole) if isinstance(part, bytes) else whole.decode()


class _Refused(Exception):
    """A message is over a bound; raised through the engine, which is not used again."""

    def __init__(self, code: CloseCode, reason: str) -> None:
        super().__init__(reason)
        self.closed = Closed(code, reason, False)


def _too_big(max_size: int) -> _Refused:
    return _Refused(CloseCode.TOO_BIG, f"message over {max_size} bytes")


class _Deflate(PerMessageDeflate):
    """Inflate messages within bounds, and as RFC 7692 has it where wsproto does not.

    - The state of a compressed message is kept across the control frames between its fragments (RFC 6455, section 5.4). wsproto
      loses it there, and passes deflated bytes on as if they were text.
    - A deflate stream may end within a message (a block with BFINAL, RFC 7692, section 7.2.3.4): what follows is another one.
      zlib keeps the bytes after the end of a stream, and copies them with each further call.
    - No more is inflated than a message may have.
    """

    _inbound_compressed: bool | None
    #: The bytes of the current message on the wire, and inflated, where it is compressed; 0 otherwise.
    wire = _inflated = 0
    #: How many deflate streams have ended in the current message.
    _streams = 0
    #: No byte of the current deflate stream has come yet.
    _fresh = True

    def __init__(self, accepted: str, max_message_size: int) -> None:
        super().__init__()
        self.accept(accepted)
        self._max = max_message_size
        # Deflate adds five bytes to each block that it cannot compress; the rest is for small fragments.
        self._max_wire = max_message_size + max_message_size // 8 + 1024

    def frame_inbound_header(
        self, proto: FrameDecoder | FrameProtocol, opcode: Opcode, rsv: RsvBits, payload_length: int
    ) -> CloseReason | RsvBits:
        if opcode.iscontrol():
            # Not the engine's own: asked again for a header that came in two pieces, it takes the next message for plain.
            self._inbound_is_compressible = False
            return CloseReason.PROTOCOL_ERROR if rsv.rsv1 else RsvBits(True, False, False)
        if opcode is not Opcode.CONTINUATION:
            self.wire = self._inflated = self._streams = 0
        return super().frame_inbound_header(proto, opcode, rsv, payload_length)

    def frame_inbound_payload_data(self, proto: FrameDecoder | FrameProtocol, data: bytes) -> bytes | CloseReason:
        if not self._inbound_compressed or not self._inbound_is_compressible:
            return data
        self.wire += len(data)
        if self.wire > self._max_wire:
            raise _too_big(self._max)
        return self._inflate(data)

    def frame_inbound_complete(self, proto: FrameDecoder | FrameProtocol, fin: bool) -> bytes | CloseReason | None:
        if not self._inbound_is_compressible or not fin:
            return None
        compressed, self._inbound_compressed = self._inbound_compressed, None
        if not compressed:
            return None
        # After a stream that has ended with the message there is nothing that the tail would complete.
        rest = b"" if self._fresh and self._streams else self._inflate(_TAIL)
        if self._inflated > _RATIO_FROM and self._inflated > _MAX_RATIO * self.wire:
            raise _Refused(CloseCode.TOO_BIG, f"message inflates to over {_MAX_RATIO} times its bytes")
        if self.client_no_context_takeover:
            self._decompressor = None
        return rest

    def _inflate(self, data: bytes) -> bytes | CloseReason:
        parts: list[bytes] = []
        while data:
            assert self._decompressor is not None
            try:
                part = self._decompressor.decompress(data, self._max + 1 - self._inflated)
            except zlib.error:
                return CloseReason.INVALID_FRAME_PAYLOAD_DATA
            self._inflated += len(part)
            if self._inflated > self._max:
                raise _too_big(self._max)
            parts.append(part)
            data, self._fresh = self._decompressor.unused_data, self._decompressor.eof
            if self._fresh:
                self._streams += 1
                if self._streams > _MAX_STREAMS:
                    raise _Refused(CloseCode.POLICY_VIOLATION, f"over {_MAX_STREAMS} deflate streams in one message")
                # With an empty window, as Chromium does: a compressor that ends its stream starts anew.
                self._decompressor = zlib.decompressobj(-self.client_max_window_bits)
        return b"".join(parts)
