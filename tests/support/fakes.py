"""Fakes of a socket and of a connection's owner, for unit tests."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from cartows.client.connection import Connection
from cartows.client.transport import PlainTransport, Transport
from cartows.options import Options
from cartows.websocket.frames import Frame


class ScriptedTransport(Transport):
    """A transport that accepts of each send as much as the test says, and records it."""

    def __init__(self) -> None:
        self.borrowed = True
        self.fd = 0
        #: How many bytes each coming send accepts; all of them once the list is empty. An OSError is raised.
        self.takes: list[int | OSError] = []
        self.taken = b""
        self.sends: list[bytes] = []
        self.was_shut_down = threading.Event()
        self.room = threading.Event()
        #: The send lock of the connection, to check that a sender holds it and a waiting writer does not.
        self.lock: threading.Lock | None = None
        self.broken_rules: list[str] = []

    def send(self, data: bytes) -> int:
        if self.lock is not None and not self.lock.locked():
            self.broken_rules.append("sent without the send lock")
        self.sends.append(data)
        take = self.takes.pop(0) if self.takes else len(data)
        if isinstance(take, OSError):
            raise take
        take = min(take, len(data))
        self.taken += data[:take]
        return take

    def wait_writable(self, timeout: float) -> bool:
        """Wait until the test sets ``room``."""
        if self.lock is not None:
            if not self.lock.acquire(timeout=5):
                self.broken_rules.append("waited for room while the send lock was held")
            else:
                self.lock.release()
        return self.room.wait(timeout) or self.was_shut_down.is_set()

    def shutdown(self) -> None:
        self.was_shut_down.set()
        self.room.set()

    def close(self) -> None:
        self.fd = -1


class RecordingOwner:
    """An owner that records what a connection asks for."""

    def __init__(self) -> None:
        self.writers_wanted = 0
        self.closing_within: list[float] = []
        self.overflows = 0

    def start_writer(self) -> None:
        self.writers_wanted += 1

    def closing_begun(self, within: float) -> None:
        self.closing_within.append(within)

    def overflow(self) -> None:
        self.overflows += 1

    def incomplete_frame(self, number: int) -> Frame:
        return Frame(f"lost up to {number}".encode())


def scripted(options: Options | None = None, *, opened: bool = True) -> tuple[Connection, ScriptedTransport, RecordingOwner]:
    """Return a connection on a scripted transport, opened without a greeting."""
    transport, lock, owner = ScriptedTransport(), threading.Lock(), RecordingOwner()
    transport.lock = lock
    connection = Connection(transport, lock, options or Options())
    connection.owner = owner
    if opened:
        connection.open(None)
    return connection, transport, owner


@contextmanager
def on_sockets(options: Options | None = None, *, buffer: int | None = None) -> Iterator[tuple[Connection, socket.socket]]:
    """Yield a connection on one end of a real socket pair, and the other end."""
    mine, theirs = socket.socketpair()
    if buffer is not None:
        mine.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
    theirs.settimeout(10)
    connection = Connection(PlainTransport(mine), threading.Lock(), options or Options())
    connection.owner = RecordingOwner()
    try:
        yield connection, theirs
    finally:
        theirs.close()
        if not connection.closed:
            connection.finish()


@contextmanager
def writing(connection: Connection) -> Iterator[threading.Thread]:
    """Run a connection's write pump in a thread for as long as the context lasts."""
    assert connection.claim_writer()
    thread = threading.Thread(target=connection.write_pump, name="writer")
    thread.start()
    try:
        yield thread
    finally:
        connection.abort()
        thread.join(10)
        assert not thread.is_alive()
