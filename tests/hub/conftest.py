"""Clients of a hub on socket pairs in this process, for the tests of the hub."""

from __future__ import annotations

import json
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from cartows import Client, Hub, Options
from cartows.client.connection import Connection
from cartows.client.transport import PlainTransport


class Peer:
    """The browser's end of a client's socket pair."""

    def __init__(self, sock: socket.socket, client: Client) -> None:
        self.sock = sock
        self.client = client
        self.buffer = b""
        sock.settimeout(10)

    def frame(self) -> tuple[int, bytes]:
        """Return the next frame's opcode and payload; fails when none comes."""
        while True:
            if len(self.buffer) >= 2:
                length, head = self.buffer[1] & 127, 2
                if length == 126:
                    length, head = int.from_bytes(self.buffer[2:4], "big"), 4
                elif length == 127:
                    length, head = int.from_bytes(self.buffer[2:10], "big"), 10
                if len(self.buffer) >= head + length:
                    opcode, payload = self.buffer[0] & 15, self.buffer[head : head + length]
                    self.buffer = self.buffer[head + length :]
                    return opcode, payload
            data = self.sock.recv(65536)
            assert data, "the connection ended"
            self.buffer += data

    def message(self) -> dict[str, Any]:
        """Return the next message, skipping pings."""
        while True:
            opcode, payload = self.frame()
            if opcode == 1:
                found: dict[str, Any] = json.loads(payload)
                return found
            assert opcode in (9, 10), f"opcode {opcode}: {payload!r}"

    def close_code(self) -> int:
        """Return the code of the close frame, skipping what comes before it."""
        while True:
            opcode, payload = self.frame()
            if opcode == 8:
                return int.from_bytes(payload[:2], "big")

    def send_text(self, text: str, opcode: int = 1) -> None:
        data = text.encode()
        assert len(data) < 126
        self.sock.sendall(bytes((0x80 | opcode, 0x80 | len(data), 0, 0, 0, 0)) + data)

    def is_silent(self) -> bool:
        return not self.buffer and not select.select([self.sock], [], [], 0)[0]


Join = Callable[..., Peer]


@pytest.fixture
def hubs() -> Iterator[Callable[..., Hub]]:
    made: list[Hub] = []

    def make(**settings: Any) -> Hub:
        made.append(Hub(options=Options(**settings)))
        return made[-1]

    yield make
    for hub in made:
        hub.shutdown(0.2)


@pytest.fixture
def join() -> Iterator[Join]:
    """Connect a client to a hub as the handler does, without the HTTP."""
    with ExitStack() as stack:
        threads: list[threading.Thread] = []

        def connect(hub: Hub, kind: type[Client] = Client, greet: bool = True, **filters: Any) -> Peer:
            mine, theirs = socket.socketpair()
            connection = Connection(PlainTransport(mine), threading.Lock(), hub.options)
            client = kind(hub, connection, f"client-{len(threads)}")
            for key, value in filters.items():
                client.set_filter(key, value)
            thread = threading.Thread(target=client.read_pump, name="reader")
            threads.append(thread)
            thread.start()
            hub.register_client(client)
            peer = Peer(theirs, client)
            stack.callback(theirs.close)
            if greet and hub.options.greeting:
                assert peer.message()["type"] == "connected"
            return peer

        yield connect
        stack.close()
        for thread in threads:
            thread.join(10)
            assert not thread.is_alive()


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it did not happen within 10 s"
        threading.Event().wait(0.001)


def number(message: dict[str, Any]) -> int:
    """Return the number in a message's id."""
    return int(message["id"].split(".")[1])
