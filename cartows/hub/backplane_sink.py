"""What a hub is told by its backplane, put into the hub's channel in the order in which it happened.

Threads: any; a backplane sees to it that what is told in an order is told one after another.
Locks: none of its own; the channel has one.
Blocks: ``put`` and ``await_room`` for room; nothing else.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from functools import partial

from ..backplane.base import BackplaneResult, Entry, OutgoingEvent, Snapshot
from ..history.history import Event, event_id
from ..options import Options
from ..presence.presence import PresenceEntry, PresenceReport
from ..websocket.frames import Frame
from .broadcast_queue import BroadcastQueue, BroadcastQueueClosed
from .clients import Clients
from .dispatcher import Dispatcher, Item

__all__ = ["BackplaneSink"]


class BackplaneSink:
    """Be the Sink of a hub's backplane."""

    #: The hub's, which is made once the backplane is.
    dispatcher: Dispatcher

    def __init__(self, channel: BroadcastQueue[Item], clients: Clients, options: Options, logger: logging.Logger) -> None:
        self._broadcast_queue = channel
        self._clients = clients
        self._options = options
        self._logger = logger
        #: Of what comes next: the epoch, and whether nobody can come back to where it is.
        self._epoch = ""
        self._degraded_now = False

    def begin(self, past: Snapshot) -> None:
        """Have the hub begin with a past. Hub thread."""
        self._epoch = past.epoch
        self.dispatcher.begin(past.epoch, past.number, [self.event(past.epoch, entry) for entry in past.entries])

    def put(self, event: OutgoingEvent, epoch: str, timeout: float) -> BackplaneResult:
        """See Sink.put."""
        try:
            put = self._broadcast_queue.put_event(partial(self._numbered, event, epoch), timeout, wait=timeout > 0)
        except BroadcastQueueClosed:
            return BackplaneResult(None, reason="the hub was shut down")
        if put is None:
            options = self._options
            full = (
                f"the broadcast queue stayed full ({options.broadcast_queue_size} messages) for {options.publish_timeout:g} s"
            )
            return BackplaneResult(None, reason=full)
        assert isinstance(put, Event)
        return BackplaneResult("queued", event_id(epoch, put.frame.number))

    def _numbered(self, event: OutgoingEvent, epoch: str, number: int) -> Event:
        return self.event(epoch, Entry(number, event))

    def event(self, epoch: str, entry: Entry) -> Event:
        """Make of a stored event what is sent and kept."""
        event, number = entry.event, entry.number
        body = b'%s,"id":"%s"}' % (event.body[:-1], event_id(epoch, number).encode())
        return Event(self._frame(event, body, number), event.audience, delivered=entry.delivered)

    def _frame(self, event: OutgoingEvent, body: bytes, number: int = 0) -> Frame:
        options = self._options
        return Frame(
            body,
            number=number,
            compress_min_size=options.compress_min_size,
            entity=event.entity,
            merges=event.merges and number > 0,
        )

    def put_entries(self, entries: Sequence[Entry]) -> None:
        """See Sink.put_entries."""
        self._broadcast_queue.put_unbounded(*[self._fed(entry) for entry in entries])

    def _fed(self, entry: Entry) -> Event:
        event = self.event(self._epoch, entry)
        if not self._degraded_now or entry.delivered:
            return event
        # Without an id: nobody could come back to it and find everything behind it that they have not heard.
        return event._replace(shown=self._frame(entry.event, entry.event.body))

    def put_local(self, event: OutgoingEvent) -> None:
        """See Sink.put_local."""
        self._broadcast_queue.put_unbounded(Event(self._frame(event, event.body), event.audience))

    def await_room(self) -> bool:
        """See Sink.await_room."""
        return self._broadcast_queue.await_room()

    def broker_lost(self) -> None:
        """See Sink.broker_lost."""
        self._degraded_now = True
        self._broadcast_queue.put_unbounded(self.dispatcher.broker_lost)

    def broker_restored(self) -> None:
        """See Sink.broker_restored."""
        self._degraded_now = False
        self._broadcast_queue.put_unbounded(self.dispatcher.broker_restored)

    def new_epoch(self, past: Snapshot) -> None:
        """See Sink.new_epoch."""
        self._epoch = past.epoch
        events = [self.event(past.epoch, entry) for entry in past.entries]
        self._broadcast_queue.put_unbounded(partial(self.dispatcher.new_epoch, past.epoch, past.number, events))

    def presence_entries(self) -> list[PresenceEntry]:
        """See PresenceSink.presence_entries."""
        return self.dispatcher.presence.presence_entries()

    def apply(self, reports: list[PresenceReport]) -> None:
        """See PresenceSink.apply."""
        self._broadcast_queue.put_control(partial(self.dispatcher.presence.apply, reports))

    def disconnect_identity(self, identity: str, code: int, reason: str) -> None:
        """See PresenceSink.disconnect_identity."""
        Clients.disconnect(self._clients, identity=identity, code=code, reason=reason)

    def reauthorize_identity(self, identity: str) -> None:
        """See PresenceSink.reauthorize_identity."""
        # The app takes as long as it likes.
        threading.Thread(target=self._reauthorize, args=(identity,), name="cartows-reauthorize", daemon=True).start()

    def _reauthorize(self, identity: str) -> None:
        try:
            Clients.reauthorize(self._clients, identity)
        except Exception:
            self._logger.exception("cartows: authorize failed for %r, who has lost what it was asked for", identity)
