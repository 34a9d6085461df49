"""What a backplane reports to a hub, put into the hub's broadcast queue in the order in which it happened.

**Threads**: any; a backplane makes reports whose order counts one after another.
**Blocks**: ``put`` and ``await_room`` for room in the queue.
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
from .dispatcher import Dispatcher, Item
from .presence_notifier import PresenceNotifier
from .registry import Registry
from .sessions import Sessions

__all__ = ["BackplaneSink"]


class BackplaneSink:
    """The Sink of a hub's backplane."""

    # Set by ``connect``.
    _dispatcher: Dispatcher
    _sessions: Sessions
    _presence: PresenceNotifier

    def __init__(
        self, broadcast_queue: BroadcastQueue[Item], registry: Registry, options: Options, logger: logging.Logger
    ) -> None:
        self._broadcast_queue = broadcast_queue
        self._registry = registry
        self._options = options
        self._logger = logger
        #: For the events that follow: the epoch, and whether no client can resume from them.
        self._epoch = ""
        self._degraded = False

    def connect(self, dispatcher: Dispatcher, sessions: Sessions, presence: PresenceNotifier) -> None:
        """Report to these from now on. They need the backplane, which is made with its sink."""
        self._dispatcher, self._sessions, self._presence = dispatcher, sessions, presence

    def begin(self, snapshot: Snapshot) -> None:
        """Begin with a history. Hub thread."""
        epoch = self._epoch = snapshot.epoch
        events = [self.event(epoch, entry) for entry in snapshot.entries]
        self._dispatcher.begin(epoch, snapshot.number, events, snapshot.mark)

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
        return BackplaneResult("queued", event_id(epoch, put.frame.number, put.mark))

    def _numbered(self, event: OutgoingEvent, epoch: str, number: int) -> Event:
        return self.event(epoch, Entry(number, event))

    def event(self, epoch: str, entry: Entry) -> Event:
        """Return a stored event as it is sent and kept."""
        event, number, mark = entry.event, entry.number, entry.mark
        body = b'%s,"id":"%s"}' % (event.body[:-1], event_id(epoch, number, mark).encode())
        return Event(self._frame(event, body, number), event.audience, delivered=entry.delivered, mark=mark)

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
        self._broadcast_queue.put_unbounded(*[self._event_to_send(entry) for entry in entries])

    def _event_to_send(self, entry: Entry) -> Event:
        event = self.event(self._epoch, entry)
        if not self._degraded or entry.delivered:
            return event
        # Without an id: a client that resumed from it would miss events before it that it has not been sent.
        return event._replace(shown=self._frame(entry.event, entry.event.body))

    def put_local(self, event: OutgoingEvent) -> None:
        """See Sink.put_local."""
        self._broadcast_queue.put_unbounded(Event(self._frame(event, event.body), event.audience))

    def await_room(self) -> bool:
        """See Sink.await_room."""
        return self._broadcast_queue.await_room()

    def broker_lost(self) -> None:
        """See Sink.broker_lost."""
        self._degraded = True
        self._broadcast_queue.put_unbounded(self._sessions.broker_lost)

    def broker_restored(self) -> None:
        """See Sink.broker_restored."""
        self._degraded = False
        self._broadcast_queue.put_unbounded(self._sessions.broker_restored)

    def new_epoch(self, snapshot: Snapshot) -> None:
        """See Sink.new_epoch."""
        self._epoch = snapshot.epoch
        events = [self.event(snapshot.epoch, entry) for entry in snapshot.entries]
        begin = partial(self._sessions.new_epoch, snapshot.epoch, snapshot.number, events, snapshot.mark)
        self._broadcast_queue.put_unbounded(begin)

    def presence_entries(self) -> list[PresenceEntry]:
        """See PresenceSink.presence_entries."""
        return self._presence.presence_entries()

    def apply(self, reports: list[PresenceReport]) -> None:
        """See PresenceSink.apply."""
        self._broadcast_queue.put_control(partial(self._presence.apply, reports))

    def disconnect_identity(self, identity: str, code: int, reason: str) -> None:
        """See PresenceSink.disconnect_identity."""
        self._registry.disconnect(code, reason, identity=identity)

    def reauthorize_identity(self, identity: str) -> None:
        """See PresenceSink.reauthorize_identity."""
        # On a thread of its own: the app's answers may take any time.
        thread = threading.Thread(target=self._reauthorize, args=(identity,), name="cartows-reauthorize", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            # The process has no thread left. A room that was revoked must not be kept for that.
            self._reauthorize(identity)

    def _reauthorize(self, identity: str) -> None:
        try:
            self._registry.reauthorize(identity)
        except Exception:
            self._logger.exception("cartows: authorize failed for identity %r; its clients lost these rooms", identity)
