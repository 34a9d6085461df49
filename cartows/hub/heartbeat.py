"""What is timed for each client of a hub: pings, pong deadlines, the expiry of credentials, and closings without an answer.

**Threads**: the timer's thread does what is due, and starts writer threads; the methods may be called on any thread.
**Locks**: ``_lock`` guards the schedule entries. The timer's lock is taken while it is held, no other.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from functools import partial

from ..client.client import Client
from ..websocket.close_codes import CloseCode
from .capacity import Capacity
from .timer import NEVER, Timer, TimerEntry

__all__ = ["SLACK", "Heartbeat"]

#: How early, in seconds, a ping may be sent and a connection aborted: what is due within it is done in one wakeup.
SLACK = 0.02

# The longest time, in seconds, until credentials that expire later are checked again: they expire by the wall clock, which may
# be set.
_MAX_RECHECK = 30.0

# How long after a failure, in seconds, another try is made to start a writer thread.
_WRITER_RETRY = 0.5

# How long, in seconds, a peer that was silent has to read the close frame: it is not expected to answer.
_SILENT_WAIT = 1.0


class _ScheduleEntry:
    """The times of one client, by the monotonic clock; changed by the timer's thread, and by others under the lock."""

    __slots__ = ("abort_at", "client", "next_ping", "recheck_at", "timer_entry")

    #: Its entry in the timer.
    timer_entry: TimerEntry

    def __init__(self, client: Client) -> None:
        self.client = client
        self.next_ping = NEVER
        self.abort_at = NEVER
        #: The time of the timer's next call that checks its credentials, at the latest.
        self.recheck_at = NEVER


class Heartbeat:
    """The schedule of the clients of one hub."""

    def __init__(self, timer: Timer, logger: logging.Logger, capacity: Capacity) -> None:
        self._timer = timer
        self._capacity = capacity
        self._logger = logger
        self._lock = threading.Lock()
        self._entries: dict[Client, _ScheduleEntry] = {}

    def add(self, client: Client) -> None:
        """Ping a client from now on, first at a random moment: clients that connect together are not pinged together."""
        period = client.connection.options.ping_period
        with self._lock:
            entry = self._entry_locked(client)
            entry.next_ping = time.monotonic() + random.uniform(0, period)
            self._timer.schedule(entry.timer_entry, min(entry.next_ping, entry.abort_at))
        self.recheck_expiry(client)

    def recheck_expiry(self, client: Client) -> None:
        """Check a client's credentials when they expire."""
        left = client.authorization.expires_in()
        if left is not None:
            with self._lock:
                entry = self._entries.get(client)
                recheck_at = time.monotonic() + min(max(0.0, left), _MAX_RECHECK)
                # A check that is due earlier computes the time that is left then.
                if entry is not None and recheck_at < entry.recheck_at:
                    entry.recheck_at = recheck_at
                    self._timer.schedule(entry.timer_entry, recheck_at)

    def abort_at(self, client: Client, when: float) -> None:
        """Abort a client's connection at a monotonic time, unless it has ended by then."""
        with self._lock:
            entry = self._entry_locked(client)
            entry.abort_at = min(entry.abort_at, when)
            self._timer.schedule(entry.timer_entry, min(entry.next_ping, entry.abort_at))

    def discard(self, client: Client) -> None:
        """Forget a client."""
        with self._lock:
            entry = self._entries.pop(client, None)
        if entry is not None:
            entry.timer_entry.cancel()

    def start_writer(self, client: Client) -> None:
        """Start a client's writer thread, on the timer's thread."""
        self._timer.call_soon(partial(self._start_writer_thread, client))

    def _entry_locked(self, client: Client) -> _ScheduleEntry:
        entry = self._entries.get(client)
        if entry is None:
            entry = self._entries[client] = _ScheduleEntry(client)
            entry.timer_entry = TimerEntry(partial(self._serve, entry))
        return entry

    # Writers ----------------------------------------------------------------------------------------------------------

    def _start_writer_thread(self, client: Client) -> None:
        connection = client.connection
        if not connection.claim_writer():
            return
        try:
            self._run_writer_thread(client)
        except Exception as error:
            # The process has no thread left, or the interpreter is about to exit and ``shutdown`` sends what is queued.
            connection.unclaim_writer()
            self._logger.warning("cartows: no thread for the writer of client %s yet: %s", client.id, error)
            give_up = time.monotonic() + connection.options.write_wait
            self._timer.call_every(_WRITER_RETRY, partial(self._retry_writer, client, give_up))

    def _run_writer_thread(self, client: Client) -> None:
        """Start the thread. Raises RuntimeError where the process has none left, or none for a writer."""

        def run() -> None:
            try:
                client.write_pump()
            finally:
                self._capacity.release_writer()

        if not self._capacity.take_writer():
            raise RuntimeError("the clients have all threads that the limits of this process leave to them")
        try:
            threading.Thread(target=run, name=f"cartows-writer-{client.id}", daemon=True).start()
        except BaseException:
            self._capacity.release_writer()
            raise

    def _retry_writer(self, client: Client, give_up: float) -> bool:
        connection = client.connection
        if connection.flush(0) or not connection.claim_writer():
            return False
        try:
            self._run_writer_thread(client)
        except Exception:
            connection.unclaim_writer()
            if time.monotonic() < give_up:
                return True
            connection.abort(CloseCode.SERVER_ERROR, "no thread could be started for its writer")
        return False

    # The timer's thread -----------------------------------------------------------------------------------------------

    def _serve(self, entry: _ScheduleEntry) -> float:
        """Do what is due for one client and return when it is due again."""
        if entry.client.connection.closed:
            # It was scheduled after it had been forgotten.
            self.discard(entry.client)
            return NEVER
        return self._check(entry, time.monotonic())

    def _check(self, entry: _ScheduleEntry, now: float) -> float:
        connection = entry.client.connection
        if now + SLACK >= entry.abort_at:
            connection.abort(CloseCode.ABNORMAL, "the close frame was not answered")
            return NEVER
        if connection.closing or entry.next_ping == NEVER:
            return entry.abort_at
        # Not a moment early: until they expire, the same credentials are accepted from the client that connects again.
        left = entry.client.authorization.check_expiry()
        if connection.closing:
            return entry.abort_at
        options = connection.options
        # A message that is being handled counts as a sign of life, however long its handler takes.
        silent = 0.0 if connection.handling else now - connection.last_received
        if silent >= options.pong_wait:
            connection.close(
                CloseCode.NO_PONG,
                f"no pong within {options.pong_wait:g} s",
                drop_queue=True,
                within=min(_SILENT_WAIT, options.write_wait),
            )
            return entry.abort_at
        if now + SLACK >= entry.next_ping:
            connection.ping()
            entry.next_ping = now + options.ping_period
        entry.recheck_at = NEVER if left is None else now + min(left, _MAX_RECHECK)
        return min(entry.next_ping, entry.abort_at, now + options.pong_wait - silent, entry.recheck_at)
