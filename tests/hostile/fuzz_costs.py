"""What the bytes of one client may cost: processor time, and memory, by what was fed in and by what answers it.

A whole connection is run in the caller's thread, from the parser to the commands and the hub that answers them, without a
socket. A failure that no single exception shows is one here: numbers that all have one hash, half a kilobyte that inflates to
half a megabyte of lists, a deflate stream that never ends.
"""

from __future__ import annotations

import functools
import threading
import time
import tracemalloc
from collections.abc import Callable
from typing import NamedTuple

from cartows import Client, Hub, Options, new_message
from cartows.client.connection import Connection
from cartows.client.transport import Transport
from tests.hostile.target import json_frame

# What any connection may cost, in seconds of processor time, and every byte of it in addition: a burst of the rate limit, each
# message with an answer, and JSON. Scaled by how slow this machine, or its instrumentation, is.
BASE_SECONDS, BYTE_SECONDS = 0.3, 1e-6

# The bound of a message where memory is measured; and how many bytes a connection may then occupy at once, whatever is sent to
# it: decoded JSON is about twenty times as large. And how many it may keep while it waits for more.
SMALL_MESSAGE = 256 * 1024
PEAK, KEPT = 8 << 20, SMALL_MESSAGE + 160 * 1024

# A cost in time counts when the fastest of so many runs exceeds it.
_RUNS = 3

_REPLY = b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"

_WAIT = 20.0

# Messages that make what every client shares: code that is loaded late, caches.
_FIRST = json_frame({"type": "subscribe", "data": {"board_id": ["b1"], "presence": {"name": "Ann"}}}) + json_frame(
    {"type": "x"}
)


class FedTransport(Transport):
    """A peer that sends the given bytes and then leaves; what it is sent is counted."""

    def __init__(self, data: bytes = b"") -> None:
        self.borrowed, self.fd = True, 0
        self._data, self._at = data, 0
        #: Called once when all has been read and handled.
        self.at_end: Callable[[], None] | None = None
        #: Called for each send.
        self.on_send: Callable[[bytes], None] | None = None
        #: How many bytes the server has sent.
        self.sent = 0

    def send(self, data: bytes) -> int:
        self.sent += len(data)
        if self.on_send is not None:
            self.on_send(data)
        return len(data)

    def receive(self, size: int) -> bytes:
        data = self._data[self._at : self._at + size]
        self._at += len(data)
        if not data and self.at_end is not None:
            at_end, self.at_end = self.at_end, None
            at_end()
        return data

    def wait_writable(self, timeout: float) -> bool:
        return True

    def hang_up(self) -> None:
        """Do nothing: there is no socket."""

    def shutdown(self) -> None:
        """Do nothing: there is no socket."""

    def close(self) -> None:
        self.fd = -1


class Stage:
    """A hub, and a witness by which the end of its work is known."""

    def __init__(self, options: Options) -> None:
        self.hub = Hub(options=options)
        self._seen = threading.Event()
        self._witness = FedTransport()
        self._enter(self._witness, "witness")
        self._witness.on_send = lambda data: self._seen.set() if b"fuzz.end" in data else None
        self.settle()

    def _enter(self, transport: FedTransport, name: str, reply: bytes = b"") -> Client:
        client = Client(self.hub, Connection(transport, threading.Lock(), self.hub.options, reply), name)
        self.hub.register_client(client)
        return client

    def settle(self) -> None:
        """Wait until the hub thread has done everything that was queued before."""
        self._seen.clear()
        self.hub.broadcast_message(new_message("fuzz.end", None))
        assert self._seen.wait(_WAIT), "the hub thread does not answer any more"

    def run(self, data: bytes, at_end: Callable[[], None] | None = None) -> int:
        """Serve one connection to its end; return how many bytes were sent to it."""
        transport = FedTransport(data)

        def end() -> None:
            self.settle()
            if at_end is not None:
                at_end()

        transport.at_end = end
        client = self._enter(transport, "fuzzed", _REPLY)
        client.read_pump()
        self.settle()
        return transport.sent


@functools.cache
def _stage(max_message_size: int) -> Stage:
    # One event in the history: what events occupy is not what is measured.
    return Stage(Options(max_message_size=max_message_size, history_size=1))


def close() -> None:
    """Shut the hubs down; the next measurement makes others."""
    for size in (Options().max_message_size, SMALL_MESSAGE):
        _stage(size).hub.shutdown(0.5)
    _stage.cache_clear()


class Costs(NamedTuple):
    """What the bytes of one connection cost."""

    size: int
    seconds: float
    peak: int
    kept: int

    def problems(self) -> list[str]:
        """Return which bounds are exceeded."""
        found, allowed = [], (BASE_SECONDS + BYTE_SECONDS * self.size) * slowness()
        if self.seconds > allowed:
            found.append(f"{self.size} bytes cost {self.seconds:.2f} s of processor time, over {allowed:.2f}")
        if self.peak > PEAK:
            found.append(f"{self.size} bytes took {self.peak:,} bytes of memory at once, over {PEAK:,}")
        if self.kept > KEPT:
            found.append(f"{self.size} bytes keep {self.kept:,} bytes of memory, over {KEPT:,}")
        return found


@functools.cache
def slowness() -> float:
    """Return how much slower than a common processor this one runs Python, as it is instrumented here; 1 at least."""

    def spin() -> float:
        began, total = time.thread_time(), 0
        for number in range(200_000):
            total += len(str(number)) & 1
        return time.thread_time() - began

    return max(1.0, min(spin() for _ in range(3)) / 0.03)


def measure(data: bytes) -> Costs:
    """Serve the bytes with the default options for the time, and with small ones for the memory."""
    stage, small = _stage(Options().max_message_size), _stage(SMALL_MESSAGE)
    seconds = _seconds(stage, data)
    for _ in range(_RUNS - 1):
        if seconds <= (BASE_SECONDS + BYTE_SECONDS * len(data)) * slowness():
            break
        seconds = min(seconds, _seconds(stage, data))
    small.run(_FIRST)  # what is made once is no cost of these bytes
    kept = 0

    def at_end() -> None:
        nonlocal kept
        kept = tracemalloc.get_traced_memory()[0]

    traced = tracemalloc.is_tracing()
    if not traced:
        tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        small.run(data, at_end)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        if not traced:
            tracemalloc.stop()
    return Costs(len(data), seconds, peak - before, max(0, kept - before))


def _seconds(stage: Stage, data: bytes) -> float:
    began = time.process_time()
    stage.run(data)
    return time.process_time() - began


def conversation(data: bytes) -> None:
    """A connection costs no more than its bytes may, and the hub answers others afterwards."""
    found = measure(data)
    assert not found.problems(), found.problems()
