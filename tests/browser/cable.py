"""A network cable between browsers and a server, which can be cut or frozen."""

from __future__ import annotations

import contextlib
import queue
import selectors
import socket
import struct
import threading
from collections.abc import Callable

from tests.support.harness import HOST
from tests.support.waiting import DEADLINE

# With this linger option a closed socket sends RST, not FIN.
_RESET = struct.pack("ii", 1, 0)

# How many bytes are buffered for a side that does not read; then the other is not read either.
_BUFFER = 1 << 18


class _End:
    """One of the two sockets of a connection."""

    def __init__(self, sock: socket.socket, *, server: bool = False) -> None:
        self.socket = sock
        self.server = server
        self.other: _End = self
        # The bytes that wait to be sent here, and whether no more will follow.
        self.rest = bytearray()
        self.last = False
        # Whether this side has sent FIN.
        self.ended = False


class Cable:
    """A relay: joins every connection to ``port`` with one of its own to a server's port.

    Threads: one of its own moves the bytes and owns all state but ``mode``; the methods are for one other thread.
    """

    def __init__(self, server: int) -> None:
        self._server = server
        self._listener = socket.create_server((HOST, 0), backlog=100)
        #: The port that browsers connect to.
        self.port: int = self._listener.getsockname()[1]
        #: ``through``, ``cut``, or ``frozen``.
        self.mode = "through"
        #: How many bytes have come from the server, and how many connections have been accepted.
        self.carried = 0
        self.accepted = 0
        self._ends: set[_End] = set()
        self._jobs: queue.SimpleQueue[tuple[Callable[[], None] | None, threading.Event]] = queue.SimpleQueue()
        # A wakeup pipe, which makes the thread run its jobs.
        self._wakeup, self._waker = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._thread = threading.Thread(target=self._run, name="cable", daemon=True)
        self._thread.start()

    def cut(self) -> None:
        """Reset every connection, now and until ``restore``."""
        self._do(self._cut)

    def freeze(self) -> None:
        """Let nothing through: connections stay open, and new ones are accepted, but no byte arrives."""
        self._do(lambda: setattr(self, "mode", "frozen"))

    def restore(self) -> None:
        """Carry bytes again, those of frozen connections included."""
        self._do(lambda: setattr(self, "mode", "through"))

    def close(self) -> None:
        """Reset every connection, and stop."""
        self._do(None)
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive(), "the cable's thread did not end"

    def _do(self, job: Callable[[], None] | None) -> None:
        """Run a job in the thread, and wait until it is done."""
        done = threading.Event()
        self._jobs.put((job, done))
        self._waker.send(b"!")
        assert done.wait(DEADLINE), "the cable's thread did not run the job"

    def _cut(self) -> None:
        self.mode = "cut"
        for end in list(self._ends):
            self._drop(end)

    def _run(self) -> None:
        with self._listener, self._wakeup, self._waker, self._selector:
            self._selector.register(self._wakeup, selectors.EVENT_READ)
            self._selector.register(self._listener, selectors.EVENT_READ)
            while self._work():
                pass
            self._cut()

    def _work(self) -> bool:
        self._watch()
        for key, events in self._selector.select():
            if key.fileobj is self._wakeup:
                self._wakeup.recv(4096)
            elif key.fileobj is self._listener:
                self._accept()
            elif key.data in self._ends and self.mode == "through":
                self._carry(key.data, events)
        while not self._jobs.empty():
            job, done = self._jobs.get()
            if job is not None:
                job()
            done.set()
            if job is None:
                return False
        return True

    def _watch(self) -> None:
        """Register each socket for what can be done with it now."""
        for end in self._ends:
            events = 0
            if self.mode == "through":
                if not end.ended and len(end.other.rest) < _BUFFER:
                    events |= selectors.EVENT_READ
                if end.rest:
                    events |= selectors.EVENT_WRITE
            known = self._selector.get_map().get(end.socket)
            if known is None and events:
                self._selector.register(end.socket, events, end)
            elif known is not None and not events:
                self._selector.unregister(end.socket)
            elif known is not None and known.events != events:
                self._selector.modify(end.socket, events, end)

    def _accept(self) -> None:
        sock, _ = self._listener.accept()
        self.accepted += 1
        try:
            if self.mode == "cut":
                raise ConnectionResetError
            ends = _End(sock), _End(socket.create_connection((HOST, self._server), DEADLINE), server=True)
        except OSError:
            _reset(sock)
            return
        for end, other in (ends, ends[::-1]):
            end.other = other
            end.socket.setblocking(False)
            # Otherwise a small frame may wait for the answer to the one before it.
            end.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._ends.update(ends)

    def _carry(self, end: _End, events: int) -> None:
        try:
            if events & selectors.EVENT_WRITE:
                del end.rest[: end.socket.send(end.rest)]
            if events & selectors.EVENT_READ:
                data = end.socket.recv(65536)
                end.other.rest += data
                end.ended = end.other.last = not data
                if end.server:
                    self.carried += len(data)
            for side in (end, end.other):
                if side.last and not side.rest:
                    side.socket.shutdown(socket.SHUT_WR)
                    side.last = False
            if end.ended and end.other.ended and not end.rest and not end.other.rest:
                self._drop(end, reset=False)
        except BlockingIOError:
            pass
        except OSError:
            self._drop(end)

    def _drop(self, end: _End, *, reset: bool = True) -> None:
        for side in (end, end.other):
            if side in self._ends:
                self._ends.remove(side)
                if side.socket in self._selector.get_map():
                    self._selector.unregister(side.socket)
                _reset(side.socket) if reset else side.socket.close()


def _reset(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    sock.close()
