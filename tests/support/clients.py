"""The two clients of the acceptance tests.

``Peer`` is the ``websockets`` package, strict and well behaved. ``Raw`` is a bare socket that can do what no proper
client does: break frames, stop reading, vanish.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import http.client
import io
import json
import os
import select
import socket
import ssl
import struct
import threading
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from tests.support.process import DEADLINE

Json = dict[str, Any]

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


class Closed(NamedTuple):
    """How a connection ended: the close frame of the server, or 1006 when none came."""

    code: int
    reason: str


class Peer:
    """A WebSocket client that reads JSON messages."""

    def __init__(self, connection: ClientConnection, *, greeted: bool = True) -> None:
        self.connection = connection
        #: The `connected` message, when one is awaited.
        self.hello: Json = self.receive() if greeted else {}

    @property
    def id(self) -> str:
        return str(self.hello["data"]["client_id"])

    def frame(self, deadline: float = DEADLINE) -> str | bytes:
        """Return the next message as it came."""
        return self.connection.recv(timeout=deadline)

    def receive(self, deadline: float = DEADLINE) -> Json:
        """Return the next message, which must be one JSON object in a text frame."""
        frame = self.frame(deadline)
        assert isinstance(frame, str), f"a binary frame: {frame!r}"
        message = json.loads(frame)
        assert isinstance(message, dict), message
        return message

    def send(self, message: Json | str | bytes) -> None:
        self.connection.send(json.dumps(message) if isinstance(message, dict) else message)

    def ask(self, message: Json | str | bytes) -> Json:
        """Send something and return the next message."""
        self.send(message)
        return self.receive()

    def ended(self, deadline: float = DEADLINE) -> tuple[list[Json], Closed]:
        """Return the messages until the server closes, and how it does."""
        messages: list[Json] = []
        end = time.monotonic() + deadline
        while True:
            try:
                messages.append(self.receive(max(0.0, end - time.monotonic())))
            except ConnectionClosed as error:
                return messages, Closed(error.rcvd.code, error.rcvd.reason) if error.rcvd else Closed(1006, "")

    def close(self) -> None:
        self.connection.close()


# How much a relay keeps for a side that is slower than the other.
_RELAYED = 1 << 16


def without_tls(tls: ssl.SSLSocket) -> socket.socket:
    """Return a plain socket whose other end a thread joins to a TLS connection; closing either ends both.

    ``websockets`` reads in one thread and writes in another, and Python (before 3.13 at the least) lets both into OpenSSL at
    once: now and then a request is lost, or the connection ends with UNEXPECTED_MESSAGE or an early EOF.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        plain = socket.create_connection(listener.getsockname())
        other, _ = listener.accept()
    threading.Thread(target=_relay, args=(tls, other), name="tls-relay", daemon=True).start()
    return plain


def _relay(tls: ssl.SSLSocket, plain: socket.socket) -> None:
    """Move bytes both ways until one side ends, then give the other what is left."""
    ends: dict[socket.socket, bytes] = {tls: b"", plain: b""}  # and what waits to be sent there
    waits = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
    with tls, plain:
        tls.setblocking(False)
        plain.setblocking(False)
        with contextlib.suppress(OSError):
            while _relay_once(tls, plain, ends, waits):
                pass
        for end, data in ends.items():
            with contextlib.suppress(OSError):
                end.settimeout(DEADLINE)
                end.sendall(data)


def _relay_once(
    tls: ssl.SSLSocket, plain: socket.socket, ends: dict[socket.socket, bytes], waits: tuple[type[OSError], ...]
) -> bool:
    """Move what can be moved now, or else wait until something can; False when one side has ended."""
    moved = False
    for source, target in ((tls, plain), (plain, tls)):
        if len(ends[target]) < _RELAYED:
            with contextlib.suppress(*waits):
                data = source.recv(_RELAYED)
                if not data:
                    return False
                ends[target] += data
                moved = True
        if ends[target]:
            with contextlib.suppress(*waits):
                sent = target.send(ends[target])
                ends[target] = ends[target][sent:]
                moved = moved or sent > 0
    if not moved:
        room = [source for source, target in ((tls, plain), (plain, tls)) if len(ends[target]) < _RELAYED]
        select.select(room, [end for end, data in ends.items() if data], [])
    return True


