"""Presence across processes: what this process tells the others of its people, and what it hears of theirs.

Threads: the announcer and the listener, made by ``start``: who waits at Redis for what others do can send nothing meanwhile.
    ``announce``, ``disconnect`` and ``reauthorize`` on any thread; the sink is called by the listener, save where it says so.
Locks: each class has one for what its threads share. They are leaves: nothing else is taken while one is held.
Blocks: the two threads, on the network and on time; ``stop`` within its time. What is announced waits for nothing.

What is promised. Whoever is shown and is not there is gone within 60 s, however its process ended; also where this process
has lost touch with Redis: then it forgets the others when their leases would have run out. An entry is never shown twice. Once
every process has its lease and has been heard, each shows the same people, and counts them right; until then somebody may be
missing, or still there. While Redis is away the people of this process go on seeing each other, and once it is back what has
changed meanwhile is told like any other coming and going. A command reaches every process that hears the stream then or soon
after, perhaps twice; one that waits here is lost with its process, and one that a listener could not read in time is warned of.
"""

from __future__ import annotations

import json
import logging
import random
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from ..presence import Person, Report
from .connect import BrokerError, Link
from .leases import Leases, Position, people_of
from .scripts import Names

__all__ = ["People", "PeopleSink", "Periods"]

# The least time between two batches: a storm of joins is told in few of them.
_LINGER = 0.02

# Commands that wait for Redis to come back. The oldest is given up for one more.
_MOST_COMMANDS = 1000

# Tries at a Redis that is away, in seconds: each after a random time up to a bound that doubles.
_FIRST_TRY, _LAST_TRY = 0.1, 5.0


class Periods(NamedTuple):
    """Say how long things take, in seconds.

    ``lease`` + 1.2 ``look`` is when the people of a process that was killed have left at the latest: less than 60 s, with room
    for a slow Redis. A lease outlives two refreshes that fail. ``settle`` + ``block`` must be less than 60 s as well.
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


class PeopleSink(Protocol):
    """Be told by a People, and asked; a hub is one."""

    def people(self) -> list[Person]:
        """Return everybody in this process. Called by the announcer."""

    def apply(self, reports: list[Report]) -> None:
        """Have the hub thread take what other processes tell of their people. Must not wait."""

    def disconnect(self, identity: str, code: int, reason: str) -> None:
        """Close the clients of an identity, as another process has closed its own. Must not wait."""

    def reauthorize(self, identity: str) -> None:
        """See that the app is asked again what an identity may hear, as it was in another process. Must not wait."""


class People:
    """Show the people of this process to the others, and theirs here.

    ``connect`` makes a way to Redis whose answers take so many seconds at most (``Broker.link``); it is called by the
    constructor, once for each thread, and connects to nothing yet.
    """

    def __init__(
        self,
        connect: Callable[[float], Link],
        sink: PeopleSink,
        logger: logging.Logger,
        *,
        periods: Periods | None = None,
        names: Names | None = None,
    ) -> None:
        periods = periods or Periods()
        #: This process, for as long as it lives.
        self.process = secrets.token_hex(8)
        self._logger = logger
        status = _Status(logger)
        announcing, listening = (Leases(connect(periods.answer), self.process, periods.lease, names) for _ in range(2))
        self._announcer = _Announcer(announcing, sink, periods, status)
        self._listener = _Listener(listening, sink, periods, status, self.process, logger)

    def start(self) -> None:
        """Begin to announce and to listen. Once; raises RuntimeError when there is no thread to be had."""
        self._announcer.thread.start()
        self._listener.thread.start()

    def announce(self, changes: Mapping[str, Person | None]) -> None:
        """Tell the others of what ``Presence.take_changes`` returned. Never waits."""
        self._announcer.announce(changes)

    def disconnect(self, identity: str, code: int, reason: str) -> None:
        """Have the other processes close their clients of an identity. Never waits."""
        self._command("disconnect", [identity, code, reason])

    def reauthorize(self, identity: str) -> None:
        """Have the other processes ask again what an identity may hear. Never waits."""
        self._command("reauthorize", [identity])

    def _command(self, name: str, arguments: list[Any]) -> None:
        if not self._announcer.command(name, json.dumps(arguments)):
            self._logger.warning(
                "cartows: more than %d commands for other processes wait for Redis; the oldest are given up", _MOST_COMMANDS
            )

    def stop(self, timeout: float) -> None:
        """Tell the others that everybody here has left, and end both threads within ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        self._announcer.stop()
        self._listener.stop()
        for part in (self._announcer, self._listener):
            if part.thread.ident is None:
                continue
            # The farewell of the one wakes the other. Where there is no answer the connection is taken from below them.
            part.thread.join(max(0.0, (deadline - time.monotonic()) / 2))
            if part.thread.is_alive():
                part.leases.close()
                part.thread.join(max(0.0, (deadline - time.monotonic()) / 2))


