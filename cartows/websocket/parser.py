"""The parser of what a client sends: bytes in, whole messages and control frames out, with wsproto as the engine.

**Threads**: the reader thread of the one client; nothing here is shared.

The engine only reads. What the server sends is built in ``frames``, so that no data message goes through the engine's own
compressor and only ``client.connection`` writes to the socket.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

from wsproto.connection import Connection as Engine
from wsproto.connection import ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage
from wsproto.extensions import Extension, PerMessageDeflate
from wsproto.frame_protocol import CloseReason, FrameDecoder, FrameProtocol, Opcode, RsvBits

from .close_codes import CloseCode

__all__ = ["Closed", "Extensions", "Inbound", "Overhead", "Pinged"]

# Bytes given to the engine at a time. It inflates all that it is given at once, so this limits a zip bomb to about a thousand
# times as much.
_SLICE_SIZE = 4096

# A fragment of fewer bytes costs the server more than the peer, so it is counted against the peer.
_SMALL_FRAGMENT_SIZE = 1024


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

    ``max_message_size`` limits a message in bytes after decompression; a larger one is never held in memory as a whole.
    """

    __slots__ = ("_deflate", "_engine", "_frame_size", "_max", "_parts", "_size")

    def __init__(self, extensions: Extensions, max_message_size: int) -> None:
        self._max = max_message_size
        self._deflate = extensions.deflate
        # Made with the first bytes: most clients send nothing, and an engine costs memory.
        self._engine: Engine | None = None
        self._parts: list[str | bytes] = []
        #: Bytes so far of the current message, and of the current frame.
        self._size = self._frame_size = 0

    def feed(self, data: bytes) -> Iterator[str | bytes | Pinged | Overhead | Closed]:
        """Parse more bytes; yield whole messages (str or bytes), pings and what else counts. A Closed is the last item."""
        for start in range(0, len(data), _SLICE_SIZE):
            for item in self._feed_slice(data[start : start + _SLICE_SIZE]):
                yield item
                if isinstance(item, Closed):
                    return

    def _feed_slice(self, data: bytes) -> Iterator[str | bytes | Pinged | Overhead | Closed]:
        try:
            engine = self._engine = self._engine or _new_engine(self._deflate)
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
        except Exception as error:
            # The engine asserts in places. What it raises was caused by the bytes of this client, and ends this client alone.
            yield Closed(CloseCode.PROTOCOL_ERROR, f"protocol error: {type(error).__name__}", False)

    def _gather(self, event: TextMessage | BytesMessage) -> str | bytes | Overhead | Closed | None:
        part = event.data if isinstance(event, TextMessage) else bytes(event.data)
        size = len(part) if isinstance(part, bytes) or part.isascii() else len(part.encode())
        self._size += size
        self._frame_size += size
        if self._size > self._max:
            self._parts.clear()
            return Closed(CloseCode.TOO_BIG, f"message over {self._max} bytes", False)
        if part:
            self._parts.append(part)
        frame_size = self._frame_size
        if event.frame_finished:
            self._frame_size = 0
        if not event.message_finished:
            return Overhead.SMALL_FRAGMENT if event.frame_finished and frame_size < _SMALL_FRAGMENT_SIZE else None
        parts, self._parts, self._size = self._parts, [], 0
        if len(parts) == 1:
            return parts[0]
        if isinstance(event, TextMessage):
            return "".join(part for part in parts if isinstance(part, str))
        return b"".join(part for part in parts if isinstance(part, bytes))


class _Deflate(PerMessageDeflate):
    """Keep the state of a compressed message across the control frames between its fragments (RFC 6455, section 5.4).

    wsproto loses it there, and passes deflated bytes on as if they were text.
    """

    _inbound_compressed: bool | None
    _before_control: bool | None = None

    def frame_inbound_header(
        self, proto: FrameDecoder | FrameProtocol, opcode: Opcode, rsv: RsvBits, payload_length: int
    ) -> CloseReason | RsvBits:
        self._before_control = self._inbound_compressed
        return super().frame_inbound_header(proto, opcode, rsv, payload_length)

    def frame_inbound_complete(self, proto: FrameDecoder | FrameProtocol, fin: bool) -> bytes | CloseReason | None:
        control = not self._inbound_is_compressible
        found = super().frame_inbound_complete(proto, fin)
        if control:
            self._inbound_compressed = self._before_control
        return found


def _new_engine(deflate: str | None) -> Engine:
    extensions: list[Extension] = []
    if deflate is not None:
        extension = _Deflate()
        extension.accept(deflate)
        extensions.append(extension)
    return Engine(ConnectionType.SERVER, extensions)
