"""What a process tells the others of its people: everybody when it begins, then who comes and goes.

Threads: its own, "cartows-presence"; ``announce``, ``command`` and ``stop`` on any.
Locks: the announcer's guards what waits to be told, the status's who is disturbed. Both are leaves.
Blocks: the thread, on the network and on time. Nothing that is called on others.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import NamedTuple

from ...presence.presence import PresenceEntry
from .backoff import Backoff
from .connect import BrokerError
from .presence_leases import Leases

__all__ = ["MAX_COMMANDS", "TRIES", "Announcer", "Periods", "Status"]

# The least time between two batches: a storm of joins is told in few of them.
_LINGER = 0.02

# Commands that wait for Redis to come back. The oldest is given up for one more.
MAX_COMMANDS = 1000

# How long one waits, in seconds: whoever is put out much later may be somebody who has logged in again.
_COMMAND_WAIT = 300.0

# Tries at a Redis that is away, in seconds: each after a random time up to a bound that doubles.
TRIES = (0.1, 5.0)


class Periods(NamedTuple):
    """Say how long things take, in seconds.

    ``lease`` + 1.2 ``look`` is when the people of a process that was killed have left at the latest, and ``lease`` + ``answer``
    + 5 when everybody else's have left one that lost touch with Redis: less than 60 s, with room for a slow machine. A lease
    outlives two refreshes that fail.
    """

    lease: float = 40.0
    refresh: float = 13.0
    look: float = 10.0
    #: Who has just taken a lease does not take out others until then: when Redis was away all leases may have run out.
    settle: float = 20.0
    #: How long the listener waits for an entry; less than ``answer``.
    block: float = 5.0
    #: How long any answer may take.
    answer: float = 10.0


class Status:
    """Say once that presence across processes is disturbed, and once that it no longer is."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        # Guards who is disturbed, and that what is said of it keeps its order.
        self._lock = threading.Lock()
        self._disturbed: set[str] = set()

    def disturbed(self, who: str, error: Exception) -> None:
        if not isinstance(error, BrokerError):
            self._logger.error("cartows: presence across processes failed and is tried again", exc_info=error)
        with self._lock:
            first = not self._disturbed
            self._disturbed.add(who)
            if first:
                self._logger.warning(
                    "cartows: people in other processes are not seen for now, nor those of this one there. %s. It is tried "
                    "again; this is said once",
                    error,
                )

    def fine(self, who: str) -> None:
        with self._lock:
            if who in self._disturbed:
                self._disturbed.discard(who)
                if not self._disturbed:
                    self._logger.warning("cartows: people in other processes are seen again")


class Announcer:
    """Keep the lease of this process, tell of its people, and look for leases that have run out."""

    def __init__(self, leases: Leases, people: Callable[[], list[PresenceEntry]], periods: Periods, status: Status) -> None:
        self.leases = leases
        self.thread = threading.Thread(target=self._run, name="cartows-presence", daemon=True)
        self._people = people
        self._periods = periods
        self._status = status
        self._backoff = Backoff(*TRIES)
        # Guards what is waiting to be told.
        self._wakeup = threading.Condition()
        #: Whether changes are told one by one. Otherwise everybody will be told of, and nothing need wait.
        self._following = False
        self._pending: dict[str, PresenceEntry | None] = {}
        #: Each with the time by which it is to be told.
        self._commands: deque[tuple[str, str, float]] = deque()
        self._overfull = False
        self._stopping = False
        # When the next batch may go, the lease is to be kept, and others' are to be looked at. The thread's own.
        self._free_at = self._keep_at = self._look_at = 0.0

    def announce(self, changes: Mapping[str, PresenceEntry | None]) -> None:
        with self._wakeup:
            if self._following:
                self._pending.update(changes)
                self._wakeup.notify()

    def command(self, name: str, text: str) -> bool:
        """Have a command told; False when another is given up for it, the first time until none waits."""
        with self._wakeup:
            self._commands.append((name, text, time.monotonic() + _COMMAND_WAIT))
            self._wakeup.notify()
            if len(self._commands) <= MAX_COMMANDS:
                return True
            self._commands.popleft()
            first, self._overfull = not self._overfull, True
            return not first

    def stop(self) -> None:
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
                self._status.disturbed("announcer", error)
            with self._wakeup:
                self._wakeup.wait_for(lambda: self._stopping, self._backoff.wait())
                if self._stopping:
                    break
        self.leases.close()

    def _follow(self) -> None:
        """Announce everybody, then what changes, until ``stop``."""
        self._begin()
        self._backoff.reset()
        self._status.fine("announcer")
        while not self._await_work():
            self._send_commands()
            with self._wakeup:
                changes, self._pending = self._pending, {}
            if changes:
                self._free_at = time.monotonic() + _LINGER
                if not self.leases.change(changes):
                    self._begin()
            now = time.monotonic()
            if now >= self._keep_at:
                self._keep_at = now + self._periods.refresh
                if not self.leases.keep():
                    self._begin()
            if now >= self._look_at:
                self._look_at = now + self._periods.look * random.uniform(0.8, 1.2)
                self.leases.look()
        self._send_commands()
        self.leases.end()

    def _begin(self) -> None:
        """Take a lease and announce everybody: at the start, after an outage, and when the last lease has run out."""
        with self._wakeup:
            # What changes from here on is told after this, and may be in it already.
            self._following = True
            self._pending.clear()
        self.leases.begin(self._people())
        now = time.monotonic()
        self._keep_at, self._look_at = now + self._periods.refresh, now + self._periods.settle

    def _await_work(self) -> bool:
        """Wait until there is something to do; returns whether that is to stop."""
        with self._wakeup:
            while not self._stopping:
                due = min(self._keep_at, self._look_at)
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
                    self._overfull = False
                    return
                command = self._commands[0]
            name, text, until = command
            if time.monotonic() < until:
                self.leases.command(name, text)
            with self._wakeup:
                # It may have been given up meanwhile.
                if self._commands and self._commands[0] is command:
                    self._commands.popleft()
