"""A process's way to the broker: its events in order, in batches, and what becomes of them while the broker is away.

Threads: ``publish`` on any; ``_run`` is the lane's own thread, the only one to wait for the broker; ``deliver``, ``new_epoch``
    and ``go_away`` belong to the reader, where there is one.
Locks: ``_lock`` guards everything below but what is said to be the lane's thread's. The sink is told things while it is held,
    so that "put to local clients" and "read back" cannot overtake one another: it is taken before every lock of a hub, and
    nobody who holds one of those calls in here. Nobody logs, and nobody waits for the network, while holding it.
Blocks: ``publish`` until its event is stored, its deadline at most; ``stop`` for its time. ``deliver``, ``new_epoch`` and
    ``go_away`` for the lock only.

The breaker, which spares every request the wait for a broker that is known to be away, is the lane's state and no library:
pybreaker, the best kept one, finds out by letting a caller's call through when its time is up (1.4: ``CircuitOpenState``), and
holds its lock meanwhile, so that this request waits out the timeout and all others wait for it. Here only the lane's own thread
tries, and everybody else is answered at once.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from ..base import Entry, Outcome, OutgoingEvent, Sink, Snapshot
from .backoff import Backoff
from .connect import BrokerError
from .echoes import Echoes
from .event_store import Record, Store, Stored

__all__ = ["EventWriter"]

# What one call to the broker carries: enough to catch up quickly, little enough to be through well within the timeout.
_BATCH_EVENTS = 64
_BATCH_BYTES = 256 * 1024

# How long the thread waits for events before it ends, in seconds.
_IDLE = 10.0

# How long the tries are apart while the broker is away, in seconds: see Backoff.
_RETRIES = (0.05, 2.0)

# Who may not wait for the broker waits for the lock all the same, which is never held for long. In seconds.
_LOCK_WAIT = 0.25


class _Own:
    """Be one event of this process that is not known to be stored."""

    __slots__ = ("done", "event", "id", "read", "seq")

    def __init__(self, seq: int, event: OutgoingEvent) -> None:
        self.seq = seq
        self.event = event
        #: The reader has come to it: it is stored, though the answer that says so has not come, or never will.
        self.read = False
        #: What the publisher is told: the id, or None when it waits in the spool. ``done`` is set after it, and is None where
        #: nobody waits: a spool of thousands is no place for as many events of threading's.
        self.id: str | None = None
        self.done: threading.Event | None = None

    def settle(self) -> None:
        if self.done is not None:
            self.done.set()
            self.done = None


class EventWriter:
    """Carry the events of one process to the broker, in the order in which they were published.

    ``connect`` makes the way to it, in the lane's thread, and raises nothing; ``timeout`` is how long one answer may take.
    Without a ``sink`` nobody here hears events, as in a process that only publishes.
    """

    def __init__(
        self,
        connect: Callable[[], Store],
        timeout: float,
        spool_size: int,
        spool_bytes: int,
        logger: logging.Logger,
        sink: Sink | None = None,
    ) -> None:
        self._connect = connect
        self._timeout = timeout
        self._spool_size = spool_size
        self._spool_bytes = spool_bytes
        self._logger = logger
        self._sink = sink
        #: What this process is called at the broker, for as long as it lives.
        self.origin = secrets.token_hex(8)

        self._lock = threading.Lock()
        #: Notified when the lane's thread has something to do.
        self._work = threading.Condition(self._lock)
        #: Notified when there may be room.
        self._room = threading.Condition(self._lock)
        self._thread: threading.Thread | None = None
        #: Nothing is taken any more; the monotonic time at which the lane's thread gives up the rest.
        self._give_up_at: float | None = None

        #: What is not known to be stored, the oldest first, and the seq of the last event taken.
        self._queue: deque[_Own] = deque()
        self._queue_bytes = 0
        self._seq = 0
        #: Those that are stored, and those that local clients have heard without the reader.
        self._echoes = Echoes()
        #: The highest number that is known to have been given, in whichever epoch.
        self._seen = 0
        #: The same when the broker was asked for its last event. The lane's thread's.
        self._asked_at = 0

        #: The breaker: nobody waits for the broker but the lane's thread.
        self._away = False
        self._away_since = 0.0
        #: The reader says that it cannot read, which is reason enough to stay away.
        self._reader_lost = False
        #: Clients were told that they are cut off, and not yet that they are not; up to where the reader must have come then.
        self._cut = False
        self._target: int | None = None
        self._backoff = Backoff(*_RETRIES)
        self._retry_at = 0.0

        self._refused = self._stored = self._retried = self._failures = 0
        self._spooled_since = self._refused_since = 0

    # Publishing ---------------------------------------------------------------------------------------------------

    def publish(self, event: OutgoingEvent, timeout: float) -> Outcome:
        """Take an event, and wait ``timeout`` seconds at most until it is stored. Any thread; raises nothing.

        It is "stored" with its id, or "spooled": it waits in this process and goes on being tried; or it is refused.
        """
        deadline = time.monotonic() + timeout
        if not self._lock.acquire(timeout=max(_LOCK_WAIT, timeout)):
            return Outcome(None, reason=f"this process was too busy to take it within {max(_LOCK_WAIT, timeout):g} s")
        try:
            own, refusal = self._take_locked(event, deadline)
            if own is None:
                self._refused += 1
                self._refused_since += 1
            done = own.done if own is not None else None
        finally:
            self._lock.release()
        if own is None:
            return Outcome(None, reason=refusal)
        if done is not None:
            done.wait(max(0.0, deadline - time.monotonic()))
        return Outcome("stored", own.id) if own.id is not None else Outcome("spooled")

    def _take_locked(self, event: OutgoingEvent, deadline: float) -> tuple[_Own | None, str | None]:
        """Put an event in line; returns it, or None and why it cannot be taken."""
        size = len(event.body)
        while True:
            if self._give_up_at is not None:
                return None, "events are not taken any more: this process has shut its way to the broker down"
            full = self._fullness_locked(size)
            if full is None:
                break
            left = deadline - time.monotonic()
            # While the broker is there, room comes as fast as events are stored and read.
            if self._away or left <= 0:
                return None, full
            self._room.wait(left)
        try:
            self._start_thread_locked()
        except RuntimeError as error:
            return None, f"the process has no thread left to send it ({error})"
        self._seq += 1
        own = _Own(self._seq, event)
        self._queue.append(own)
        self._queue_bytes += size
        if self._away:
            self._spooled_since += 1
            if self._sink is not None:
                self._sink.put_local(event)
        else:
            own.done = threading.Event()
        if len(self._queue) == 1:
            self._work.notify()
        return own, None

    def _fullness_locked(self, size: int) -> str | None:
        events, held = len(self._queue) + len(self._echoes), self._queue_bytes + self._echoes.bytes
        if events < self._spool_size and (held + size <= self._spool_bytes or not events):
            return None
        waits = "for the broker to come back" if self._away else "to be stored and read back"
        return (
            f"{events} events of {held} bytes wait in this process {waits}, and no more than "
            f"CARTOWS_SPOOL_SIZE={self._spool_size} of CARTOWS_SPOOL_BYTES={self._spool_bytes} may"
        )

    def _start_thread_locked(self) -> None:
        if self._thread is None:
            # A daemon, since Python waits for other threads before it runs the exit handlers, one of which ends this one.
            thread = threading.Thread(target=self._run, name="cartows-publisher", daemon=True)
            thread.start()
            self._thread = thread

    # The reader ---------------------------------------------------------------------------------------------------

    def deliver(self, records: Sequence[Record], position: int) -> None:
        """Hand on what was read, up to the number ``position``; to be called after every read that worked, an empty one too.

        Own events that local clients have heard already are marked so, and when the reader has come to where it must be after
        an outage, the sink is told so. The reader's thread.
        """
        sink = self._sink
        assert sink is not None
        with self._lock:
            if records:
                entries = [Entry(record.number, record.event, self._read_back_locked(record)) for record in records]
                sink.put_entries(entries)
            self._echoes.read_to = max(self._echoes.read_to, position)
            self._seen = max(self._seen, position)
            if self._reader_lost:
                self._reader_lost = False
                self._work.notify()
            if self._target is not None and position >= self._target:
                self._rejoin_locked()
            self._room.notify_all()

    def new_epoch(self, past: Snapshot) -> None:
        """Have the sink begin with another past, since events were lost; what this process stored below it is not waited for.

        The reader's thread, which goes on after ``past.number``.
        """
        assert self._sink is not None
        with self._lock:
            self._sink.new_epoch(past)
            self._begin_locked(past)
            if self._target is not None:
                self._target = min(self._target, past.number)
            self._room.notify_all()

    def begin(self, past: Snapshot) -> None:
        """Know what the sink begins with: what was published here before that is not waited for. The hub thread."""
        with self._lock:
            self._begin_locked(past)
            self._room.notify_all()

    def _begin_locked(self, past: Snapshot) -> None:
        self._seen = max(self._seen, past.number)
        self._echoes.begin(past)

    def go_away(self, reason: str) -> None:
        """Take the broker for away, for the reader has lost it: until ``deliver`` is called again, and everything is stored.

        ``reason`` is the text of a BrokerError. The reader's thread.
        """
        with self._lock:
            self._reader_lost = True
            fresh = not self._away and self._give_up_at is None
            if fresh:
                self._go_away_locked()
                # Where there is no thread to be had, the next event tries again.
                with contextlib.suppress(RuntimeError):
                    self._start_thread_locked()
                self._work.notify()
        if fresh:
            self._say_away(reason)

    def target(self) -> int | None:
        """Return the number that the reader must come to before clients are told that they hear everybody again, or None.

        While there is one, the reader does well not to wait long for what comes next.
        """
        return self._target

    def seen(self) -> int:
        """Return the highest number that this process knows to have been given, in whichever epoch."""
        return self._seen

    def _read_back_locked(self, record: Record) -> bool:
        """Note that the reader has come to an event; returns whether local clients have heard it already."""
        if record.origin != self.origin:
            return False
        heard = self._echoes.read_back(record.seq)
        if self._queue:
            ahead = record.seq - self._queue[0].seq
            if 0 <= ahead < len(self._queue):
                self._queue[ahead].read = True
        return heard

    def _rejoin_locked(self) -> None:
        self._target = None
        if self._cut and self._sink is not None:
            self._cut = False
            self._sink.broker_restored()

    # Away and back ------------------------------------------------------------------------------------------------

    def _go_away_locked(self) -> None:
        """Open the breaker: from now on local clients hear this process alone, beginning with what they have not heard yet."""
        self._away = True
        self._away_since = time.monotonic()
        self._backoff.reset()
        self._retry_at = self._away_since
        self._target = None
        self._spooled_since, self._refused_since = len(self._queue), 0
        self._failures += 1
        if self._sink is not None:
            if not self._cut:
                self._cut = True
                self._sink.broker_lost()
            waiting = [own for own in self._queue if not own.read]
            self._echoes.go_away([own.seq for own in waiting], self._seq + 1, self._sink.put_local)
            for own in waiting:
                self._sink.put_local(own.event)
        self._echoes.clear()
        for own in self._queue:
            own.settle()
        self._room.notify_all()

    def _come_back_locked(self, number: int) -> None:
        """Close the breaker: everything is stored, the last event of all processes under ``number``."""
        self._away = False
        self._echoes.come_back(self._seq)
        self._target = number
        if self._sink is None or self._echoes.read_to >= number:
            self._rejoin_locked()
        self._room.notify_all()

    def _say_away(self, reason: str) -> None:
        self._logger.warning(
            "cartows: %s. Until it is back, events wait in this process, %d of them or %d bytes at most%s",
            reason.rstrip("."),
            self._spool_size,
            self._spool_bytes,
            ", and its clients hear no other" if self._sink is not None else "",
        )

    # The lane's thread --------------------------------------------------------------------------------------------

    def _run(self) -> None:
        store = self._connect()
        try:
            while (batch := self._next_batch()) is not None:
                self._attempt(store, batch)
        finally:
            store.close()

    def _next_batch(self) -> list[_Own] | None:
        """Wait for events to store; returns none when the broker is only to be asked whether it is there, and None to end."""
        with self._lock:
            while True:
                now = time.monotonic()
                if self._give_up_at is not None and (not self._queue or now >= self._give_up_at):
                    return None
                wait: float | None = None
                if self._away and now < self._retry_at:
                    wait = self._retry_at - now
                elif self._queue:
                    return self._head_locked()
                elif self._away and not self._reader_lost:
                    self._asked_at = self._seen
                    return []
                if self._give_up_at is not None:
                    wait = min(wait or _IDLE, self._give_up_at - now)
                if not self._work.wait(wait or _IDLE) and self._is_idle_locked():
                    # The next event starts another; a publisher that was forgotten leaves nothing behind.
                    self._thread = None
                    return None

    def _is_idle_locked(self) -> bool:
        return not self._queue and not self._away and self._give_up_at is None

    def _head_locked(self) -> list[_Own]:
        batch: list[_Own] = []
        size = 0
        for own in self._queue:
            size += len(own.event.body)
            if batch and (len(batch) == _BATCH_EVENTS or size > _BATCH_BYTES):
                break
            batch.append(own)
        return batch

    def _attempt(self, store: Store, batch: list[_Own]) -> None:
        """Store a batch, on a new connection where the old one broke; whatever else goes wrong opens the breaker."""
        try:
            try:
                stored = self._send(store, batch)
            except BrokerError as error:
                store.close()
                if not error.broken or self._away:
                    raise
                with self._lock:
                    self._retried += 1
                stored = self._send(store, batch)
        except BrokerError as error:
            store.close()
            self._failed(str(error))
        except Exception as error:
            # The thread must outlive it: nobody else would store what waits.
            self._logger.exception("cartows: storing events failed in a way that was not foreseen")
            store.close()
            self._failed(f"Storing events failed: {error!r}")
        else:
            self._succeeded(stored)

    def _send(self, store: Store, batch: list[_Own]) -> Stored:
        if not batch:
            epoch, number = store.position()
            return Stored(epoch, number + 1, 0)
        return store.store(self.origin, batch[0].seq, [own.event for own in batch], self._seen)

    def _failed(self, reason: str) -> None:
        with self._lock:
            fresh = not self._away
            if fresh:
                self._go_away_locked()
            else:
                self._retried += 1
            self._retry_at = time.monotonic() + self._backoff.wait()
        if fresh:
            self._say_away(reason)

    def _succeeded(self, stored: Stored) -> None:
        back = None
        last = stored.number + stored.size - 1
        with self._lock:
            self._backoff.reset()
            # A broker that has less than it had has lost something: nobody is back before the reader has begun anew. The
            # numbers of a batch that was stored before prove nothing.
            target = max(last, self._seen) if stored.size or last >= self._asked_at else self._seen + 1
            self._seen = max(self._seen, last)
            for number in range(stored.number, last + 1):
                own = self._queue.popleft()
                self._queue_bytes -= len(own.event.body)
                if self._sink is not None and not self._away and not own.read:
                    self._echoes.stored(own.seq, stored.epoch, number, own.event)
                own.id = f"{stored.epoch}.{number}"
                own.settle()
            self._stored += stored.size
            if self._away and not self._queue and not self._reader_lost:
                back = time.monotonic() - self._away_since, self._spooled_since, self._refused_since
                self._come_back_locked(target)
            self._room.notify_all()
        if back is not None:
            self._logger.warning(
                "cartows: the broker is back after %.1f s: %d events that had waited here were stored, %d were refused", *back
            )

    # The end ------------------------------------------------------------------------------------------------------

    def stop(self, timeout: float) -> int:
        """Take nothing more, try to store the rest within so many seconds, and end the thread; idempotent.

        Returns how many events are lost, which it also logs. It starts no thread.
        """
        deadline = time.monotonic() + timeout
        with self._lock:
            first = self._give_up_at is None
            if first:
                self._give_up_at = deadline
                self._retry_at = 0.0
            self._work.notify_all()
            self._room.notify_all()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(max(0.0, deadline - time.monotonic()))
        with self._lock:
            lost = len(self._queue)
            for own in self._queue:
                own.settle()
        if lost and first:
            self._logger.error(
                "cartows: %d events that waited for the broker are lost with this process: it was given %.1f s to store them",
                lost,
                timeout,
            )
        return lost

    def stats(self) -> dict[str, Any]:
        """Return the counters: events taken, waiting, stored, refused, second tries, outages, and whether there is one now."""
        with self._lock:
            return {
                "published": self._seq,
                "spooled": len(self._queue),
                "stored": self._stored,
                "refused": self._refused,
                "retried": self._retried,
                "outages": self._failures,
                "away": self._away,
            }
