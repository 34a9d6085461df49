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

from ..backplane.base import Entry, Outcome, Outgoing, Past
from ..history.history import Event, event_id
from ..options import Options
from ..presence.presence import Person, Report
from ..websocket.frames import Frame
from .broadcast_queue import Channel, ChannelClosed
from .clients import Clients
from .dispatcher import Dispatcher, Item

__all__ = ["Feed"]


class Feed:
    """Be the Sink of a hub's backplane."""

    #: The hub's, which is made once the backplane is.
    dispatcher: Dispatcher

    def __init__(self, channel: Channel[Item], clients: Clients, options: Options, logger: logging.Logger) -> None:
        self._channel = channel
        self._clients = clients
        self._options = options
        self._logger = logger
        #: Of what comes next: the epoch, and whether nobody can come back to where it is.
        self._epoch = ""
        self._adrift = False

    def begin(self, past: Past) -> None:
        """Have the hub begin with a past. Hub thread."""
        self._epoch = past.epoch
        self.dispatcher.begin(past.epoch, past.number, [self.event(past.epoch, entry) for entry in past.entries])

    def put(self, event: Outgoing, epoch: str, timeout: float) -> Outcome:
        """See Sink.put."""
        try:
            put = self._channel.put_event(partial(self._numbered, event, epoch), timeout, wait=timeout > 0)
        except ChannelClosed:
            return Outcome(None, reason="the hub was shut down")
        if put is None:
            options = self._options
            full = f"the broadcast queue stayed full ({options.broadcast_queue} messages) for {options.publish_timeout:g} s"
            return Outcome(None, reason=full)
        assert isinstance(put, Event)
        return Outcome("queued", event_id(epoch, put.frame.number))

    def _numbered(self, event: Outgoing, epoch: str, number: int) -> Event:
        return self.event(epoch, Entry(number, event))

    def event(self, epoch: str, entry: Entry) -> Event:
        """Make of a stored event what is sent and kept."""
        event, number = entry.event, entry.number
        body = b'%s,"id":"%s"}' % (event.body[:-1], event_id(epoch, number).encode())
        return Event(self._frame(event, body, number), event.audience, heard=entry.heard)

    def _frame(self, event: Outgoing, body: bytes, number: int = 0) -> Frame:
        options = self._options
        return Frame(
            body, number=number, compress_over=options.compress_over, entity=event.entity, merges=event.merges and number > 0
        )

    def put_entries(self, entries: Sequence[Entry]) -> None:
        """See Sink.put_entries."""
        self._channel.put_in_line(*[self._fed(entry) for entry in entries])

    def _fed(self, entry: Entry) -> Event:
        event = self.event(self._epoch, entry)
        if not self._adrift or entry.heard:
            return event
        # Without an id: nobody could come back to it and find everything behind it that they have not heard.
        return event._replace(shown=self._frame(entry.event, entry.event.body))

    def put_local(self, event: Outgoing) -> None:
        """See Sink.put_local."""
        self._channel.put_in_line(Event(self._frame(event, event.body), event.audience))

    def await_room(self) -> bool:
        """See Sink.await_room."""
        return self._channel.await_room()

    def cut_off(self) -> None:
        """See Sink.cut_off."""
        self._adrift = True
        self._channel.put_in_line(self.dispatcher.cut_off)

    def rejoin(self) -> None:
        """See Sink.rejoin."""
        self._adrift = False
        self._channel.put_in_line(self.dispatcher.rejoin)

    def start_over(self, past: Past) -> None:
        """See Sink.start_over."""
        self._epoch = past.epoch
        events = [self.event(past.epoch, entry) for entry in past.entries]
        self._channel.put_in_line(partial(self.dispatcher.start_over, past.epoch, past.number, events))

    def people(self) -> list[Person]:
        """See PeopleSink.people."""
        return self.dispatcher.presence.people()

    def apply(self, reports: list[Report]) -> None:
        """See PeopleSink.apply."""
        self._channel.put_control(partial(self.dispatcher.presence.apply, reports))

    def put_out(self, identity: str, code: int, reason: str) -> None:
        """See PeopleSink.put_out."""
        Clients.disconnect(self._clients, identity=identity, code=code, reason=reason)

    def ask_again(self, identity: str) -> None:
        """See PeopleSink.ask_again."""
        # The app takes as long as it likes.
        threading.Thread(target=self._ask_again, args=(identity,), name="cartows-reauthorize", daemon=True).start()

    def _ask_again(self, identity: str) -> None:
        try:
            Clients.reauthorize(self._clients, identity)
        except Exception:
            self._logger.exception("cartows: authorize failed for %r, who has lost what it was asked for", identity)
