"""Redis Streams as the way between processes: what this process publishes goes there, and what is there comes to its hub.

Threads: ``prepare`` and ``follow`` on the hub thread; ``publish`` on any; ``_run`` is the reader's, "cartows-reader", the only
    one that waits for what comes.
Locks: none of its own; the lane's guards what is told to the hub (see ``lane``). What the reader knows is the reader's alone.
Blocks: ``prepare`` for ``publish_timeout`` seconds at most; ``publish`` as long as the lane does; ``stop`` for its time.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ...options import Options
from ...presence.presence import PresenceEntry
from ..base import Entry, Outcome, OutgoingEvent, Sink, Snapshot
from .connect import Broker, BrokerError, Link
from .event_store import Names, Record, Store, new_epoch, record_of
from .event_writer import EventWriter
from .presence_sync import People

__all__ = ["RedisBackplane"]

# How long a read waits for something to come, and after how long without anything it is asked whether all is as it was: a
# broker that was emptied says nothing by itself.
_READ_WAIT_MS = 1000

# How long a read waits where somebody waits for it to have come to the end.
_SHORT_WAIT_MS = 50

# What is read at once, of what comes and of the past: an event may have a megabyte.
_MAX_READ = 64
_PAGE = 64

# How long an answer of the broker's may be late beside that, in seconds, before it counts as away.
_LATE = 1.0

# How often a broker is tried that cannot be read, in seconds.
_RETRY = 0.25

# How often it is looked whether the reader has come to the end of what was stored, in seconds.
_STOP_STEP = 0.01


class _Gap(Exception):
    """Say that the stream does not go on where this process has come to."""


class RedisBackplane:
    """Carry the events of a hub by way of ``options.redis_url``. Raises OptionsError for what cannot work."""

    def __init__(self, options: Options, sink: Sink, logger: logging.Logger) -> None:
        assert options.redis_url is not None
        self._broker = Broker(options.redis_url)
        self._names = Names()
        self._options = options
        self._sink = sink
        self._logger = logger
        timeout = options.publish_timeout
        self._lane = EventWriter(
            lambda: Store(self._broker.link(timeout), self._names),
            timeout,
            options.spool_size,
            options.spool_bytes,
            logger,
            sink,
        )
        #: The reader's way to Redis; closed by ``stop``, too.
        self._link = self._broker.link(_READ_WAIT_MS / 1000 + _LATE)
        self._people = People(self._broker.link, sink, logger)
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        #: When the reader is to end though it has not come to everything; the monotonic clock's.
        self._give_up_at = float("inf")
        # The reader's: the epoch, the number it has come to, and the entry under that number.
        self._epoch = ""
        self._number = 0
        self._last: tuple[int, str, int] | None = None
        #: Behind which entry it reads; that may be one that is none of cartows.
        self._behind: bytes | str = "0-0"
        #: The number that the broker has come to, when it was asked last.
        self._told = 0
        #: Something was read since the last time that something went wrong.
        self._has_read = False
        #: What prepare could not do, and the reader has to.
        self._fault: Exception | None = None

    # The hub's side -----------------------------------------------------------------------------------------------

    def prepare(self) -> Snapshot:
        """See Backplane.prepare. Where Redis cannot be reached the hub begins alone, and is told another past later."""
        link = self._broker.link(self._options.publish_timeout)
        try:
            past = self._read_past(link)
            self._lane.begin(past)
            return past
        except Exception as error:
            if not isinstance(error, BrokerError):
                self._logger.exception("cartows: reading from %s failed in a way that was not foreseen", self._broker.place)
            self._fault = error
            # An epoch that nobody else has: nothing that is heard until then can be come back to.
            return Snapshot(new_epoch(), 0)
        finally:
            link.close()

    def follow(self) -> None:
        """See Backplane.follow."""
        thread = threading.Thread(target=self._run, name="cartows-reader", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            self._lane.go_away(
                f"Reading events at {self._broker.place} failed: the process has no thread left for it ({error})"
            )
            return
        self._thread = thread
        try:
            self._people.start()
        except RuntimeError as error:
            self._logger.error("cartows: presence is not shared, for the process has no thread left for it: %s", error)

    def publish(self, event: OutgoingEvent, timeout: float) -> Outcome:
        """See Backplane.publish."""
        return self._lane.publish(event, timeout)

    def may_come(self, number: int) -> bool:
        """See Backplane.may_come: what another process was told of is on its way here, unless it is made up."""
        return self._fault is None

    def announce(self, changes: Mapping[str, PresenceEntry | None]) -> None:
        """See Backplane.announce."""
        self._people.announce(changes)

    def disconnect(self, identity: str, code: int, reason: str) -> None:
        """See Backplane.disconnect."""
        self._people.disconnect(identity, code, reason)

    def reauthorize(self, identity: str) -> None:
        """See Backplane.reauthorize."""
        self._people.reauthorize(identity)

    def stats(self) -> dict[str, Any]:
        """Return the counters of the way to Redis."""
        return self._lane.stats()

    def stop(self, timeout: float) -> None:
        """See Backplane.stop. What was stored here is still read back, so that this process's own clients hear it."""
        deadline = time.monotonic() + timeout
        self._people.stop(timeout / 2)
        self._lane.stop(max(0.0, deadline - time.monotonic()))
        self._give_up_at = deadline
        self._stopping.set()
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return
        while thread.is_alive() and self._number < self._lane.seen() and time.monotonic() < deadline:
            thread.join(_STOP_STEP)
        # It waits for more, and none is to come: the connection is taken from below it.
        self._link.close()
        thread.join(max(0.0, deadline - time.monotonic()))

    # The reader ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        link = self._link
        if self._fault is not None:
            self._lane.go_away(str(self._fault))
        try:
            while not self._is_over():
                try:
                    self._follow(link)
                except BrokerError as error:
                    link.close()
                    self._recover(link, error)
                except Exception:
                    # The thread must outlive it: nobody would hear anything any more.
                    self._logger.exception("cartows: reading from %s failed in a way that was not foreseen", self._broker.place)
                    link.close()
                    self._lane.go_away(f"Reading events at {self._broker.place} failed")
                    self._stopping.wait(_RETRY)
        finally:
            link.close()

    def _is_over(self) -> bool:
        if not self._stopping.is_set():
            return False
        return self._number >= self._lane.seen() or time.monotonic() >= self._give_up_at

    def _recover(self, link: Link, error: BrokerError) -> None:
        """Try another connection at once where one broke that had worked; whatever else went wrong, Redis is away."""
        if error.broken and self._has_read:
            self._has_read = False
            try:
                link.call("Reading events", "PING")
                return
            except BrokerError as again:
                link.close()
                error = again
        self._lane.go_away(str(error))
        self._stopping.wait(_RETRY)

    def _follow(self, link: Link) -> None:
        """Read on until something goes wrong."""
        store = Store(link, self._names)
        self._check(link, store)
        # That it can be read is to be known soon.
        wait, missing = _SHORT_WAIT_MS, 0
        while not self._is_over() and self._sink.await_room():
            records = self._read(link, wait)
            self._has_read = True
            try:
                self._hand_on(records)
            except _Gap:
                # Where the broker has lost something a new epoch is to begin, else only this process has missed something.
                if not self._check(link, store):
                    self._start_over(link)
                continue
            # What the broker counts and does not bring, twice in a row, is lost: its stream, and nothing else.
            missing = missing + 1 if not records and not self._check(link, store) and self._told > self._number else 0
            if missing > 1:
                self._logger.error("cartows: %s has lost the stream %s", self._broker.place, self._names.events)
                self._start_over(link)
            wait = _READ_WAIT_MS if self._lane.target() is None and not self._stopping.is_set() else _SHORT_WAIT_MS

    def _read(self, link: Link, wait: int) -> list[Record]:
        """Return what comes next, having waited for it so many milliseconds; nothing where nothing has come."""
        found = link.call(
            "Reading events", "XREAD", "COUNT", _MAX_READ, "BLOCK", wait, "STREAMS", self._names.events, self._behind
        )
        entries = found[0][1] if found else []
        if entries:
            self._behind = entries[-1][0]
        return self._records(entries)

    def _records(self, entries: Sequence[tuple[bytes, Mapping[bytes, bytes]]]) -> list[Record]:
        records = []
        for id, fields in entries:
            try:
                records.append(record_of(id, fields))
            except (KeyError, ValueError, TypeError, RecursionError) as error:
                self._logger.error("cartows: an entry %r of %s is none of cartows: %r", id, self._names.events, error)
        return records

    def _hand_on(self, records: list[Record]) -> None:
        """Hand on what was read. Raises _Gap, with nothing handed on, unless it goes on where this process has come to."""
        number, last = self._number, self._last
        for record in records:
            number += 1
            follows = last is None or record.previous == f"{last[1]}:{last[2]}"
            if record.number != number or record.epoch != self._epoch or not follows:
                raise _Gap
            last = (number, record.origin, record.seq)
        self._number, self._last = number, last
        self._lane.deliver(records, self._number)

    def _check(self, link: Link, store: Store) -> bool:
        """Ask whether the broker still has what was read from it, and begin anew where it has not; returns whether it did."""
        found = store.check(self._epoch, max(self._number, self._lane.seen()), self._last)
        self._told = found.number
        anew = found.state != "fine" or self._fault is not None
        if anew:
            if found.state == "lost":
                self._logger.error(
                    "cartows: %s has lost events (it was emptied, or a replica took over that had not heard everything): a new "
                    "epoch begins, and every client is told to load everything again",
                    self._broker.place,
                )
            self._start_over(link)
        return anew

    def _start_over(self, link: Link) -> None:
        """Begin with another past: events are missing between the one there was and what comes."""
        past = self._read_past(link)
        self._fault = None
        self._lane.new_epoch(past)

    def _read_past(self, link: Link) -> Snapshot:
        """Read the last events of the epoch in force, and go on behind them."""
        checked = Store(link, self._names).check("", self._lane.seen())
        kept = self._read_back(link, checked.epoch, checked.number)
        self._epoch, self._number, self._last = checked.epoch, checked.number, None
        self._behind = f"{checked.number}-0"
        if kept:
            self._last = (checked.number, kept[-1].origin, kept[-1].seq)
        return Snapshot(checked.epoch, checked.number, [Entry(record.number, record.event) for record in kept])

    def _read_back(self, link: Link, epoch: str, number: int) -> list[Record]:
        """Return the last records up to a number that follow one another in one epoch, as many as a history may hold."""
        options, kept, size = self._options, list[Record](), 0
        while number > 0 and len(kept) < options.history_size and size < options.history_bytes:
            page = link.call(
                "Reading events", "XREVRANGE", self._names.events, f"{number}-0", "-", "COUNT", min(_PAGE, options.history_size)
            )
            for record in self._records(page):
                if record.number != number or record.epoch != epoch:
                    return kept[::-1]
                kept.append(record)
                size += len(record.event.body)
                number -= 1
            if not page:
                break
        return kept[::-1]