class _Status:
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


class _Backoff:
    """Count tries, and say how long to wait before the next; all processes must not come at once."""

    def __init__(self) -> None:
        self._bound = _FIRST_TRY

    def reset(self) -> None:
        self._bound = _FIRST_TRY

    def wait(self) -> float:
        bound, self._bound = self._bound, min(_LAST_TRY, 2 * self._bound)
        return random.uniform(0, bound)


class _Announcer:
    """Keep the lease of this process, tell of its people, and look for leases that have run out."""

    def __init__(self, leases: Leases, sink: PeopleSink, periods: Periods, status: _Status) -> None:
        self.leases = leases
        self.thread = threading.Thread(target=self._run, name="cartows-presence", daemon=True)
        self._sink = sink
        self._periods = periods
        self._status = status
        self._backoff = _Backoff()
        # Guards what is waiting to be told.
        self._wakeup = threading.Condition()
        #: Whether changes are told one by one. Otherwise everybody will be told of, and nothing need wait.
        self._following = False
        self._pending: dict[str, Person | None] = {}
        self._commands: deque[tuple[str, str]] = deque()
        self._overfull = False
        self._stopping = False
        # When the next batch may go, the lease is to be kept, and others' are to be looked at. The thread's own.
        self._free_at = self._keep_at = self._look_at = 0.0

    def announce(self, changes: Mapping[str, Person | None]) -> None:
        with self._wakeup:
            if self._following:
                self._pending.update(changes)
                self._wakeup.notify()

    def command(self, name: str, text: str) -> bool:
        """Have a command told; False when another is given up for it, the first time until none waits."""
        with self._wakeup:
            self._commands.append((name, text))
            self._wakeup.notify()
            if len(self._commands) <= _MOST_COMMANDS:
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
        self.leases.begin(self._sink.people())
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
            self.leases.command(*command)
            with self._wakeup:
                # It may have been given up meanwhile.
                if self._commands and self._commands[0] is command:
                    self._commands.popleft()


