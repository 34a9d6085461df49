"""The hub thread's loop: take events from the broadcast queue, keep the history, send to the recipients.

**Threads**: the hub thread alone, except for ``position``, which any thread may read.
**Locks**: none of its own; it takes those of the history and of the connections, one at a time.
**Blocks**: ``run`` until there is something in the queue.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from ..client.batch import Batch
from ..client.client import Client
from ..client.sender import QUEUED
from ..history.history import Event, History
from ..options import Options
from ..rooms import Rooms
from .broadcast_queue import BroadcastQueue

__all__ = ["Dispatcher", "Item"]

# Registrations served in one iteration, so that many clients that connect at once do not delay events.
_MAX_REGISTRATIONS = 64

# Sends between two yields of the GIL, and how long a yield may take, in seconds, before the batch continues without any. A
# batch of a few sends ends sooner than a thread that takes the GIL gives it back: with clients that flood, the p99 latency is
# a quarter lower without yields in it.
_SENDS_PER_YIELD = 64
_SENDS_BEFORE_YIELD = 256
_MAX_YIELD = 0.001

# What the broadcast queue holds: events, and what is to be called between them.
Item = Event | Callable[[], None]


class Dispatcher:
    """The rooms, the history and the position of one hub."""

    def __init__(self, broadcast_queue: BroadcastQueue[Item], options: Options, logger: logging.Logger) -> None:
        self._broadcast_queue = broadcast_queue
        self._max_batch_bytes = options.send_queue_bytes // 4
        self._logger = logger
        self.history = History("", options.history_size, options.history_bytes, options.history_ttl)
        self.rooms: Rooms[Client] = Rooms()
        #: The number of the last event that has been handed to every client or its queue.
        self.position = 0
        #: Sends in the current batch, and whether it still yields the GIL.
        self._sends = 0
        self._yields = True
        #: The size of the smallest send queue among the clients.
        self._min_queue_size = options.send_queue_size

    # The loop ---------------------------------------------------------------------------------------------------------

    def run(self, prepare: Callable[[], None], after_controls: Callable[[], None]) -> None:
        """Run until the broadcast queue is closed and empty.

        ``prepare`` is called before any client is served, so that clients that resume find the history; ``after_controls``
        at the end of each iteration that had controls.
        """
        self._guard(prepare)
        while True:
            controls, items = self._broadcast_queue.take(self.max_events, _MAX_REGISTRATIONS)
            if not controls and not items:
                return
            for control in controls:
                self._guard(control)
            if controls:
                self._guard(after_controls)
            if items:
                self._guard(partial(self.take, items))

    def _guard(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception:
            self._logger.exception("cartows: an action of the hub thread failed; the hub continues")

    @property
    def max_events(self) -> int:
        """The number of events taken in one iteration: one short send must not overflow a client that keeps up."""
        return max(1, self._min_queue_size * 3 // 4)

    def limit_batches(self, send_queue_size: int) -> None:
        """Take no more events in one iteration than a client with such a send queue can be sent."""
        self._min_queue_size = min(self._min_queue_size, send_queue_size)

    def begin(self, epoch: str, number: int, events: Sequence[Event], mark: str = "") -> None:
        """Replace the history by these events, the last of which has that number; ``mark`` is that of the event before them."""
        self.history.new_epoch(epoch, number - len(events), mark)
        if events:
            self.history.append(events)
        self.position = number

    # Events -----------------------------------------------------------------------------------------------------------

    def take(self, items: Sequence[Item]) -> None:
        """Process items in their order: events are distributed, anything else is called."""
        run: list[Event] = []
        for item in items:
            if isinstance(item, Event) and item.frame.number:
                run.append(item)
                continue
            self.distribute(run)
            run = []
            try:
                if isinstance(item, Event):
                    self._send_batch((item,))
                else:
                    item()
            except Exception:
                self._logger.exception("cartows: an item of the broadcast queue failed; the hub continues")
        self.distribute(run)

    def distribute(self, events: Sequence[Event]) -> None:
        """Add a run of events to the history, and send them."""
        for batch in self._batches(events):
            try:
                self.history.append(batch)
                self._send_batch(batch)
            except Exception:
                self._logger.exception("cartows: sending %d events failed; the hub continues", len(batch))
            self.position = batch[-1].frame.number

    def _batches(self, events: Sequence[Event]) -> Iterator[Sequence[Event]]:
        """Divide a run of events by bytes, as ``max_events`` does by number."""
        max_bytes, size, start = self._max_batch_bytes, 0, 0
        for index, event in enumerate(events):
            size += len(event.frame.plain)
            if size > max_bytes and index > start:
                yield events[start:index]
                start, size = index, len(event.frame.plain)
        if events:
            yield events[start:]

    def _send_batch(self, events: Sequence[Event]) -> None:
        """Send each client, in one send, the events that match its subscriptions."""
        self._yields, self._sends = True, 0
        events = [event for event in events if not event.delivered]
        if not events:
            return
        frames = [event.shown or event.frame for event in events]
        every = (1 << len(events)) - 1
        for mask, clients in self.rooms.recipients([event.audience for event in events]).items():
            matching = frames if mask == every else [frame for index, frame in enumerate(frames) if mask >> index & 1]
            self.send(Batch(matching), clients)

    def _yield_gil(self) -> None:
        began = time.perf_counter()
        time.sleep(0)
        self._yields = time.perf_counter() - began < _MAX_YIELD

    def send(self, batch: Batch, clients: Sequence[Client]) -> None:
        """Send a batch to clients. One that cannot be served is closed, and the others are served."""
        pending: list[tuple[Client, int]] = []
        for client in clients:
            try:
                result = client.connection.offer(batch)
            except Exception:
                self.close_on_error(client)
                continue
            if result > QUEUED:
                pending.append((client, result))
            self._sends += 1
            if self._sends >= _SENDS_BEFORE_YIELD and not self._sends % _SENDS_PER_YIELD and self._yields:
                self._yield_gil()
        for client, result in pending:
            try:
                client.handle_send_result(result)
            except Exception:
                self.close_on_error(client)

    def close_on_error(self, client: Client) -> None:
        """Log what is being raised while a client is served, and close the client."""
        self._logger.exception("cartows: serving client %s failed; it is disconnected, the others are served", client.id)
        client.connection.close_on_error()
