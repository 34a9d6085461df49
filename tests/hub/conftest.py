"""Clients of a hub on socket pairs in this process, for the tests of the hub."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from cartows import Client, Hub, Options
from cartows.client.connection import Connection
from cartows.client.transport import PlainTransport
from tests.support.harness import epoch_and_number
from tests.support.raw_client import CLOSE, PING, PONG, TEXT, RawClient


class Peer:
    """The browser's end of a client's socket pair."""

    def __init__(self, sock: socket.socket, client: Client) -> None:
        sock.settimeout(10)
        self.sock = sock
        self.client = client
        self._raw = RawClient.on(sock)

    def frame(self) -> tuple[int, bytes]:
        """Return the next frame's opcode and payload; fails when none comes."""
        frame = self._raw.frame(pings=True)
        return frame.opcode, frame.payload

    def message(self) -> dict[str, Any]:
        """Return the next message, skipping pings."""
        while True:
            opcode, payload = self.frame()
            if opcode == TEXT:
                found: dict[str, Any] = json.loads(payload)
                return found
            assert opcode in (PING, PONG), f"opcode {opcode}: {payload!r}"

    def close_code(self) -> int:
        """Return the code of the close frame, skipping what comes before it."""
        while True:
            opcode, payload = self.frame()
            if opcode == CLOSE:
                return int.from_bytes(payload[:2], "big")

    def send_text(self, text: str, opcode: int = TEXT) -> None:
        self._raw.send_frame(opcode, text.encode())

    def is_silent(self) -> bool:
        return not self._raw.has_arrived()


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
            connection = Connection(PlainTransport(mine), threading.Lock(), hub.options, budget=hub.queue_budget)
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


def number(message: dict[str, Any]) -> int:
    """Return the number in a message's id."""
    return epoch_and_number(message["id"])[1]