class _Listener:
    """Hear what the other processes tell."""

    def __init__(
        self, leases: Leases, sink: PeopleSink, periods: Periods, status: _Status, process: str, logger: logging.Logger
    ) -> None:
        self.leases = leases
        self.thread = threading.Thread(target=self._run, name="cartows-presence-listener", daemon=True)
        self._sink = sink
        self._periods = periods
        self._status = status
        self._process = process
        self._logger = logger
        self._backoff = _Backoff()
        self._stopping = threading.Event()
        # The rest is the thread's own. The last entry read, None before the first snapshot.
        self._position: Position | None = None
        #: The last entry that the snapshot knew of: up to there people are known, and only commands are news.
        self._settled = Position()
        #: The processes whose people are shown here, and when those are to go of whom nothing is known any more.
        self._known: set[str] = set()
        self._missing: dict[str, float] = {}
        self._complained = False

    def stop(self) -> None:
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._follow()
            except Exception as error:
                if self._stopping.is_set():
                    break
                self._status.disturbed("listener", error)
                self._miss(self._known, self._periods.lease)
                self._stopping.wait(self._backoff.wait())
                self._forget_missing()
        self.leases.close()

    def _follow(self) -> None:
        """Take a snapshot, and read on from there until ``stop``."""
        position = self._take_snapshot()
        self._backoff.reset()
        self._status.fine("listener")
        while not self._stopping.is_set():
            entries = self.leases.read(position, self._periods.block)
            if entries:
                position = self._hear(position, entries)
            else:
                last = self.leases.last()
                # Lost, or begun anew by a clock that goes back: what comes there would never be read.
                if last.era != position.era or last.number < position.number:
                    position = self._take_snapshot()
            self._forget_missing()

    def _take_snapshot(self) -> Position:
        """Show the people of the other processes as they are; returns where to read on: commands may have been missed."""
        before = self._position
        # Who was dead when this process began is not shown; afterwards a lease may have run out because Redis was away.
        last, people = self.leases.snapshot(leased=before is None)
        self._apply([Report(process, self._people(found), True) for process, found in people.items()])
        self._miss(self._known - people.keys(), self._periods.settle)
        self._settled = last
        if before is None:
            position = last
        elif before.era == last.era:
            position = min(before, last)
        else:
            position = Position(last.era)
        self._position = position
        return position

    def _hear(self, position: Position, entries: list[tuple[Position, dict[bytes, bytes]]]) -> Position:
        """Take a run of entries; returns where to read on."""
        reports: list[Report] = []
        for place, fields in entries:
            settled = place.era == self._settled.era and place.number <= self._settled.number
            if not position.precedes(place):
                if not settled:
                    self._apply(reports)
                    return self._take_snapshot()
                if position.number:
                    self._logger.warning(
                        "cartows: this process was away from Redis for so long that hub.disconnect() and reauthorize() of "
                        "other processes may not have reached it"
                    )
            position = self._position = place
            process, name = fields.get(b"p", b"").decode(errors="replace"), fields.get(b"op", b"")
            if process == self._process:
                continue
            if name in (b"disconnect", b"reauthorize"):
                self._obey(name, fields)
            elif not settled:
                reports += self._reports(process, name, fields)
        self._apply(reports)
        return position

    def _reports(self, process: str, name: bytes, fields: dict[bytes, bytes]) -> list[Report]:
        if name == b"change":
            return [Report(process, self._people({key: text for key, text in fields.items() if key not in (b"p", b"op")}))]
        if name == b"here":
            # The hash may be ahead of this entry. The entries up to there change what it has to what it has.
            return [Report(process, self._people(self.leases.hash_of(process)), True)]
        return [Report(process, {}, True)] if name == b"gone" else []

    def _people(self, fields: Mapping[bytes, bytes]) -> dict[str, Person | None]:
        try:
            return people_of(fields)
        except (ValueError, RecursionError) as error:
            self._complain(error)
            return {}

    def _obey(self, name: bytes, fields: dict[bytes, bytes]) -> None:
        try:
            match json.loads(fields.get(b"d", b"")):
                case [str() as identity, int() as code, str() as reason] if name == b"disconnect":
                    self._sink.disconnect(identity, code, reason)
                case [str() as identity] if name == b"reauthorize":
                    self._sink.reauthorize(identity)
                case _:
                    raise ValueError(f"{name!r} with what it does not take")
        except (ValueError, RecursionError) as error:
            self._complain(error)
        except Exception:
            self._logger.exception("cartows: what another process has said of a user could not be done here")

    def _complain(self, error: Exception) -> None:
        if not self._complained:
            self._complained = True
            self._logger.warning(
                "cartows: somebody else writes to presence in Redis, or another version of cartows: %s. Passed over; said once",
                error,
            )

    def _apply(self, reports: list[Report]) -> None:
        reports = [report for report in reports if report.process != self._process]
        for process, people, whole in reports:
            self._missing.pop(process, None)
            if people:
                self._known.add(process)
            elif whole:
                self._known.discard(process)
        if reports:
            self._sink.apply(reports)

    def _miss(self, processes: set[str], wait: float) -> None:
        """Let the people of processes go after a while, unless something is heard of them."""
        due = time.monotonic() + wait
        for process in processes:
            self._missing[process] = min(due, self._missing.get(process, due))

    def _forget_missing(self) -> None:
        now = time.monotonic()
        self._apply([Report(process, {}, True) for process, due in list(self._missing.items()) if due <= now])
