"""Reads the presence entries of the other processes, first in a snapshot and then every change, and their commands.

**Threads**: its own, "cartows-presence-listener", which calls the sink; ``stop`` runs on any.

**Blocks**: its own thread, on the network and on time.
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
from .presence_leases import RETRIES, Periods, Position, PresenceLeases, decode_entries
from .presence_status import PresenceStatus

__all__ = ["PresenceListener"]


class PresenceListener:
    """Applies to a sink what the other processes announce."""

    def __init__(
        self,
        leases: PresenceLeases,
        sink: PresenceSink,
        periods: Periods,
        status: PresenceStatus,
        process: str,
        logger: logging.Logger,
    ) -> None:
        self.leases = leases
        self.thread = threading.Thread(target=self._run, name="cartows-presence-listener", daemon=True)
        self._sink = sink
        self._periods = periods
        self._status = status
        self._process = process
        self._logger = logger
        self._backoff = Backoff(*RETRIES)
        self._stopping = threading.Event()
        # The rest is the thread's own. The position of the last announcement read, None before the first snapshot.
        self._position: Position | None = None
        #: The position of the snapshot: up to there the entries are known, and only commands are new.
        self._snapshot_at = Position()
        #: The processes whose entries are shown here, and when to remove those of which nothing is known any more.
        self._known: set[str] = set()
        self._missing: dict[str, float] = {}
        self._has_warned = False

    def stop(self) -> None:
        """Make the thread end after the read that it waits for."""
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._follow()
            except Exception as error:
                if self._stopping.is_set():
                    break
                self._status.failed("listener", error)
                # Less than a lease: noticing the failure has taken a timeout, and the next attempt may take another.
                self._miss(self._known, self._periods.lease - self._periods.timeout)
                self._stopping.wait(self._backoff.wait())
                self._remove_missing()
        self.leases.close()

    def _follow(self) -> None:
        """Take a snapshot, and read on from there until ``stop``."""
        position = self._take_snapshot()
        self._backoff.reset()
        self._status.works("listener")
        while not self._stopping.is_set():
            entries = self.leases.read(position, self._periods.block)
            if entries:
                position = self._read(position, entries)
            else:
                last = self.leases.last()
                # Lost, or begun again under a clock that was set back: later announcements would never be read.
                if last.era != position.era or last.number < position.number:
                    position = self._take_snapshot()
            self._remove_missing()

    def _take_snapshot(self) -> Position:
        """Apply the entries of the other processes as they are; return where to read on: commands may have been missed."""
        before = self._position
        last, entries, leased = self.leases.snapshot()
        missing = self._missing.copy()
        # A process without a lease may be dead; or an outage has kept it from renewing, and it will take another soon. Dead
        # processes do not reappear once they were removed, nor do they appear in a process that has just started.
        shown = {process: found for process, found in entries.items() if process in leased or process in self._known}
        self._apply([PresenceReport(process, self._decode(found), True) for process, found in shown.items()])
        doubtful = self._known - leased
        self._missing = {process: due for process, due in missing.items() if process in doubtful}
        self._miss(doubtful, self._periods.grace)
        self._snapshot_at = last
        if before is None:
            position = last
        elif before.era == last.era:
            position = min(before, last)
        else:
            position = Position(last.era)
        self._position = position
        return position

    def _read(self, position: Position, announcements: list[tuple[Position, dict[bytes, bytes]]]) -> Position:
        """Apply announcements; return where to read on."""
        reports: list[PresenceReport] = []
        for current, fields in announcements:
            known = current.era == self._snapshot_at.era and current.number <= self._snapshot_at.number
            if not position.precedes(current):
                if not known:
                    self._apply(reports)
                    return self._take_snapshot()
                if position.number:
                    self._logger.warning(
                        "cartows: this process could not reach Redis for so long that hub.disconnect() and reauthorize() of "
                        "other processes may not have reached it"
                    )
            position = self._position = current
            process, name = fields.get(b"p", b"").decode(errors="replace"), fields.get(b"op", b"")
            if process == self._process:
                continue
            if name in (b"disconnect", b"reauthorize"):
                self._execute(name, fields)
            elif not known:
                reports += self._reports(process, name, fields)
        self._apply(reports)
        return position

    def _reports(self, process: str, name: bytes, fields: dict[bytes, bytes]) -> list[PresenceReport]:
        if name == b"change":
            return [
                PresenceReport(process, self._decode({key: text for key, text in fields.items() if key not in (b"p", b"op")}))
            ]
        if name == b"here":
            # The hash may be ahead of this announcement. The ones in between then change entries to what they already are.
            return [PresenceReport(process, self._decode(self.leases.hash_of(process)), True)]
        return [PresenceReport(process, {}, True)] if name == b"gone" else []

    def _decode(self, fields: Mapping[bytes, bytes]) -> dict[str, PresenceEntry | None]:
        try:
            return decode_entries(fields)
        except (ValueError, RecursionError) as error:
            self._warn_of_others(error)
            return {}

    def _execute(self, name: bytes, fields: dict[bytes, bytes]) -> None:
        try:
            match json.loads(fields.get(b"d", b"")):
                case [str() as identity, int() as code, str() as reason] if name == b"disconnect":
                    self._sink.disconnect_identity(identity, code, reason)
                case [str() as identity] if name == b"reauthorize":
                    self._sink.reauthorize_identity(identity)
                case _:
                    raise ValueError(f"{name!r} with arguments that it does not take")
        except (ValueError, RecursionError) as error:
            self._warn_of_others(error)
        except Exception:
            self._logger.exception("cartows: a command of another process failed here")

    def _warn_of_others(self, error: Exception) -> None:
        if not self._has_warned:
            self._has_warned = True
            self._logger.warning(
                "cartows: another application, or another version of cartows, writes to presence in Redis: %s. Ignored; logged "
                "once",
                error,
            )

    def _apply(self, reports: list[PresenceReport]) -> None:
        reports = [report for report in reports if report.process != self._process]
        for process, entries, whole in reports:
            self._missing.pop(process, None)
            if entries:
                self._known.add(process)
            elif whole:
                self._known.discard(process)
        if reports:
            self._sink.apply(reports)

    def _miss(self, processes: set[str], wait: float) -> None:
        """Remove the entries of processes after ``wait`` seconds, unless they announce something first."""
        due = time.monotonic() + wait
        for process in processes:
            self._missing[process] = min(due, self._missing.get(process, due))

    def _remove_missing(self) -> None:
        now = time.monotonic()
        self._apply([PresenceReport(process, {}, True) for process, due in list(self._missing.items()) if due <= now])
