"""The raw WebSocket client of the tests: a bare socket that can do what no well-behaved client does.

It breaks frames, stops reading, vanishes. Nothing but the standard library is needed, since ``python -m tests.hostile`` runs
where nothing else is installed.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import functools
import http.client
import io
import json
import os
import select
import socket
import ssl
import struct
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from tests.support.waiting import DEADLINE

Json = dict[str, Any]

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


class Closed(NamedTuple):
    """How a connection ended: the close frame of the server, or 1006 when none came."""

    code: int
    reason: str


class IncompleteFrame(AssertionError):
    """The connection ended in the middle of a frame."""


class Response(NamedTuple):
    """The answer to an HTTP request."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Frame:
    """A frame of the server's."""

    opcode: int
    payload: bytes
    fin: bool = True
    #: RSV1: the payload is compressed.
    compressed: bool = False

    @property
    def json(self) -> Json:
        message = json.loads(self.payload)
        assert isinstance(message, dict), message
        return message

    @property
    def closed(self) -> Closed:
        assert self.opcode == CLOSE, self
        if not self.payload:
            return Closed(1005, "")
        return Closed(int.from_bytes(self.payload[:2], "big"), self.payload[2:].decode())


def make_frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    masked: bool = True,
    mask: bytes | None = None,
    length: int | None = None,
) -> bytes:
    """Return a client's frame; ``length`` lies about the payload's length, ``mask`` replaces the random one."""
    size = len(payload) if length is None else length
    head = bytearray([(0x80 if fin else 0) | rsv << 4 | opcode])
    flag = 0x80 if masked else 0
    if size < 126:
        head.append(flag | size)
    elif size < 65536:
        head += struct.pack("!BH", flag | 126, size)
    else:
        head += struct.pack("!BQ", flag | 127, size)
    if not masked:
        return bytes(head) + payload
    mask = os.urandom(4) if mask is None else mask
    key = (mask * (len(payload) // 4 + 1))[: len(payload)]
    cover = int.from_bytes(payload, "little") ^ int.from_bytes(key, "little")
    return bytes(head) + mask + cover.to_bytes(len(payload), "little")


def make_request(path: str, headers: Iterable[tuple[str, str]], *, method: str = "GET", version: str = "HTTP/1.1") -> bytes:
    """Return the bytes of a request without a body."""
    lines = [f"{method} {path} {version}", *(f"{name}: {value}" for name, value in headers), "", ""]
    return "\r\n".join(lines).encode("latin-1", "replace")


def upgrade_headers(host: str, port: int) -> list[tuple[str, str]]:
    """Return the headers of a proper opening handshake."""
    return [
        ("Host", f"{host}:{port}"),
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Key", base64.b64encode(os.urandom(16)).decode()),
        ("Sec-WebSocket-Version", "13"),
    ]


def deflate(data: bytes) -> bytes:
    """Return a message as permessage-deflate sends it (RFC 7692 section 7.2.1)."""
    engine = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (engine.compress(data) + engine.flush(zlib.Z_SYNC_FLUSH)).removesuffix(b"\x00\x00\xff\xff")


def inflate(data: bytes, window: int = 15) -> bytes:
    """Return the message in a compressed frame, read with a fresh window of so many bits."""
    engine = zlib.decompressobj(-window)
    return engine.decompress(data + b"\x00\x00\xff\xff")


@functools.cache
def deflate_bomb(mebibytes: int) -> bytes:
    """Return so many mebibytes of zeros, compressed to a thousandth."""
    engine = zlib.compressobj(9, zlib.DEFLATED, -15)
    return b"".join(engine.compress(bytes(1 << 20)) for _ in range(mebibytes)) + engine.flush(zlib.Z_SYNC_FLUSH)


class _SocketFilter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


class RawClient:
    """A bare TCP (or TLS) connection to a server; closed with a context or ``close``."""

    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None = None, *, receive_buffer: int = 0) -> None:
        plain = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        try:
            if receive_buffer:  # before connecting, or the window is larger by then
                plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            plain.settimeout(DEADLINE)
            plain.connect((host, port))
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock: socket.socket = plain if tls is None else tls.wrap_socket(plain, server_hostname=host)
        except BaseException:
            plain.close()
            raise
        self.host, self.port = host, port
        self._take_over(sock)

    @classmethod
    def on(cls, sock: socket.socket) -> RawClient:
        """Return a client on a socket that is connected already, such as one end of a pair."""
        client = cls.__new__(cls)
        client.host, client.port = "", 0
        client._take_over(sock)
        return client

    def _take_over(self, sock: socket.socket) -> None:
        self.socket = sock
        # What has been read and not looked at.
        self._buffer = bytearray()
        #: The permessage-deflate answer of the server, if any.
        self.extensions = ""

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # -- HTTP

    def handshake(
        self,
        path: str,
        headers: Mapping[str, str | None] | None = None,
        *,
        method: str = "GET",
        version: str = "HTTP/1.1",
    ) -> bytes:
        """Return an upgrade request; ``headers`` replaces some, a value of None leaves one out."""
        values: dict[str, str | None] = dict(upgrade_headers(self.host, self.port))
        values.update(headers or {})
        fields = [(name, value) for name, value in values.items() if value is not None]
        return make_request(path, fields, method=method, version=version)

    def open(self, path: str, headers: Mapping[str, str | None] | None = None) -> Response:
        """Ask for the upgrade; return the answer whatever it is."""
        self.send(self.handshake(path, headers))
        return self.response()

    def response(self) -> Response:
        """Read one HTTP answer; of a 101 only the head."""
        status, _, fields = self._head().partition(b"\r\n")
        headers = http.client.parse_headers(io.BytesIO(fields + b"\r\n\r\n"))
        self.extensions = headers.get("Sec-WebSocket-Extensions", "")
        code = int(status.split()[1])
        body = b""
        if code != 101:
            body = self._exactly(int(headers["Content-Length"])) if "Content-Length" in headers else self.rest()
        return Response(code, headers, body)

    def _head(self) -> bytes:
        """Read an answer's status line and headers, and return them without the empty line."""
        while b"\r\n\r\n" not in self._buffer:
            if not self.read_some():
                raise EOFError(f"the server closed after {bytes(self._buffer)!r}")
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        return bytes(head)

    def _exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            if not self.read_some():
                raise EOFError(f"the server closed; {len(self._buffer)} of {count} bytes came")
        return self._pop(count)

    def _pop(self, count: int) -> bytes:
        found = bytes(self._buffer[:count])
        del self._buffer[:count]
        return found

    # -- Sending

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def send_frame(self, opcode: int, payload: bytes = b"", **options: Any) -> None:
        self.send(make_frame(opcode, payload, **options))

    def send_json(self, message: Any) -> None:
        self.send_frame(TEXT, json.dumps(message).encode())

    # -- Receiving

    def read_some(self, size: int = 65536) -> bool:
        """Wait for bytes and keep up to so many of them for later; return False at the end of the stream."""
        data = self._recv(size)
        self._buffer += data
        return bool(data)

    def has_arrived(self, timeout: float = 0.0) -> bool:
        """Return whether there is something to read, now or within so many seconds."""
        return bool(self._buffer) or bool(select.select([self.socket], [], [], timeout)[0])

    def buffered_frame(self) -> Frame | None:
        """Return the next frame if all of it has been read; it must be a proper one."""
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        first, second = buffer[:2]
        assert not second & 0x80, "a server must not mask"
        assert not first & 0x30, "RSV2 and RSV3 mean nothing here"
        length, head = second & 0x7F, 2
        if length >= 126:
            head += 2 if length == 126 else 8
            if len(buffer) < head:
                return None
            length = int.from_bytes(buffer[2:head], "big")
        if len(buffer) < head + length:
            return None
        payload = self._pop(head + length)[head:]
        return Frame(first & 0x0F, payload, bool(first & 0x80), bool(first & 0x40))

    def frame(self, *, pings: bool = False) -> Frame:
        """Return the server's next frame; a heartbeat may come at any time and is left out."""
        while (frame := self._frame()).opcode == PING and not pings:
            continue
        return frame

    def _frame(self) -> Frame:
        while (frame := self.buffered_frame()) is None:
            try:
                if not self.read_some():
                    raise EOFError("the server closed")
            except (EOFError, ConnectionError) as error:
                if self._buffer:
                    raise IncompleteFrame(f"only {bytes(self._buffer[:100])!r} of a frame came: {error}") from error
                raise
        return frame

    def receive(self) -> Json:
        """Return the next message."""
        frame = self.frame()
        assert frame.opcode == TEXT, frame
        assert frame.fin, frame
        return json.loads(inflate(frame.payload)) if frame.compressed else frame.json

    def ended(self) -> tuple[list[Frame], Closed]:
        """Return the frames until the server closes, pings left out, and how; nothing may follow a close frame."""
        frames: list[Frame] = []
        while True:
            try:
                frame = self.frame()
            except (EOFError, ConnectionError):
                return frames, Closed(1006, "")
            if frame.opcode == CLOSE:
                with contextlib.suppress(OSError):
                    self.send_frame(CLOSE, frame.payload[:2])
                assert self.rest() == b""
                self.close()  # a server may wait for that, lest its closing frames be lost
                return frames, frame.closed
            frames.append(frame)

    def rest(self) -> bytes:
        """Return everything until the server closes its side."""
        with contextlib.suppress(ConnectionError):
            while self.read_some():
                continue
        return self._pop(len(self._buffer))

    def _recv(self, size: int) -> bytes:
        try:
            return self.socket.recv(size)
        except ssl.SSLError:
            # A server answers a FIN without TLS's own closing message with an alert: the end, like another.
            return b""

    # -- Ending

    def finish(self) -> None:
        """Send FIN and go on reading."""
        # Not SSLSocket.shutdown, which would have it read what follows as if there were no TLS.
        socket.socket.shutdown(self.socket, socket.SHUT_WR)

    def reset(self) -> None:
        """Vanish with RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def unplug(self) -> None:
        """Pull the cable: from now on the kernel drops every packet that comes in here, so nothing is acknowledged.

        Linux: a socket filter of one instruction, `accept 0 bytes`.
        """
        instruction = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))
        program = _SocketFilter(1, ctypes.addressof(instruction))
        self.socket.setsockopt(socket.SOL_SOCKET, 26, bytes(program))  # SO_ATTACH_FILTER

    def close(self) -> None:
        self.socket.close()
