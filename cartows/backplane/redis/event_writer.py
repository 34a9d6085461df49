"""Writes a process's events to the broker: in order, in batches, and again after an outage.

**Threads**: ``publish``, ``stop`` and ``stats`` run on any thread. ``_run`` is the writer's own thread, the only one that waits
for the broker. ``begin`` runs on the hub thread; ``deliver``, ``new_epoch`` and ``broker_lost`` on the reader's.

**Locks**: ``_lock`` guards everything except what is the writer thread's alone, including the spool, the breaker and local
delivery. The sink is called while it is held, so the lock comes before every lock of a hub, and no thread that holds one of
those calls this module. Logging and waiting for the network never happen under it.

**Blocks**: ``publish`` waits until its event is stored, until its deadline at most; ``stop`` within its timeout. The others
wait for the lock only.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from ..base import BackplaneResult, OutgoingEvent, Sink, Snapshot
from .circuit_breaker import CircuitBreaker
from .connect import BrokerError
from .event_store import Record, Store, Stored
from .local_delivery import LocalDelivery
from .spool import PendingEvent, Spool

__all__ = ["EventWriter"]

# How long the thread waits for events before it ends, in seconds.
_IDLE = 10.0

# A publisher that must not wait for the broker still waits for the lock, which is never held for long. In seconds.
_LOCK_WAIT = 0.25


class EventWriter:
    """The way of one process's events to the broker, in the order in which they were published.

    ``connect`` makes the connection in the writer's thread, and must not raise. Without a ``sink`` the process has no clients.
    """

    def __init__(
        self, connect: Callable[[], Store], spool_size: int, spool_bytes: int, logger: logging.Logger, sink: Sink | None = None
    ) -> None:
        self._connect = connect
        self._logger = logger
        self._has_sink = sink is not None
        #: This process's name at the broker, for as long as it lives.
        self.origin = secrets.token_hex(8)

        self._lock = threading.Lock()
        #: Notified when the writer's thread has something to do.
        self._work = threading.Condition(self._lock)
        #: Notified when there may be room.
        self._room = threading.Condition(self._lock)
        self._thread: threading.Thread | None = None
        #: The monotonic time at which the writer's thread gives up the rest; once it is set, no event is accepted.
        self._give_up_at: float | None = None

        self._spool = Spool(spool_size, spool_bytes)
        self._breaker = CircuitBreaker()
        self._local = LocalDelivery(sink, self.origin)
        #: The highest number that is known to have been assigned, in any epoch.
        self._seen = 0
        #: The same when the broker was asked for its last event. The writer thread's own.
        self._asked_at = 0
        self._rejected = self._stored = self._retried = 0

    # Publishing ---------------------------------------------------------------------------------------------------

    def publish(self, event: OutgoingEvent, timeout: float) -> BackplaneResult:
        """Accept an event, and wait ``timeout`` seconds at most until it is stored. Any thread; raises nothing.

        The event is "stored" with its id, or "spooled": it waits in this process and is retried; or it is rejected.
        """
        deadline = time.monotonic() + timeout
        if not self._lock.acquire(timeout=max(_LOCK_WAIT, timeout)):
            return BackplaneResult(None, reason=f"this process was too busy to accept it within {max(_LOCK_WAIT, timeout):g} s")
        try:
            pending, reason = self._accept_locked(event, deadline)
            if pending is None:
                self._rejected += 1
                self._breaker.rejected += 1
            done = pending.done if pending is not None else None
        finally:
            self._lock.release()
        if pending is None:
            return BackplaneResult(None, reason=reason)
        if done is not None:
            done.wait(max(0.0, deadline - time.monotonic()))
        return BackplaneResult("stored", pending.id) if pending.id is not None else BackplaneResult("spooled")

    def _accept_locked(self, event: OutgoingEvent, deadline: float) -> tuple[PendingEvent | None, str | None]:
        """Queue an event and return it, or None and the reason why it is rejected."""
        while True:
            if self._give_up_at is not None:
                return None, "events are not accepted any more: this process has shut down its connection to the broker"
            waiting_for = "for the broker to come back" if self._breaker.is_open else "to be stored and read back"
            full = self._spool.why_full(len(event.body), self._local.echoes, waiting_for)
            if full is None:
                break
            left = deadline - time.monotonic()
            # While the broker is reachable, room comes as fast as events are stored and read.
            if self._breaker.is_open or left <= 0:
                return None, full
            self._room.wait(left)
        try:
            self._start_thread_locked()
        except RuntimeError as error:
            return None, f"the process has no thread left to send it ({error})"
        pending = self._spool.append(event)
        if self._breaker.is_open:
            self._breaker.spooled += 1
            self._local.published(pending)
        else:
            pending.done = threading.Event()
        if len(self._spool) == 1:
            self._work.notify()
        return pending, None

    def _start_thread_locked(self) -> None:
        if self._thread is None:
            # A daemon: Python waits for other threads before it runs the exit handlers, one of which ends this one.
            thread = threading.Thread(target=self._run, name="cartows-publisher", daemon=True)
            thread.start()
            self._thread = thread

    # Calls of the reader ------------------------------------------------------------------------------------------

    def deliver(self, records: Sequence[Record], position: int) -> None:
        """Pass on what was read up to the number ``position``; call it after every read that succeeds, an empty one too.

        Own events that local clients have already received are marked as such. The sink is notified once the reader has caught
        up after an outage. The reader's thread.
        """
        with self._lock:
            self._local.deliver(records, position, self._spool)
            self._seen = max(self._seen, position)
            if self._breaker.reader_lost:
                self._breaker.reader_lost = False
                self._work.notify()
            self._room.notify_all()

    def new_epoch(self, snapshot: Snapshot) -> None:
        """Make the sink continue after another snapshot, since events were lost; expect no own event below it to be read.

        The reader's thread, which continues after ``snapshot.number``.
        """
        with self._lock:
            self._local.new_epoch(snapshot)
            self._seen = max(self._seen, snapshot.number)
            self._room.notify_all()

    def begin(self, snapshot: Snapshot) -> None:
        """Start from the snapshot that the sink starts from. The hub thread."""
        with self._lock:
            self._seen = max(self._seen, snapshot.number)
            self._local.echoes.begin(snapshot)
            self._room.notify_all()

    def broker_lost(self, reason: str) -> None:
        """Begin an outage, since the reader cannot read; it lasts until ``deliver`` is called and everything is stored.

        ``reason`` is the text of a BrokerError. The reader's thread.
        """
        with self._lock:
            self._breaker.reader_lost = True
            fresh = not self._breaker.is_open and self._give_up_at is None
            if fresh:
                self._start_outage_locked()
                # Where no thread can be started, the next event tries again.
                with contextlib.suppress(RuntimeError):
                    self._start_thread_locked()
                self._work.notify()
        if fresh:
            self._log_outage(reason)

    def target(self) -> int | None:
        """Return the number that the reader must reach before clients are notified that the broker is restored, or None.

        While there is one, the reader should not wait long for the next event.
        """
        return self._local.target

    def seen(self) -> int:
        """Return the highest number that is known to have been assigned, in any epoch."""
        return self._seen

    def _start_outage_locked(self) -> None:
        """Open the breaker: from now on local clients receive this process's events alone."""
        self._breaker.open(len(self._spool))
        self._local.start_outage(self._spool)
        self._spool.release_all()
        self._room.notify_all()

    def _log_outage(self, reason: str) -> None:
        self._logger.warning(
            "cartows: %s. Until it is back, events wait in this process, %d of them or %d bytes at most%s",
            reason.rstrip("."),
            self._spool.max_events,
            self._spool.max_bytes,
            ", and its clients receive no others" if self._has_sink else "",
        )

    # The writer's thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        store = self._connect()
        try:
            while (batch := self._next_batch()) is not None:
                self._attempt(store, batch)
        finally:
            store.close()

    def _next_batch(self) -> list[PendingEvent] | None:
        """Wait for events to store. Return an empty list when the broker is only to be probed, and None to end."""
        breaker = self._breaker
        with self._lock:
            while True:
                now = time.monotonic()
                if self._give_up_at is not None and (not self._spool or now >= self._give_up_at):
                    return None
                wait: float | None = None
                if breaker.is_open and now < breaker.retry_at:
                    wait = breaker.retry_at - now
                elif self._spool:
                    return self._spool.batch()
                elif breaker.is_open and not breaker.reader_lost:
                    self._asked_at = self._seen
                    return []
                if self._give_up_at is not None:
                    wait = min(wait or _IDLE, self._give_up_at - now)
                notified = self._work.wait(wait or _IDLE)
                if not (notified or self._spool or breaker.is_open or self._give_up_at is not None):
                    # The next event starts another thread; a publisher that is no longer used leaves nothing behind.
                    self._thread = None
                    return None

    def _attempt(self, store: Store, batch: list[PendingEvent]) -> None:
        """Store a batch, on a new connection where the old one broke; any other failure opens the breaker."""
        try:
            try:
                stored = self._send(store, batch)
            except BrokerError as error:
                store.close()
                if not error.broken or self._breaker.is_open:
                    raise
                with self._lock:
                    self._retried += 1
                stored = self._send(store, batch)
        except BrokerError as error:
            store.close()
            self._failed(str(error))
        except Exception as error:
            # The thread must outlive it: no other stores what waits.
            self._logger.exception("cartows: storing events failed unexpectedly")
            store.close()
            self._failed(f"Storing events failed: {error!r}")
        else:
            self._succeeded(stored, batch[0].seq if batch else 0)

    def _send(self, store: Store, batch: list[PendingEvent]) -> Stored:
        if not batch:
            epoch, number = store.position()
            return Stored(epoch, number + 1, 0)
        return store.store(self.origin, batch[0].seq, [pending.event for pending in batch], self._seen)

    def _failed(self, reason: str) -> None:
        with self._lock:
            fresh = not self._breaker.is_open
            if fresh:
                self._start_outage_locked()
            else:
                self._retried += 1
            self._breaker.attempt_failed()
        if fresh:
            self._log_outage(reason)

    def _succeeded(self, stored: Stored, first: int) -> None:
        outage = None
        last = stored.number + stored.size - 1
        with self._lock:
            self._breaker.attempt_succeeded()
            # A broker that has fewer events than before has lost some: the outage does not end before the reader has begun a
            # new epoch. The numbers of a batch that was stored earlier prove nothing.
            target = max(last, self._seen) if stored.size or last >= self._asked_at else self._seen + 1
            self._seen = max(self._seen, last)
            for number, id in enumerate(stored.ids(self.origin, first), stored.number):
                pending = self._spool.pop()
                if not self._breaker.is_open:
                    self._local.stored(pending, stored.epoch, number)
                pending.id = id
                pending.release()
            self._stored += stored.size
            if self._breaker.is_open and not self._spool and not self._breaker.reader_lost:
                outage = self._breaker.close()
                self._local.end_outage(self._spool.last_seq, target)
            self._room.notify_all()
        if outage is not None:
            self._logger.warning(
                "cartows: the broker is back after %.1f s: %d events that had waited here were stored, %d were rejected",
                *outage,
            )

    # The end ------------------------------------------------------------------------------------------------------

    def stop(self, timeout: float) -> int:
        """Accept no more events, try to store the rest within ``timeout`` seconds, and end the thread; idempotent.

        Return how many events are lost, which is logged as well. It starts no thread.
        """
        deadline = time.monotonic() + timeout
        with self._lock:
            first = self._give_up_at is None
            if first:
                self._give_up_at = deadline
                self._breaker.retry_at = 0.0
            self._work.notify_all()
            self._room.notify_all()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(max(0.0, deadline - time.monotonic()))
        with self._lock:
            lost = len(self._spool)
            self._spool.release_all()
        if lost and first:
            self._logger.error(
                "cartows: %d events that waited for the broker are lost with this process: it had %.1f s to store them",
                lost,
                timeout,
            )
        return lost

    def stats(self) -> dict[str, Any]:
        """Return the counters: events accepted, waiting, stored and rejected; retries; outages; whether there is one now."""
        with self._lock:
            return {
                "published": self._spool.last_seq,
                "spooled": len(self._spool),
                "stored": self._stored,
                "refused": self._rejected,
                "retried": self._retried,
                "outages": self._breaker.outages,
                "away": self._breaker.is_open,
            }