class Response(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Frame:
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
    opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, masked: bool = True, length: int | None = None
) -> bytes:
    """Return a client's frame; ``length`` lies about the payload's length."""
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
    mask = os.urandom(4)
    key = (mask * (len(payload) // 4 + 1))[: len(payload)]
    cover = int.from_bytes(payload, "little") ^ int.from_bytes(key, "little")
    return bytes(head) + mask + cover.to_bytes(len(payload), "little")


def deflate(data: bytes) -> bytes:
    """Return a message as permessage-deflate sends it (RFC 7692 section 7.2.1)."""
    engine = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (engine.compress(data) + engine.flush(zlib.Z_SYNC_FLUSH)).removesuffix(b"\x00\x00\xff\xff")


def inflate(data: bytes, window: int = 15) -> bytes:
    """Return the message in a compressed frame, read with a fresh window of so many bits."""
    engine = zlib.decompressobj(-window)
    return engine.decompress(data + b"\x00\x00\xff\xff")


class _Dropping(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


class Raw:
    """A bare TCP (or TLS) connection to a server; closed with a context or ``close``."""

    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None = None, *, receive_buffer: int = 0) -> None:
        self.host, self.port = host, port
        plain = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if receive_buffer:  # before connecting, or the window is larger by then
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        plain.settimeout(DEADLINE)
        try:
            plain.connect((host, port))
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.socket: socket.socket = plain if tls is None else tls.wrap_socket(plain, server_hostname=host)
        except BaseException:
            plain.close()
            raise
        self._buffer = b""
        #: The permessage-deflate answer of the server, if any.
        self.extensions = ""

    def __enter__(self) -> Raw:
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
        values: dict[str, str | None] = {
            "Host": f"{self.host}:{self.port}",
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
            "Sec-WebSocket-Version": "13",
        }
        values.update(headers or {})
        fields = [f"{name}: {value}" for name, value in values.items() if value is not None]
        return "\r\n".join([f"{method} {path} {version}", *fields, "", ""]).encode("latin-1")

    def open(self, path: str, headers: Mapping[str, str | None] | None = None) -> Response:
        """Ask for the upgrade; return the answer whatever it is."""
        self.send(self.handshake(path, headers))
        return self.response()

    def response(self) -> Response:
        """Read one HTTP answer; of a 101 only the head."""
        while b"\r\n\r\n" not in self._buffer:
            data = self._recv(65536)
            if not data:
                raise EOFError(f"the server closed after {self._buffer!r}")
            self._buffer += data
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        status, _, fields = head.partition(b"\r\n")
        headers = http.client.parse_headers(io.BytesIO(fields + b"\r\n\r\n"))
        self.extensions = headers.get("Sec-WebSocket-Extensions", "")
        code = int(status.split()[1])
        body = b""
        if code != 101:
            body = self._exactly(int(headers["Content-Length"])) if "Content-Length" in headers else self.rest()
        return Response(code, headers, body)

    # -- Frames

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def send_frame(self, opcode: int, payload: bytes = b"", **how: Any) -> None:
        self.send(make_frame(opcode, payload, **how))

    def send_json(self, message: Any) -> None:
        self.send_frame(TEXT, json.dumps(message).encode())

    def _exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            data = self._recv(65536)
            if not data:
                raise EOFError(f"the server closed; {len(self._buffer)} of {count} bytes came")
            self._buffer += data
        found, self._buffer = self._buffer[:count], self._buffer[count:]
        return found

    def frame(self, *, pings: bool = False) -> Frame:
        """Return the server's next frame, which must be a proper one; a heartbeat may come at any time and is left out."""
        while (frame := self._frame()).opcode == PING and not pings:
            continue
        return frame

    def _frame(self) -> Frame:
        first, second = self._exactly(2)
        assert not second & 0x80, "a server must not mask"
        assert not first & 0x30, "RSV2 and RSV3 mean nothing here"
        length = second & 0x7F
        try:
            if length >= 126:
                length = int.from_bytes(self._exactly(2 if length == 126 else 8), "big")
            payload = self._exactly(length)
        except (EOFError, ConnectionError) as error:
            raise AssertionError(f"the server cut a frame off: {error}") from error
        return Frame(first & 0x0F, payload, bool(first & 0x80), bool(first & 0x40))

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
                assert not self._buffer, f"a cut frame: {self._buffer[:100]!r}"
                return frames, Closed(1006, "")
            if frame.opcode == CLOSE:
                with contextlib.suppress(OSError):
                    self.send_frame(CLOSE, frame.payload[:2])
                assert self.rest() == b""
                self.close()  # a server may wait for that, lest its last words be lost
                return frames, frame.closed
            frames.append(frame)

    def rest(self) -> bytes:
        """Return everything until the server closes its side."""
        parts = [self._buffer]
        self._buffer = b""
        with contextlib.suppress(ConnectionError):
            while data := self._recv(65536):
                parts.append(data)
        return b"".join(parts)

    # -- Endings

    def _recv(self, size: int) -> bytes:
        try:
            return self.socket.recv(size)
        except ssl.SSLError:
            # A server answers a FIN without TLS's own goodbye with an alert: the end, like another.
            return b""

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
        program = _Dropping(1, ctypes.addressof(instruction))
        self.socket.setsockopt(socket.SOL_SOCKET, 26, bytes(program))  # SO_ATTACH_FILTER

    def close(self) -> None:
        self.socket.close()
