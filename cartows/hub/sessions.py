"""The sessions of clients: registration, resume, changes of subscriptions, and what an outage of the broker means for them.

**Threads**: the hub thread alone.
**Locks**: none of its own; it takes those of the registry, the history and the connections, one at a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ..client.batch import Batch
from ..client.client import Client
from ..client.subscriptions import SubscriptionChange
from ..history.delivery_log import DeliveryLog
from ..history.history import Event
from ..history.replay import Replay, ReplayRequest
from ..message import Message, MessageType
from ..rooms import Room, Subscriptions
from ..websocket.frames import Frame
from .broadcast_queue import BroadcastQueue
from .dispatcher import Dispatcher, Item
from .heartbeat import Heartbeat
from .presence_notifier import PresenceNotifier
from .registry import Registry
from .timer import Timer

__all__ = ["Sessions"]

# How long, in seconds, a registration waits for an event that the client has an id of and this process does not have yet, and
# how often it is tried again meanwhile.
_EVENT_WAIT = 2.0
_EVENT_RETRY = 0.02


class Sessions:
    """What each registered client has been delivered, and what is pending for those that are not registered yet."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        presence: PresenceNotifier,
        registry: Registry,
        heartbeat: Heartbeat,
        timer: Timer,
        broadcast_queue: BroadcastQueue[Item],
        may_exist: Callable[[int], bool],
    ) -> None:
        self._dispatcher = dispatcher
        self._history = dispatcher.history
        self._presence = presence
        self._registry = registry
        self._heartbeat = heartbeat
        self._timer = timer
        self._broadcast_queue = broadcast_queue
        self._may_exist = may_exist
        self._delivery_logs: dict[Client, DeliveryLog] = {}
        #: The changes that clients asked for before they were registered.
        self._pending_changes: dict[Client, list[SubscriptionChange]] = {}
        #: The monotonic time until which a registration waits for an event that has not come here.
        self._wait_limits: dict[Client, float] = {}
        #: Events were lost while clients could not be sent a position.
        self._lost = False

    # Registration -----------------------------------------------------------------------------------------------------

    def register(self, client: Client) -> None:
        """Open a client's connection, replay what it has missed, and send it events from then on."""
        if not client.connection.closing:
            client.authorization.check_expiry()
        if client.connection.closing:
            # It was disconnected before it was registered: it is sent the reason, and nothing else.
            client.connection.open(None)
            return
        if self._waits_for_event(client):
            return
        self._dispatcher.limit_batches(client.connection.options.send_queue_size)
        changes = _without_revoked(self._pending_changes.pop(client, []))
        try:
            self._registry.enter(client)
            history = self._history
            subscriptions, head = changes[0].before if changes else client.subscriptions, history.head
            number = None if client.since is None or history.degraded else history.number(client.since)
            missed = None if number is None or number > head else history.count(number, subscriptions)
            since = head if number is None or missed is None else number
            # A client with something to replay has had nothing after the position that it resumes from.
            position = since if missed else head
            replay = Replay(history, since, subscriptions) if missed else None
            self._dispatcher.rooms.join(client, subscriptions)
            self._delivery_logs[client] = DeliveryLog(since, subscriptions)
            resume = {} if client.since is None else {"recovered": missed is not None, "replayed": missed or 0}
            client.connection.open(self._greeting(client, position, resume), position, replay)
            if history.degraded and _has_greeting(client):
                client.handle_send_result(client.connection.offer(Batch((self._degraded_frame(),))))
            self._heartbeat.add(client)
            for change in changes:
                self.change(client, change)
        except Exception:
            self._dispatcher.close_on_error(client)

    def _waits_for_event(self, client: Client) -> bool:
        """Queue the registration again if the client has the id of an event that the hub has not come to; else return False.

        The answer to the request that published an event may arrive before the event.
        """
        number = None if client.since is None else self._history.number(client.since)
        if number is None or number <= self._history.head or self._history.degraded:
            return False
        if number <= self._broadcast_queue.number:
            return self._broadcast_queue.put_registration(partial(self.register, client))
        return self._may_exist(number) and self._register_later(client)

    def _register_later(self, client: Client) -> bool:
        """Try the registration again in a moment, for an event of another process; False once it has waited long enough."""
        until = self._wait_limits.setdefault(client, time.monotonic() + _EVENT_WAIT)
        if time.monotonic() >= until:
            del self._wait_limits[client]
            return False
        self._timer.call_at(time.monotonic() + _EVENT_RETRY, partial(self._queue_registration, client))
        return True

    def _queue_registration(self, client: Client) -> None:
        self._broadcast_queue.put_registration(partial(self.register, client))

    def _greeting(self, client: Client, position: int, resume: dict[str, Any]) -> Frame | None:
        options = client.connection.options
        if not options.greeting:
            return None
        id = self._history.id(position)
        data = {"client_id": client.id, "id": id, "ping_interval_ms": round(options.ping_period * 1000), **resume}
        return Frame(Message(type=MessageType.CONNECTED.value, id=id, data=data).encode())

    def unregister(self, client: Client) -> None:
        """Send a client no further event."""
        self._dispatcher.rooms.leave(client)
        self._delivery_logs.pop(client, None)
        self._pending_changes.pop(client, None)
        self._wait_limits.pop(client, None)
        self._registry.remove(client)
        self._presence.gone(client)

    # Subscriptions ----------------------------------------------------------------------------------------------------

    def change(self, client: Client, change: SubscriptionChange) -> None:
        """Change a client's subscriptions from the next event on, and send it the answer."""
        log = self._delivery_logs.get(client)
        if log is None:
            self._keep_pending(client, change)
            return
        history = self._history
        head = history.head
        request, resume = self._replay_request(log, change)
        self._dispatcher.rooms.join(client, change.subscriptions)
        log.change(head, change.subscriptions, history.first())
        frames = []
        if request is not None:
            log.replayed(request.after, head, request.subscriptions)
        if change.answer is not None:
            data = {**change.filters, **resume}
            answer = Message(type=change.answer, id=history.id(head), data=data, ref=change.request.ref)
            frames = [Frame(answer.encode())]
        client.handle_send_result(client.connection.change_subscriptions(history, head, change.subscriptions, frames, request))
        self._presence.change(client, change)

    def _keep_pending(self, client: Client, change: SubscriptionChange) -> None:
        """Keep a change until the client is registered: in a route of the app's own, a client may ask for one before.

        A filter that is set before is part of the registration itself, unless a change that was asked for precedes it.
        """
        if client.connection.closing or client.gone or (change.answer is None and client not in self._pending_changes):
            return
        pending = self._pending_changes.setdefault(client, [])
        pending.append(change)
        if len(pending) > client.connection.options.send_queue_size:
            client.overflow()

    def _replay_request(self, log: DeliveryLog, change: SubscriptionChange) -> tuple[ReplayRequest | None, dict[str, Any]]:
        """Return what a client is replayed of the rooms that it joins, and what its answer reports of that."""
        rooms, since = change.request.rooms, change.request.since
        if since is None:
            return None, {}
        history = self._history
        number = None if history.degraded else history.number(since)
        if number is None or not log.floor <= number <= history.head:
            return None, {"recovered": False, "replayed": 0}
        request = ReplayRequest(number, Subscriptions(frozenset(rooms), False), log.delivered())
        missed = history.count(number, request.subscriptions, request.delivered)
        return (request if missed else None), {"recovered": missed is not None, "replayed": missed or 0}

    # Outages of the broker --------------------------------------------------------------------------------------------

    def broker_lost(self) -> None:
        """Tell clients that they receive the events of this process alone; none can resume from where it is now."""
        if self._history.degraded:
            return
        self._history.degraded = True
        self._close_replaying()
        self._send_to_all(self._degraded_frame())

    def broker_restored(self) -> None:
        """Tell clients that they receive the events of all processes again, and their position."""
        if self._history.degraded:
            self._send_restored(not self._lost)
            self._lost = False

    def new_epoch(self, epoch: str, number: int, events: Sequence[Event], mark: str = "") -> None:
        """Replace the history as ``Dispatcher.begin`` does; clients have to load everything again."""
        self._close_replaying()
        # A client that is sent a position before the loss is reported to it must not resume from it.
        reported_later, self._history.degraded = self._history.degraded, True
        self._dispatcher.begin(epoch, number, events, mark)
        for log in self._delivery_logs.values():
            log.new_epoch(number)
        if reported_later:
            self._lost = True
        else:
            self._send_restored(False)

    def _close_replaying(self) -> None:
        for client in self._registry.clients():
            if client.connection.replaying():
                client.connection.close_for_restart()

    def _degraded_frame(self) -> Frame:
        return Frame(Message(type=MessageType.DEGRADED.value, id=self._history.id(self._dispatcher.position)).encode())

    def _send_restored(self, recovered: bool) -> None:
        id = self._history.event_id(self._history.head)
        message = Message(type=MessageType.RESTORED.value, id=id, data={"recovered": recovered})
        self._send_to_all(Frame(message.encode()))
        self._history.degraded = False

    def _send_to_all(self, frame: Frame) -> None:
        clients = [client for client in self._registry.clients() if _has_greeting(client)]
        self._dispatcher.send(Batch((frame,)), clients)


def _has_greeting(client: Client) -> bool:
    """Return whether a client uses the protocol of cartows rather than a raw one."""
    return client.connection.options.greeting


def _without_revoked(changes: Sequence[SubscriptionChange]) -> list[SubscriptionChange]:
    """Return changes without the rooms that later ones among them revoke."""
    revoked: set[Room] = set()
    found = []
    for change in reversed(changes):
        if change.revoked:
            revoked.update(change.request.rooms)
            found.append(change._replace(before=change.before._replace(rooms=change.before.rooms - revoked)))
        else:
            found.append(change.without(revoked))
    return found[::-1]
