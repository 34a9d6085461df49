"""What is attacked, and the attackers' client, which reports how the server ended its connection."""

from __future__ import annotations

import contextlib
import functools
import http.client
import json
import ssl
import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from tests.support.raw_client import (
    CLOSE,
    TEXT,
    Frame,
    IncompleteFrame,
    RawClient,
    make_frame,
    make_request,
    upgrade_headers,
)

# How long a server may take over anything, in seconds; nothing that works comes near it.
WAIT_LIMIT = 20.0

# How a connection ended without a close frame, and that it has not ended.
GONE, SILENT = "gone", "silent"

Headers = list[tuple[str, str]]

#: The header that offers compression.
DEFLATE = ("Sec-WebSocket-Extensions", "permessage-deflate")

#: A frame with a mask of zeros, which leaves the payload as it is: the same arguments always make the same bytes.
frame = functools.partial(make_frame, mask=bytes(4))


def json_frame(message: Any) -> bytes:
    """Return a JSON message in a frame."""
    return frame(TEXT, json.dumps(message).encode())


class Target(NamedTuple):
    """The endpoint that is attacked, and what well-behaved clients send to be admitted."""

    host: str
    port: int
    path: str = "/ws"
    tls: bool = False
    headers: tuple[tuple[str, str], ...] = ()
    #: Whether an upgrade without a token, or with a bad one, is to be refused.
    guarded: bool = False
    #: Tokens that must be refused, beside those that are none at all.
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
        return [*upgrade_headers(self.host, self.port), *self.headers]

    def http(self, method: str, path: str, body: Any = None, timeout: float = WAIT_LIMIT) -> int:
        """Make one HTTP request and return its status. Raises OSError and HTTPException."""
        made = http.client.HTTPSConnection if self.tls else http.client.HTTPConnection
        with contextlib.closing(made(self.host, self.port, timeout=timeout)) as connection:
            headers = {"Connection": "close", "Content-Type": "application/json", **dict(self.headers)}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            answer.read()
            return answer.status


class AttackClient(RawClient):
    """One connection to a target. It returns how things ended where a ``RawClient`` raises."""

    def __init__(self, target: Target, *, receive_buffer: int = 0) -> None:
        tls = ssl.create_default_context() if target.tls else None
        self.target = target
        # When waiting ends, on the monotonic clock.
        self._end = time.monotonic() + WAIT_LIMIT
        super().__init__(target.host, target.port, tls, receive_buffer=receive_buffer)
        self.socket.settimeout(WAIT_LIMIT)
        #: The types of the server's messages, and the codes of its errors.
        self.received: list[str] = []

    def __enter__(self) -> AttackClient:
        return self

    def try_send(self, data: bytes) -> bool:
        """Send all of it; return False when the server takes no more."""
        try:
            self.send(data)
        except OSError:
            return False
        return True

    def reset(self) -> None:
        """Vanish with RST, also from a connection that has ended."""
        with contextlib.suppress(OSError):
            super().reset()
        self.close()

    def finish(self) -> None:
        """Send FIN and go on reading; an ended connection is left as it is."""
        with contextlib.suppress(OSError):
            super().finish()

    def upgrade(self, headers: Headers | None = None, path: str | None = None) -> str:
        """Ask for the upgrade, a proper one where no other headers are given; return the status."""
        self.try_send(make_request(path or self.target.path, headers or self.target.handshake()))
        return self.status()

    def status(self, wait_limit: float = WAIT_LIMIT) -> str:
        """Return the status of the server's answer, or how the connection ended without one."""
        self._end = time.monotonic() + wait_limit
        try:
            return self._head()[9:12].decode("latin-1")
        except TimeoutError:
            return SILENT
        except (OSError, EOFError):
            return GONE

    def ending(self, wait_limit: float = WAIT_LIMIT) -> str:
        """Read until the server closes: ``close CODE``, ``gone`` without a close frame, ``silent`` when it does not."""
        self._end = time.monotonic() + wait_limit
        try:
            while (found := self.frame()).opcode != CLOSE:
                self._record(found)
        except TimeoutError:
            return SILENT
        except (OSError, EOFError, IncompleteFrame):
            return GONE
        return f"close {found.closed.code}"

    def messages(self) -> Iterator[dict[str, Any]]:
        """Yield the server's uncompressed messages until it closes. Raises TimeoutError after WAIT_LIMIT without one."""
        while True:
            self._end = time.monotonic() + WAIT_LIMIT
            try:
                found = self.frame()
            except TimeoutError:
                raise TimeoutError(f"the server sent nothing for {WAIT_LIMIT} s") from None
            except (OSError, EOFError, IncompleteFrame):
                return
            if found.opcode == CLOSE:
                return
            if found.opcode == TEXT:
                yield found.json

    def _record(self, found: Frame) -> None:
        # A long message is compressed for a client that offered that; no attack needs to know what it is.
        if found.opcode == TEXT and not found.compressed:
            message = found.json
            self.received.append(str(message["data"]["code"]) if message["type"] == "error" else str(message["type"]))

    def _recv(self, size: int) -> bytes:
        self.socket.settimeout(max(0.001, self._end - time.monotonic()))
        return super()._recv(size)


def open_client(target: Target, *more: tuple[str, str], receive_buffer: int = 0, path: str | None = None) -> AttackClient:
    """Return a connection that was upgraded. Raises ConnectionError where that was refused."""
    client = AttackClient(target, receive_buffer=receive_buffer)
    status = client.upgrade([*target.handshake(), *more], path)
    if status != "101":
        client.reset()
        raise ConnectionRefusedError(status)
    return client
