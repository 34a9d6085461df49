"""What the hub thread does: register clients, put them into rooms, keep the history, send.

Threads: the hub thread alone, save ``position`` and what is said to be for any thread.
Locks: none of its own; it takes those of the registry, the history and the connections, one at a time.
Blocks: never.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from ..client.client import Client
from ..client.sender import QUEUED, Batch
from ..client.subscriptions import Change
from ..history.delivery_log import DeliveryLog
from ..history.history import Event, History, event_id
from ..history.replay import Replay, ReplayRequest
from ..message import Message, MessageType, new_message
from ..options import Options
from ..presence.presence import Presence, PresenceEntry, PresenceUpdate
from ..rooms import Room, Rooms, Subscriptions
from ..websocket.close_codes import CloseCode, is_final
from ..websocket.frames import Frame
from .broadcast_queue import BroadcastQueue
from .heartbeat import Heartbeat
from .registry import Registry

__all__ = ["Dispatcher"]

# Sends between two offers of the GIL, and how long an offer may take before no more are made in that pass. A pass of a few
# sends is over sooner than a thread that takes the GIL gives it back: beside clients that flood, p99 falls by a quarter.
_SENDS_PER_OFFER = 64
_SENDS_BEFORE_OFFER = 256
_MAX_OFFER = 0.001

# How long after it is due news of presence is asked for: the heartbeat may call a moment early.
_AFTER = 0.05

# How long an event is waited for that a client knows of and this process does not, and how often it is looked for.
_PATIENCE = 2.0
_LOOK_AGAIN = 0.02

# What stands in line: events, and what is to be done between them.
Item = Event | Callable[[], None]


class Dispatcher:
    """Own what only the hub thread may change: rooms, history, presence and the position."""

    def __init__(
        self,
        registry: Registry,
        heartbeat: Heartbeat,
        channel: BroadcastQueue[Item],
        options: Options,
        logger: logging.Logger,
        may_come: Callable[[int], bool],
        announce: Callable[[Mapping[str, PresenceEntry | None]], None],
    ) -> None:
        self._registry = registry
        self._heartbeat = heartbeat
        self._broadcast_queue = channel
        self._options = options
        self._logger = logger
        self._may_come = may_come
        self._announce = announce
        self.history = History("", options.history_size, options.history_bytes, options.history_ttl)
        self.presence: Presence[Client] = Presence(
            options.presence_leave_wait, options.presence_room_limit, shared=options.redis_url is not None
        )
        self.rooms: Rooms[Client] = Rooms()
        #: What each client has been brought.
        self._heard: dict[Client, DeliveryLog] = {}
        #: What clients have said that stand in line to be registered.
        self._early: dict[Client, list[Change]] = {}
        #: Until when those are waited for that were told of an event which has not come here.
        self._patience: dict[Client, float] = {}
        #: The last event that has been handed to every client or its queue; others read it.
        self.position = 0
        #: Events were lost while clients could not be told where they are.
        self._lost = False
        #: When the heartbeat is to wake the hub thread for presence, None when it is not.
        self._alarm: float | None = None
        #: Sends in this pass, and whether the GIL is still offered in it.
        self._sends = 0
        self._polite = True
        #: The smallest send queue among the clients: batches are cut to it.
        self._shortest_queue = options.send_queue_size

    @property
    def max_events(self) -> int:
        """How many events may be taken in one turn: one short send must never overflow a client that keeps up."""
        return max(1, self._shortest_queue * 3 // 4)

    def begin(self, epoch: str, number: int, events: Sequence[Event]) -> None:
        """Begin with a history; the last of its events has that number."""
        self.history.new_epoch(epoch, number - len(events))
        if events:
            self.history.append(events)
        self.position = number

    # Events -------------------------------------------------------------------------------------------------------

    def take(self, items: Sequence[Item]) -> None:
        """Do what stands in line, in its order: events are distributed, anything else is called."""
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
                self._logger.exception("cartows: a step of the hub failed; the hub goes on")
        self.distribute(run)

    def distribute(self, events: Sequence[Event]) -> None:
        """Keep a run of events for those who come back, and send them."""
        for batch in self._batches(events):
            try:
                self.history.append(batch)
                self._send_batch(batch)
            except Exception:
                self._logger.exception("cartows: sending %d events failed; the hub goes on", len(batch))
            self.position = batch[-1].frame.number

    def _batches(self, events: Sequence[Event]) -> Iterator[Sequence[Event]]:
        """Cut a run of events by bytes as the channel's turn does by number."""
        most, size, start = self._options.send_queue_bytes // 4, 0, 0
        for index, event in enumerate(events):
            size += len(event.frame.plain)
            if size > most and index > start:
                yield events[start:index]
                start, size = index, len(event.frame.plain)
        if events:
            yield events[start:]

    def _send_batch(self, events: Sequence[Event]) -> None:
        """Send each client, in one go, the events it hears."""
        self._polite, self._sends = True, 0
        events = [event for event in events if not event.delivered]
        if not events:
            return
        frames = [event.shown or event.frame for event in events]
        every = (1 << len(events)) - 1
        for heard, clients in self.rooms.recipients([event.audience for event in events]).items():
            mine = frames if heard == every else [frame for index, frame in enumerate(frames) if heard >> index & 1]
            self._send(Batch(mine), clients)

    def _offer_gil(self) -> None:
        offered = time.perf_counter()
        time.sleep(0)
        self._polite = time.perf_counter() - offered < _MAX_OFFER

    def _send(self, batch: Batch, clients: Sequence[Client]) -> None:
        troubled: list[tuple[Client, int]] = []
        for client in clients:
            try:
                outcome = client.connection.offer(batch)
            except Exception:
                self._give_up(client)
                continue
            if outcome > QUEUED:
                troubled.append((client, outcome))
            self._sends += 1
            if self._sends >= _SENDS_BEFORE_OFFER and not self._sends % _SENDS_PER_OFFER and self._polite:
                self._offer_gil()
        for client, outcome in troubled:
            try:
                client.handle_send_result(outcome)
            except Exception:
                self._give_up(client)

    def _give_up(self, client: Client) -> None:
        self._logger.exception("cartows: sending to client %s failed; it is put out, the others go on", client.id)
        client.close_on_error()

    # Outages ------------------------------------------------------------------------------------------------------

    def broker_lost(self) -> None:
        """Tell clients that they hear nobody but this process, and let nobody come back to where they are."""
        if self.history.degraded:
            return
        self.history.degraded = True
        self._dismiss_replaying()
        self._tell_everybody(self._degraded())

    def broker_restored(self) -> None:
        """Tell clients that they hear everybody again, and where they are."""
        if self.history.degraded:
            self._tell_restored(not self._lost)
            self._lost = False

    def new_epoch(self, epoch: str, number: int, events: Sequence[Event]) -> None:
        """Begin another history with these events, the last of which has that number; clients are to load everything again."""
        self._dismiss_replaying()
        # Whoever is told a position before it hears of the loss is not to come back to it.
        told_later, self.history.degraded = self.history.degraded, True
        self.begin(epoch, number, events)
        for heard in self._heard.values():
            heard.new_epoch(number)
        if told_later:
            self._lost = True
        else:
            self._tell_restored(False)

    def _dismiss_replaying(self) -> None:
        for client in self._registry.clients():
            if client.connection.replaying():
                client.close_for_restart()

    def _degraded(self) -> Frame:
        return Frame(Message(type=MessageType.DEGRADED.value, id=self.history.id(self.position)).encode())

    def _tell_restored(self, recovered: bool) -> None:
        id = event_id(self.history.epoch, self.history.head)
        message = Message(type=MessageType.RESTORED.value, id=id, data={"recovered": recovered})
        self._tell_everybody(Frame(message.encode()))
        self.history.degraded = False

    def _tell_everybody(self, frame: Frame) -> None:
        self._send(Batch((frame,)), [client for client in self._registry.clients() if _is_spoken_to(client)])

    # Clients ------------------------------------------------------------------------------------------------------

    def register(self, client: Client) -> None:
        """Open a client's connection, bring it what it has missed, and send it events from then on."""
        if not client.connection.closing:
            client.check_expiry()
        if client.connection.closing:
            # Put out before it was in: it is told so, and nothing else.
            client.connection.open(None)
            return
        if self._is_ahead(client):
            return
        self._shortest_queue = min(self._shortest_queue, client.connection.options.send_queue_size)
        early = _without_revoked(self._early.pop(client, []))
        try:
            self._registry.enter(client)
            subscriptions, head = early[0].before if early else client.subscriptions, self.history.head
            number = None if client.since is None else self.history.number(client.since)
            if self.history.degraded:
                number = None
            missed = None if number is None or number > head else self.history.count(number, subscriptions)
            since = head if number is None or missed is None else number
            # Whoever is to be replayed something has had nothing yet of what lies behind the place it names.
            position = since if missed else head
            replay = Replay(self.history, since, subscriptions) if missed else None
            self.rooms.join(client, subscriptions)
            self._heard[client] = DeliveryLog(since, subscriptions)
            told = {} if client.since is None else {"recovered": missed is not None, "replayed": missed or 0}
            client.connection.open(self._greeting(client, position, told), position, replay)
            if self.history.degraded and _is_spoken_to(client):
                client.handle_send_result(client.connection.offer(Batch((self._degraded(),))))
            self._heartbeat.add(client)
            for change in early:
                self.change(client, change)
        except Exception:
            self._give_up(client)

    def _is_ahead(self, client: Client) -> bool:
        """Have a client wait its turn again that was told of an event, by the answer to a POST, before the hub came to it."""
        number = None if client.since is None else self.history.number(client.since)
        if number is None or number <= self.history.head or self.history.degraded:
            return False
        if number <= self._broadcast_queue.number:
            return self._broadcast_queue.put_registration(partial(self.register, client))
        return self._may_come(number) and self._wait_for(client)

    def _wait_for(self, client: Client) -> bool:
        """Have a client wait a moment for an event that another process was told of."""
        until = self._patience.setdefault(client, time.monotonic() + _PATIENCE)
        if time.monotonic() >= until:
            del self._patience[client]
            return False
        self._heartbeat.call_at(time.monotonic() + _LOOK_AGAIN, partial(self._arrive_again, client))
        return True

    def _arrive_again(self, client: Client) -> None:
        self._broadcast_queue.put_registration(partial(self.register, client))

    def _greeting(self, client: Client, position: int, told: dict[str, Any]) -> Frame | None:
        options = client.connection.options
        if not options.greeting:
            return None
        id = self.history.id(position)
        data = {"client_id": client.id, "id": id, "ping_interval_ms": round(options.ping_period * 1000), **told}
        return Frame(Message(type=MessageType.CONNECTED.value, id=id, data=data).encode())

    def unregister(self, client: Client) -> None:
        """Send a client no event any more."""
        self.rooms.leave(client)
        self._heard.pop(client, None)
        self._early.pop(client, None)
        self._patience.pop(client, None)
        self._registry.remove(client)
        code = client.connection.close_code or CloseCode.ABNORMAL
        # Who was shown out for good does not come back in a moment.
        self.presence.gone(client, at_once=is_final(code))

    def change(self, client: Client, change: Change) -> None:
        """Have a client hear something else from the next event on, and tell it so."""
        heard = self._heard.get(client)
        if heard is None:
            self._keep_early(client, change)
            return
        head = self.history.head
        past, told = self._past(heard, change)
        self.rooms.join(client, change.subscriptions)
        heard.change(head, change.subscriptions, self.history.first())
        frames = []
        if past is not None:
            heard.replayed(past.after, head, past.subscriptions)
        if change.answer is not None:
            data = {**change.filters, **told}
            answer = Message(type=change.answer, id=self.history.id(head), data=data, ref=change.subscription.ref)
            frames = [Frame(answer.encode())]
        client.handle_send_result(
            client.connection.change_subscriptions(self.history, head, change.subscriptions, frames, past)
        )
        self._show(client, change)

    def _keep_early(self, client: Client, change: Change) -> None:
        """Keep what a client says before it is registered, as it can in a route of the app's own, until it is.

        A filter that is set before is seen by the registration itself, unless something that was said stands before it.
        """
        if client.connection.closing or client.gone or (change.answer is None and client not in self._early):
            return
        early = self._early.setdefault(client, [])
        early.append(change)
        if len(early) > client.connection.options.send_queue_size:
            client.overflow()

    def _past(self, heard: DeliveryLog, change: Change) -> tuple[ReplayRequest | None, dict[str, Any]]:
        """Return what of its rooms' past a client is to be brought, and what it is told of that."""
        rooms, since = change.subscription.rooms, change.subscription.since
        if since is None:
            return None, {}
        number = None if self.history.degraded else self.history.number(since)
        if number is None or not heard.floor <= number <= self.history.head:
            return None, {"recovered": False, "replayed": 0}
        past = ReplayRequest(number, Subscriptions(frozenset(rooms), False), heard.delivered())
        missed = self.history.count(number, past.subscriptions, past.delivered)
        return (past if missed else None), {"recovered": missed is not None, "replayed": missed or 0}

    # Presence -----------------------------------------------------------------------------------------------------

    def _show(self, client: Client, change: Change) -> None:
        """Take a client out of the rooms it has left, by whatever way, and show it in those where it wants to be seen."""
        self.presence.keep(client, change.subscriptions.rooms)
        if change.subscription.meta is not None:
            for room in change.subscription.rooms:
                self.presence.enter(client, room, change.subscription.meta)

    def send_presence(self) -> None:
        """Send what has changed in the rooms, and see that the hub thread wakes when something falls due."""
        spent: Counter[Client] = Counter()
        for news in self.presence.take_updates():
            try:
                self._tell(news, spent)
            except Exception:
                self._logger.exception("cartows: telling who is in %s failed; the hub goes on", news.data.get("value"))
        changes = self.presence.take_changes()
        if changes:
            self._announce(changes)
        due = self.presence.next_due()
        if due is not None and (self._alarm is None or due < self._alarm):
            self._alarm = due
            self._heartbeat.call_at(due + _AFTER, self._ring)

    def _tell(self, news: PresenceUpdate, spent: Counter[Client]) -> None:
        """Send news; to whom it would be too much in this turn, only the count.

        Who enters many large rooms at once would be put out for what it is sent, each time it comes back.
        """
        frame = Frame(new_message(news.type, news.data).encode())
        size, most = len(frame.plain), self._options.send_queue_bytes // 2
        crammed = [client for client in news.members if spent[client] + size > most]
        if crammed:
            count = {key: news.data[key] for key in ("key", "value", "count")}
            self._send(Batch((Frame(new_message(news.type, count).encode()),)), crammed)
        told = [client for client in news.members if spent[client] + size <= most]
        spent.update(dict.fromkeys(told, size))
        self._send(Batch((frame,)), told)

    def _ring(self) -> None:
        # Heartbeat thread: the turn that this starts is all that is wanted.
        self._broadcast_queue.put_control(self._stop_alarm)

    def _stop_alarm(self) -> None:
        self._alarm = None


def _is_spoken_to(client: Client) -> bool:
    """Return whether a client speaks the protocol of cartows."""
    return client.connection.options.greeting


def _without_revoked(early: Sequence[Change]) -> list[Change]:
    """Return changes without the rooms that later ones among them say have been taken away."""
    revoked: set[Room] = set()
    found = []
    for change in reversed(early):
        if change.revoked:
            revoked.update(change.subscription.rooms)
            found.append(change._replace(before=change.before._replace(rooms=change.before.rooms - revoked)))
        else:
            found.append(change.without(revoked))
    return found[::-1]
