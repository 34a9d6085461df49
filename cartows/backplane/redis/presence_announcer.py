"""Announces a process's presence entries to the others: all of them when it starts, then every join and leave.

**Threads**: its own, "cartows-presence"; ``announce``, ``command`` and ``stop`` run on any.

**Locks**: ``_wakeup``, a leaf, guards what waits to be announced.

**Blocks**: its own thread, on the network and on time; no method that other threads call.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping

from ...presence.presence import PresenceEntry
from .backoff import Backoff
from .presence_leases import RETRIES, Periods, PresenceLeases
from .presence_status import PresenceStatus

__all__ = ["MAX_COMMANDS", "PresenceAnnouncer"]

# The shortest time between two batches, in seconds: many joins at once are announced in few of them.
_LINGER = 0.02

# How many commands may wait for Redis. One more drops the oldest.
MAX_COMMANDS = 1000

# How long a command waits, in seconds: a user that is disconnected much later may have logged in again meanwhile.
_COMMAND_WAIT = 300.0


class PresenceAnnouncer:
    """Keeps the lease of this process, announces its entries, and removes the processes whose leases have expired."""

    def __init__(
        self,
        leases: PresenceLeases,
        entries: Callable[[], list[PresenceEntry]],
        periods: Periods,
        status: PresenceStatus,
    ) -> None:
        self.leases = leases
        self.thread = threading.Thread(target=self._run, name="cartows-presence", daemon=True)
        self._entries = entries
        self._periods = periods
        self._status = status
        self._backoff = Backoff(*RETRIES)
        # Guards what waits to be announced.
        self._wakeup = threading.Condition()
        #: Whether changes are announced one by one. Otherwise all entries will be announced, and no change need wait.
        self._following = False
        self._pending: dict[str, PresenceEntry | None] = {}
        #: Each with the time by which it is to be sent.
        self._commands: deque[tuple[str, str, float]] = deque()
        #: A command was dropped since the queue was last empty.
        self._has_dropped = False
        self._stopping = False
        # When the next batch may go, the lease is renewed, and expired leases are looked for. The thread's own.
        self._free_at = self._renew_at = self._sweep_at = 0.0

    def announce(self, changes: Mapping[str, PresenceEntry | None]) -> None:
        """Queue changed entries by ref, None for those that have left."""
        with self._wakeup:
            if self._following:
                self._pending.update(changes)
                self._wakeup.notify()

    def command(self, name: str, text: str) -> bool:
        """Queue a command. Return False when that drops the first one since the queue was last empty."""
        with self._wakeup:
            self._commands.append((name, text, time.monotonic() + _COMMAND_WAIT))
            self._wakeup.notify()
            if len(self._commands) <= MAX_COMMANDS:
                return True
            self._commands.popleft()
            first, self._has_dropped = not self._has_dropped, True
            return not first

    def stop(self) -> None:
        """Make the thread send what is queued, give up the lease, and end."""
        with self._wakeup:
            self._stopping = True
            self._wakeup.notify()

    def _run(self) -> None:
        while True:
            try:
                self._follow()
                break
            except Exception as error:
                with self._wakeup:
                    self._following = False
                    self._pending.clear()
                    if self._stopping:
                        break
                self._status.failed("announcer", error)
            with self._wakeup:
                self._wakeup.wait_for(lambda: self._stopping, self._backoff.wait())
                if self._stopping:
                    break
        self.leases.close()

    def _follow(self) -> None:
        """Announce all entries, then what changes, until ``stop``."""
        self._begin()
        self._backoff.reset()
        self._status.works("announcer")
        while not self._await_work():
            self._send_commands()
            with self._wakeup:
                changes, self._pending = self._pending, {}
            if changes:
                self._free_at = time.monotonic() + _LINGER
                if not self.leases.change(changes):
                    self._begin()
            now = time.monotonic()
            if now >= self._renew_at:
                self._renew_at = now + self._periods.renew
                if not self.leases.renew():
                    self._begin()
            if now >= self._sweep_at:
                self._sweep_at = now + self._periods.sweep * random.uniform(0.8, 1.2)
                self.leases.sweep()
        self._send_commands()
        self.leases.end()

    def _begin(self) -> None:
        """Take a lease and announce all entries: at the start, after an outage, and when the last lease has expired."""
        with self._wakeup:
            # What changes from here on is announced after this, and may be part of it already.
            self._following = True
            self._pending.clear()
        self.leases.begin(self._entries())
        now = time.monotonic()
        self._renew_at, self._sweep_at = now + self._periods.renew, now + self._periods.grace

    def _await_work(self) -> bool:
        """Wait until there is something to do; return whether that is to stop."""
        with self._wakeup:
            while not self._stopping:
                due = min(self._renew_at, self._sweep_at)
                if self._pending or self._commands:
                    due = min(due, self._free_at)
                left = due - time.monotonic()
                if left <= 0:
                    break
                self._wakeup.wait(left)
            return self._stopping

    def _send_commands(self) -> None:
        while True:
            with self._wakeup:
                if not self._commands:
                    self._has_dropped = False
                    return
                command = self._commands[0]
            name, text, until = command
            if time.monotonic() < until:
                self.leases.command(name, text)
            with self._wakeup:
                # It may have been dropped meanwhile.
                if self._commands and self._commands[0] is command:
                    self._commands.popleft()
