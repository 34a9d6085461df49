"""What a process hears of the people of the others: everybody in a snapshot, then who comes and goes; and their commands.

Threads: its own, "cartows-presence-listener", which calls the sink; ``stop`` on any.
Locks: none: ``stop`` sets an event.
Blocks: the thread, on the network and on time.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Mapping

from ...presence.presence import PresenceEntry, PresenceReport
from ..base import PresenceSink
from .backoff import Backoff
from .presence_announcer import TRIES, Periods, Status
from .presence_leases import Leases, Position, people_of

__all__ = ["Listener"]


class Listener:
    """Hear what the other processes tell."""

    def __init__(
        self, leases: Leases, sink: PresenceSink, periods: Periods, status: Status, process: str, logger: logging.Logger
    ) -> None:
        self.leases = leases
        self.thread = threading.Thread(target=self._run, name="cartows-presence-listener", daemon=True)
        self._sink = sink
        self._periods = periods
        self._status = status
        self._process = process
        self._logger = logger
        self._backoff = Backoff(*TRIES)
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
                # Less than a lease, for it has taken an answer's time to know, and may take that once more to look again.
                self._miss(self._known, self._periods.lease - self._periods.answer)
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
        last, people, leased = self.leases.snapshot()
        missing = self._missing.copy()
        # Who has no lease may be dead, or was kept from refreshing it by a Redis that was away, and will take another soon. The
        # dead are not shown again once they have been forgotten, nor to a process that has just begun.
        shown = {process: found for process, found in people.items() if process in leased or process in self._known}
        self._apply([PresenceReport(process, self._people(found), True) for process, found in shown.items()])
        doubtful = self._known - leased
        self._missing = {process: due for process, due in missing.items() if process in doubtful}
        self._miss(doubtful, self._periods.settle)
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
        reports: list[PresenceReport] = []
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

    def _reports(self, process: str, name: bytes, fields: dict[bytes, bytes]) -> list[PresenceReport]:
        if name == b"change":
            return [
                PresenceReport(process, self._people({key: text for key, text in fields.items() if key not in (b"p", b"op")}))
            ]
        if name == b"here":
            # The hash may be ahead of this entry. The entries up to there change what it has to what it has.
            return [PresenceReport(process, self._people(self.leases.hash_of(process)), True)]
        return [PresenceReport(process, {}, True)] if name == b"gone" else []

    def _people(self, fields: Mapping[bytes, bytes]) -> dict[str, PresenceEntry | None]:
        try:
            return people_of(fields)
        except (ValueError, RecursionError) as error:
            self._complain(error)
            return {}

    def _obey(self, name: bytes, fields: dict[bytes, bytes]) -> None:
        try:
            match json.loads(fields.get(b"d", b"")):
                case [str() as identity, int() as code, str() as reason] if name == b"disconnect":
                    self._sink.disconnect_identity(identity, code, reason)
                case [str() as identity] if name == b"reauthorize":
                    self._sink.reauthorize_identity(identity)
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

    def _apply(self, reports: list[PresenceReport]) -> None:
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
        self._apply([PresenceReport(process, {}, True) for process, due in list(self._missing.items()) if due <= now])
