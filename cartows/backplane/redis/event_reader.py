"""Reads the events of all processes from the stream, and begins a new epoch where the broker has lost some.

**Threads**: ``prepare`` and ``start`` run on the hub thread. ``_run`` is the reader's own thread, "cartows-reader", the only
one that waits for events; the position is its own. ``stop`` runs on any other thread.

**Blocks**: ``prepare`` for ``publish_timeout`` seconds at most, ``stop`` until its deadline.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque

from ...options import Options
from ..base import Sink, Snapshot
from .backoff import Backoff
from .connect import Broker, BrokerError, Link
from .event_store import Names, Record, Store, entry_of, mark_of, new_epoch
from .event_writer import EventWriter
from .foreign_entries import ForeignEntry, ForeignEntryLog, parse_entry

__all__ = ["EventReader"]

# How long a read waits for events. After one that returns none the stream is checked: a broker that was emptied reports nothing
# by itself.
_READ_WAIT_MS = 1000

# The same while an outage or a shutdown waits for the reader to reach the end of the stream.
_SHORT_WAIT_MS = 50

# How many entries one read returns, of new events and of the history: an event may have a megabyte.
_MAX_READ = 64
_PAGE = 64

# How much later than that an answer may arrive, in seconds, before the broker counts as unreachable.
_LATE = 1.0

# The interval of the attempts at a broker that cannot be read, in seconds.
_RETRY = 0.25

# The interval at which ``stop`` checks whether the reader has reached the last stored event, in seconds.
_STOP_STEP = 0.01


# How many new epochs may begin in a period of so many seconds before the next one waits: whatever makes the reader begin again
# and again, clients are not made to reload in a storm.
_MAX_EPOCHS, _EPOCH_PERIOD = 8, 10.0
_EPOCH_WAITS = (0.25, 5.0)


class _Gap(Exception):
    """The stream does not continue at the position that the reader has reached, but with ``entry``."""

    def __init__(self, entry: Record | ForeignEntry) -> None:
        self.entry = entry


class EventReader:
    """The way of events from the broker to one process's sink, through its event writer."""

    def __init__(
        self, broker: Broker, names: Names, options: Options, sink: Sink, writer: EventWriter, logger: logging.Logger
    ) -> None:
        self._broker = broker
        self._names = names
        self._options = options
        self._sink = sink
        self._writer = writer
        self._logger = logger
        #: The reader's connection; ``stop`` closes it as well.
        self._link = broker.link(_READ_WAIT_MS / 1000 + _LATE)
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        #: When the reader ends although it has not reached the last event; the monotonic clock's.
        self._give_up_at = float("inf")
        # The position: the epoch, the number that was read last, that entry where there is one, and the chain up to it.
        self._epoch = ""
        self._number = 0
        self._last: Record | None = None
        self._chain = ""
        #: The stream id to read after, which may be that of an entry that cartows did not write.
        self._after: bytes | str = "0-0"
        #: The number that the broker had reached when it was last checked.
        self._broker_number = 0
        #: Something was read since the last failure.
        self._has_read = False
        #: The unexpected error that was logged last, until something is read.
        self._logged_error = ""
        #: When the last new epochs began, and how long the next one waits where those were many.
        self._began_at: deque[float] = deque(maxlen=_MAX_EPOCHS)
        self._epoch_waits = Backoff(*_EPOCH_WAITS)
        self._foreign = ForeignEntryLog(logger, broker.address, names.events)
        #: Why ``prepare`` has failed, until the reader has taken a snapshot instead.
        self._fault: Exception | None = None

    # For the hub --------------------------------------------------------------------------------------------------

    @property
    def has_snapshot(self) -> bool:
        """Whether the process follows the broker's numbers."""
        return self._fault is None

    def prepare(self) -> Snapshot:
        """Return the snapshot to start from; an empty one, in an epoch of its own, where Redis is unreachable."""
        link = self._broker.link(self._options.publish_timeout)
        try:
            snapshot = self._take_snapshot(link)
            self._writer.begin(snapshot)
            return snapshot
        except Exception as error:
            self._log_unexpected(error)
            self._fault = error
            # No other process has this epoch: no client can resume in it.
            return Snapshot(new_epoch(), 0)
        finally:
            link.close()

    def start(self) -> None:
        """Start the reader's thread. Raises RuntimeError when the process can have no more."""
        thread = threading.Thread(target=self._run, name="cartows-reader", daemon=True)
        thread.start()
        self._thread = thread

    def stop(self, deadline: float) -> None:
        """Read what this process has stored until ``deadline``, of the monotonic clock, and end the thread."""
        self._give_up_at = deadline
        self._stopping.set()
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return
        while thread.is_alive() and self._number < self._writer.seen() and time.monotonic() < deadline:
            thread.join(_STOP_STEP)
        # It waits for events, and none will come: closing its connection wakes it.
        self._link.close()
        thread.join(max(0.0, deadline - time.monotonic()))

    # The reader's thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        link = self._link
        if self._fault is not None:
            self._writer.broker_lost(str(self._fault))
        try:
            while not self._is_over():
                try:
                    self._follow(link)
                except BrokerError as error:
                    link.close()
                    self._recover(link, error)
                except Exception as error:
                    # The thread must outlive it: without it no client receives anything.
                    self._log_unexpected(error)
                    link.close()
                    self._writer.broker_lost(f"Reading events at {self._broker.address} failed")
                    self._stopping.wait(_RETRY)
        finally:
            link.close()

    def _log_unexpected(self, error: Exception) -> None:
        if not isinstance(error, BrokerError) and self._logged_error != repr(error):
            self._logged_error = repr(error)
            self._logger.error("cartows: reading from %s failed unexpectedly", self._broker.address, exc_info=error)

    def _is_over(self) -> bool:
        if not self._stopping.is_set():
            return False
        return self._number >= self._writer.seen() or time.monotonic() >= self._give_up_at

    def _recover(self, link: Link, error: BrokerError) -> None:
        """Try another connection at once where a working one broke; begin an outage after any other failure."""
        if error.broken and self._has_read:
            self._has_read = False
            try:
                link.call("Reading events", "PING")
                return
            except BrokerError as again:
                link.close()
                error = again
        self._writer.broker_lost(str(error))
        self._stopping.wait(_RETRY)

    def _follow(self, link: Link) -> None:
        """Read on until something fails."""
        store = Store(link, self._names)
        self._check(link, store)
        # A short first wait: that the broker can be read is to be known soon.
        wait, missing = _SHORT_WAIT_MS, 0
        while not self._is_over() and self._sink.await_room():
            entries = self._read(link, wait)
            self._has_read, self._logged_error = True, ""
            try:
                self._pass_on(entries)
            except _Gap as gap:
                self._bridge(link, store, gap.entry)
                continue
            # Events that the broker counts and does not return, twice in a row, are lost: its stream is, and nothing else.
            missing = missing + 1 if not entries and not self._check(link, store) and self._broker_number > self._number else 0
            if missing > 1:
                self._logger.error("cartows: %s has lost the stream %s", self._broker.address, self._names.events)
                self._new_epoch(link)
            wait = _READ_WAIT_MS if self._writer.target() is None and not self._stopping.is_set() else _SHORT_WAIT_MS

    def _read(self, link: Link, wait: int) -> list[Record | ForeignEntry]:
        """Return the next entries, or none after ``wait`` milliseconds."""
        found = link.call(
            "Reading events", "XREAD", "COUNT", _MAX_READ, "BLOCK", wait, "STREAMS", self._names.events, self._after
        )
        entries = found[0][1] if found else []
        if entries:
            self._after = entries[-1][0]
        return [parse_entry(id, fields) for id, fields in entries]

    def _pass_on(self, entries: list[Record | ForeignEntry]) -> None:
        """Pass on what was read. Raises _Gap for the first entry that does not continue at the position; it ends there."""
        records: list[Record] = []
        gap: Record | ForeignEntry | None = None
        for entry in entries:
            if isinstance(entry, Record):
                follows = entry.number == self._number + 1 and entry.epoch == self._epoch
                if not follows or not entry.follows(self._last, self._chain):
                    gap = entry
                    break
                records.append(entry)
                self._number, self._last, self._chain = entry.number, entry, entry.chain
            elif entry.number:
                gap = entry
                break
            else:
                self._foreign.log(entry.reason)
        self._writer.deliver(records, self._number)
        if gap is not None:
            raise _Gap(gap)

    def _bridge(self, link: Link, store: Store, entry: Record | ForeignEntry) -> None:
        """Continue where the stream does not: behind an entry that cartows did not write, else after another snapshot."""
        if self._check(link, store):
            return
        is_counted = entry.number <= self._broker_number
        if isinstance(entry, Record) and is_counted and entry.epoch == self._epoch:
            # The broker has lost nothing: this process has missed something.
            self._new_epoch(link)
            return
        reason = (
            entry.reason
            if isinstance(entry, ForeignEntry)
            else f"the entry {entry.number}-0, of epoch {entry.epoch[:40]!r}, follows no event"
        )
        self._foreign.log(reason)
        if is_counted:
            # It takes the place of an event, which is lost.
            self._new_epoch(link)
        else:
            # A script adds an event and counts it in one step: what is not counted is none, and nothing is lost with it.
            self._after = f"{entry.number}-0"

    def _check(self, link: Link, store: Store) -> bool:
        """Check that the broker still has what was read; begin a new epoch where it has not, and return whether that was so."""
        found = store.check(self._epoch, max(self._number, self._writer.seen()), self._last)
        self._broker_number = found.number
        begins = found.state != "fine" or self._fault is not None
        if begins:
            # Another process may have noticed first, or a publisher. The first epoch of this process replaces none.
            if self._epoch and found.state != "fine":
                self._logger.error(
                    "cartows: %s has lost events (it was emptied, or restored from an older copy; or a replica that had "
                    "not received all took over; or something else writes to its keys): a new epoch begins, and every client "
                    "is notified to reload",
                    self._broker.address,
                )
            self._new_epoch(link)
        return begins

    def _new_epoch(self, link: Link) -> None:
        """Continue after another snapshot: events are missing between the old position and what comes next."""
        began = self._began_at
        if len(began) == _MAX_EPOCHS and time.monotonic() - began[0] < _EPOCH_PERIOD:
            self._stopping.wait(self._epoch_waits.wait())
        else:
            self._epoch_waits.reset()
        began.append(time.monotonic())
        snapshot = self._take_snapshot(link)
        self._fault = None
        self._writer.new_epoch(snapshot)

    def _take_snapshot(self, link: Link) -> Snapshot:
        """Return the last events of the current epoch, and move the position after them."""
        checked = Store(link, self._names).check("", self._writer.seen())
        kept = self._read_history(link, checked.epoch, checked.number)
        self._epoch, self._number = checked.epoch, checked.number
        self._last = kept[-1] if kept else None
        self._chain = kept[-1].chain if kept else checked.chain
        self._after = f"{checked.number}-0"
        before = kept[0].chain_before if kept else checked.chain
        return Snapshot(checked.epoch, checked.number, [entry_of(record) for record in kept], mark_of(before))

    def _read_history(self, link: Link, epoch: str, number: int) -> list[Record]:
        """Return the last consecutive records of an epoch up to a number, as many as a history may hold."""
        options, kept, size = self._options, list[Record](), 0
        while number > 0 and len(kept) < options.history_size and size < options.history_bytes:
            page = link.call(
                "Reading events", "XREVRANGE", self._names.events, f"{number}-0", "-", "COUNT", min(_PAGE, options.history_size)
            )
            start = number
            for entry in (parse_entry(id, fields) for id, fields in page):
                if isinstance(entry, ForeignEntry) and not entry.number:
                    continue
                if isinstance(entry, ForeignEntry) or entry.number != number or entry.epoch != epoch:
                    return kept[::-1]
                kept.append(entry)
                size += len(entry.event.body)
                number -= 1
            if number == start:
                break
        return kept[::-1]
