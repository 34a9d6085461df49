"""One timer for all clients of a hub: pings, silent peers, closings that nobody answers, and the start of writers.

Threads: one, made by ``start``; the other methods on any thread.
Locks: ``_lock`` guards the schedule. It is a leaf: nothing else is taken while it is held.
Blocks: the heartbeat thread on its timer; nothing else.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial

from ..client.client import Client
from ..websocket.close_codes import CloseCode

__all__ = ["Heartbeat"]

# Clients that are due within this are served in one turn.
_SLACK = 0.02

# How often credentials are looked at that expire later: the wall clock, which they go by, may be set.
_MAX_LOOK = 30.0

# How often a writer is tried to be started that could not be.
_WRITER_RETRY = 0.5

# An app may close a dead peer's connection, but it will not answer: it is given this long to read the close frame.
_SILENT_WAIT = 1.0


class _Beat:
    """Hold what is due for one client; changed by the heartbeat thread, and by ``watch`` under the lock."""

    __slots__ = ("abort_at", "client", "look_at", "next_ping")

    def __init__(self, client: Client, next_ping: float) -> None:
        self.client = client
        self.next_ping = next_ping
        self.abort_at = float("inf")
        #: When its credentials are looked at at the latest, by an entry of the heap.
        self.look_at = float("inf")


class Heartbeat:
    """Keep the time for the clients of one hub."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._lock = threading.Lock()
        self._wakeup = threading.Condition(self._lock)
        self._thread: threading.Thread | None = None
        self._stopped = False
        self._serial = itertools.count()
        # Entries name a beat by number: what is left of a client that has gone is two numbers, until its time comes.
        self._heap: list[tuple[float, int]] = []
        self._beats: dict[int, _Beat] = {}
        self._numbers: dict[Client, int] = {}
        self._writers: deque[Client] = deque()
        #: What else is to be called, by negative numbers: each returns after how many seconds it wants to be called again.
        self._calls: dict[int, Callable[[], float | None]] = {}

    def start(self) -> None:
        """Start the thread, once."""
        with self._lock:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="cartows-heartbeat", daemon=True)
                thread.start()
                self._thread = thread

    def stop(self, timeout: float) -> None:
        """End the thread and wait for it ``timeout`` seconds at most."""
        with self._lock:
            self._stopped = True
            self._wakeup.notify_all()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(max(0.0, timeout))

    def add(self, client: Client) -> None:
        """Ping a client from now on; the first ping comes at a random moment, so that a storm of connects does not echo."""
        period = client.connection.options.ping_period
        with self._lock:
            self._schedule_locked(client, time.monotonic() + random.uniform(0, period), None)
        self.look_at(client)

    def look_at(self, client: Client) -> None:
        """See that a client whose credentials expire is looked at in time."""
        left = client.authorization.expires_in()
        if left is not None:
            with self._lock:
                number = self._numbers.get(client)
                look_at = time.monotonic() + min(max(0.0, left), _MAX_LOOK)
                # An entry that is due before will find the time that is left then.
                if number is not None and look_at < self._beats[number].look_at:
                    self._beats[number].look_at = look_at
                    self._push_locked(look_at, number)

    def watch(self, client: Client, abort_at: float) -> None:
        """Abort a client's connection at that monotonic time, unless it has ended by then."""
        with self._lock:
            self._schedule_locked(client, float("inf"), abort_at)

    def discard(self, client: Client) -> None:
        """Forget a client."""
        with self._lock:
            number = self._numbers.pop(client, None)
            if number is not None:
                del self._beats[number]

    def start_writer(self, client: Client) -> None:
        """Give a client its writer thread."""
        with self._lock:
            self._writers.append(client)
            self._wakeup.notify()

    def check_every(self, period: float, check: Callable[[], bool]) -> None:
        """Call ``check`` every so many seconds for as long as it returns True."""
        self._call_at(time.monotonic() + period, lambda: period if check() else None)

    def call_at(self, when: float, call: Callable[[], None]) -> None:
        """Call something once, at a monotonic time or a moment before it."""
        self._call_at(when, call)

    def _call_at(self, when: float, call: Callable[[], float | None]) -> None:
        with self._lock:
            number = -1 - next(self._serial)
            self._calls[number] = call
            self._push_locked(when, number)

    def _schedule_locked(self, client: Client, next_ping: float, abort_at: float | None) -> None:
        number = self._numbers.get(client)
        if number is None:
            number = self._numbers[client] = next(self._serial)
            self._beats[number] = _Beat(client, next_ping)
        beat = self._beats[number]
        if abort_at is not None:
            beat.abort_at = min(beat.abort_at, abort_at)
        else:
            beat.next_ping = next_ping
        self._push_locked(min(beat.next_ping, beat.abort_at), number)

    def _push_locked(self, due: float, number: int) -> None:
        if due == float("inf"):
            return
        heapq.heappush(self._heap, (due, number))
        if self._heap[0][1] == number:
            self._wakeup.notify()

    def _run(self) -> None:
        while True:
            with self._lock:
                now = time.monotonic()
                while not self._stopped and not self._writers and not (self._heap and self._heap[0][0] <= now + _SLACK):
                    self._wakeup.wait(self._heap[0][0] - now if self._heap else None)
                    now = time.monotonic()
                if self._stopped:
                    return
                writers, self._writers = self._writers, deque()
                due: set[int] = set()
                while self._heap and self._heap[0][0] <= now + _SLACK:
                    due.add(heapq.heappop(self._heap)[1])
            for client in writers:
                self._guard(self._start_writer_thread, client)
            for number in due:
                self._guard(self._serve, number)

    def _guard(self, action: Callable[..., None], *arguments: object) -> None:
        try:
            action(*arguments)
        except Exception:
            self._logger.exception("cartows: the heartbeat failed for one client and goes on with the others")

    def _start_writer_thread(self, client: Client) -> None:
        connection = client.connection
        if not connection.claim_writer():
            return
        try:
            threading.Thread(target=client.write_pump, name=f"cartows-writer-{client.id}", daemon=True).start()
        except Exception as error:
            # No thread to be had, or the interpreter is about to end and ``shutdown`` will send what waits.
            connection.unclaim_writer()
            self._logger.warning("cartows: no thread for the writer of client %s yet: %s", client.id, error)
            give_up = time.monotonic() + connection.options.write_wait
            self.check_every(_WRITER_RETRY, partial(self._retry_writer, client, give_up))

    def _retry_writer(self, client: Client, give_up: float) -> bool:
        connection = client.connection
        if connection.flush(0) or not connection.claim_writer():
            return False
        try:
            threading.Thread(target=client.write_pump, name=f"cartows-writer-{client.id}", daemon=True).start()
        except Exception:
            connection.unclaim_writer()
            if time.monotonic() < give_up:
                return True
            connection.abort(CloseCode.SERVER_ERROR, "no thread could be started for its writer")
        return False

    def _serve(self, number: int) -> None:
        if number < 0:
            self._call(number)
            return
        with self._lock:
            beat = self._beats.get(number)
        if beat is None:
            return
        if beat.client.connection.closed:
            # Its last news came when it had already been forgotten.
            self.discard(beat.client)
            return
        due = self._beat(beat, time.monotonic())
        with self._lock:
            if number in self._beats:
                self._push_locked(due, number)

    def _call(self, number: int) -> None:
        with self._lock:
            call = self._calls[number]
        again = call()
        with self._lock:
            if again is None:
                del self._calls[number]
            else:
                self._push_locked(time.monotonic() + again, number)

    def _beat(self, beat: _Beat, now: float) -> float:
        """Do what is due for one client and return when it is due again."""
        connection = beat.client.connection
        if now + _SLACK >= beat.abort_at:
            connection.abort(CloseCode.ABNORMAL, "nobody answered the close frame")
            return float("inf")
        if connection.closing or beat.next_ping == float("inf"):
            return beat.abort_at
        left = beat.client.authorization.check_expiry(_SLACK)
        if connection.closing:
            return beat.abort_at
        options = connection.options
        # A message that is being handled is a sign of life, however long its handler takes.
        silent = 0.0 if connection.handling else now - connection.last_received
        if silent >= options.pong_wait:
            connection.close(
                CloseCode.NO_PONG,
                f"no pong within {options.pong_wait:g} s",
                drop_queue=True,
                within=min(_SILENT_WAIT, options.write_wait),
            )
            return beat.abort_at
        if now + _SLACK >= beat.next_ping:
            connection.ping()
            beat.next_ping = now + options.ping_period
        beat.look_at = float("inf") if left is None else now + min(left, _MAX_LOOK)
        return min(beat.next_ping, beat.abort_at, now + options.pong_wait - silent, beat.look_at)
