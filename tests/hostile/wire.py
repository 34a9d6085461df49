"""A client without manners: any bytes over a socket, with nothing but the standard library."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import socket
import ssl
import struct
import time
import zlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple
from urllib.parse import urlsplit

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10

# How long a server may take over anything, in seconds; nothing that works comes near it.
PATIENCE = 20.0

# What ended a conversation without a close frame, and what has not ended it.
GONE, SILENT = "gone", "silent"

Headers = list[tuple[str, str]]


class Target(NamedTuple):
    """The endpoint that is attacked, and what well-behaved clients send to be let in."""

    host: str
    port: int
    path: str = "/ws"
    tls: bool = False
    headers: tuple[tuple[str, str], ...] = ()
    #: Whether an upgrade without, or with a bad, token is to be refused.
    guarded: bool = False
    #: Tokens that must let nobody in, beside those that are none at all.
    forged: tuple[str, ...] = ()

    @classmethod
    def of(cls, url: str, headers: Iterable[tuple[str, str]] = ()) -> Target:
        """Read ``ws://HOST[:PORT]/PATH`` or ``wss://...``. Raises ValueError."""
        parts = urlsplit(url)
        if parts.scheme not in ("ws", "wss") or not parts.hostname:
            raise ValueError(f"{url!r} is no address of a WebSocket: ws://HOST[:PORT]/PATH is")
        tls = parts.scheme == "wss"
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return cls(parts.hostname, parts.port or (443 if tls else 80), path, tls, tuple(headers))

    def at(self, query: str) -> str:
        """Return the path with more in its query."""
        return f"{self.path}{'&' if '?' in self.path else '?'}{query}"

    def handshake(self) -> Headers:
        """Return the headers of a proper opening handshake."""
        return [
            ("Host", f"{self.host}:{self.port}"),
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Key", base64.b64encode(os.urandom(16)).decode()),
            ("Sec-WebSocket-Version", "13"),
            *self.headers,
        ]

    def http(self, method: str, path: str, body: Any = None, timeout: float = PATIENCE) -> int:
        """Make one HTTP request and return its status. Raises OSError and HTTPException."""
        made = http.client.HTTPSConnection if self.tls else http.client.HTTPConnection
        with contextlib.closing(made(self.host, self.port, timeout=timeout)) as connection:
            headers = {"Connection": "close", "Content-Type": "application/json", **dict(self.headers)}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            answer.read()
            return answer.status


def request(headers: Iterable[tuple[str, str]], path: str, method: str = "GET", version: str = "HTTP/1.1") -> bytes:
    """Return the bytes of a request."""
    lines = [f"{method} {path} {version}", *(f"{name}: {value}" for name, value in headers), "", ""]
    return "\r\n".join(lines).encode("latin-1", "replace")


def frame(
    opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, masked: bool = True, length: int | None = None
) -> bytes:
    """Return a client's frame; ``length`` is what it says of its payload, true or not."""
    said = len(payload) if length is None else length
    head = bytearray([(0x80 if fin else 0) | rsv << 4 | opcode])
    flag = 0x80 if masked else 0
    if said < 126:
        head.append(flag | said)
    else:
        head += struct.pack("!BH", flag | 126, said) if said < 65536 else struct.pack("!BQ", flag | 127, said)
    # A mask of zeros is a mask, and leaves the payload as it is.
    return bytes(head) + (bytes(4) if masked else b"") + payload


def deflated(data: bytes) -> bytes:
    """Return a message as permessage-deflate sends it."""
    engine = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (engine.compress(data) + engine.flush(zlib.Z_SYNC_FLUSH)).removesuffix(b"\x00\x00\xff\xff")


def said(message: Any) -> bytes:
    """Return a JSON message in a frame."""
    return frame(TEXT, json.dumps(message).encode())


class Wire:
    """One connection; it closes with a context, and by RST where it is told to vanish."""

    def __init__(self, target: Target, *, receive_buffer: int = 0) -> None:
        self.target = target
        plain = socket.socket(socket.AF_INET6 if ":" in target.host else socket.AF_INET)
        try:
            if receive_buffer:  # before connecting, or the window is larger by then
                plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            plain.settimeout(PATIENCE)
            plain.connect((target.host, target.port))
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.socket = ssl.create_default_context().wrap_socket(plain, server_hostname=target.host) if target.tls else plain
        except BaseException:
            plain.close()
            raise
        self._buffer = b""
        #: The types of the server's messages, and what its errors are called.
        self.heard: list[str] = []

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> bool:
        """Send all of it; False when the server takes no more."""
        try:
            self.socket.sendall(data)
        except OSError:
            return False
        return True

    def vanish(self) -> None:
        """Leave with RST."""
        with contextlib.suppress(OSError):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def finish(self) -> None:
        """Send FIN and go on reading."""
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self.socket, socket.SHUT_WR)

    def open(self, headers: Headers | None = None, path: str | None = None) -> str:
        """Ask for the upgrade, a proper one where no other headers are given; return the status."""
        self.send(request(headers or self.target.handshake(), path or self.target.path))
        return self.status()

    def status(self, patience: float = PATIENCE) -> str:
        """Return the status of the server's answer, or how it ended without one."""
        end = time.monotonic() + patience
        while b"\r\n\r\n" not in self._buffer:
            ended = self._more(end)
            if ended:
                return ended
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        return head[9:12].decode("latin-1")

    def ending(self, patience: float = PATIENCE) -> str:
        """Read until the server closes: ``close CODE``, ``gone`` without a close frame, ``silent`` when it does not."""
        end = time.monotonic() + patience
        while True:
            for opcode, payload in self._frames():
                if opcode == CLOSE:
                    return f"close {int.from_bytes(payload[:2], 'big') if payload else 1005}"
                self._note(opcode, payload)
            ended = self._more(end)
            if ended:
                return ended

    def messages(self) -> Iterator[dict[str, Any]]:
        """Give the server's uncompressed messages until it closes. Raises TimeoutError after PATIENCE without one."""
        while True:
            for opcode, payload in self._frames():
                if opcode == CLOSE:
                    return
                if opcode == TEXT:
                    yield json.loads(payload)
            ended = self._more(time.monotonic() + PATIENCE)
            if ended == SILENT:
                raise TimeoutError(f"the server said nothing for {PATIENCE} s")
            if ended:
                return

    def _note(self, opcode: int, payload: bytes) -> None:
        if opcode == TEXT:
            try:
                message = json.loads(payload)
            except ValueError:
                # What is long is compressed for who offered that.
                return
            data = message.get("data")
            self.heard.append(str(data["code"]) if message["type"] == "error" else str(message["type"]))

    def _frames(self) -> Iterator[tuple[int, bytes]]:
        while len(self._buffer) >= 2:
            length, head = self._buffer[1] & 0x7F, 2
            if length >= 126:
                head += 2 if length == 126 else 8
                if len(self._buffer) < head:
                    return
                length = int.from_bytes(self._buffer[2:head], "big")
            if len(self._buffer) < head + length:
                return
            opcode, payload = self._buffer[0] & 15, self._buffer[head : head + length]
            self._buffer = self._buffer[head + length :]
            yield opcode, payload

    def _more(self, end: float) -> str:
        """Read some more by then; return how it ended, where it did."""
        try:
            self.socket.settimeout(max(0.001, end - time.monotonic()))
            data = self.socket.recv(65536)
        except TimeoutError:
            return SILENT
        except OSError:
            return GONE
        self._buffer += data
        return "" if data else GONE
