"""Tell clients, and other processes, what has changed in the rooms whose presence they see.

**Threads**: the hub thread alone, except for the methods that say otherwise.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..client.batch import Batch
from ..client.client import Client
from ..client.subscriptions import SubscriptionChange
from ..message import new_message
from ..options import Options
from ..presence.presence import Presence, PresenceEntry, PresenceReport, PresenceUpdate
from ..websocket.close_codes import CloseCode, is_final
from ..websocket.frames import Frame
from .broadcast_queue import BroadcastQueue
from .dispatcher import Dispatcher, Item
from .timer import Timer

__all__ = ["PresenceNotifier"]

# How long after they are due, in seconds, updates are asked for: the timer may call a moment early.
_DUE_MARGIN = 0.05


class PresenceNotifier:
    """The presence of the clients of one hub, and the updates that it calls for."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        timer: Timer,
        broadcast_queue: BroadcastQueue[Item],
        options: Options,
        logger: logging.Logger,
        announce: Callable[[Mapping[str, PresenceEntry | None]], None],
    ) -> None:
        self._dispatcher = dispatcher
        self._timer = timer
        self._broadcast_queue = broadcast_queue
        self._logger = logger
        self._announce = announce
        self._presence: Presence[Client] = Presence(
            options.presence_leave_wait, options.presence_room_limit, shared=options.redis_url is not None
        )
        #: The bytes of presence that a client is sent in one iteration.
        self._max_bytes = options.send_queue_bytes // 2
        #: When the timer wakes the hub thread for presence, None when it does not.
        self._wakeup_at: float | None = None

    # Clients ----------------------------------------------------------------------------------------------------------

    def change(self, client: Client, change: SubscriptionChange) -> None:
        """Remove a client from the rooms that it has left, by whatever way, and add it where it wants to be seen."""
        self._presence.keep(client, change.subscriptions.rooms)
        if change.request.meta is not None:
            for room in change.request.rooms:
                self._presence.enter(client, room, change.request.meta)

    def gone(self, client: Client) -> None:
        """Remove a client that has gone from every room."""
        code = client.connection.close_code or CloseCode.ABNORMAL
        # A client that was disconnected for good will not be back in a moment, so its leave is not held back.
        self._presence.gone(client, at_once=is_final(code))

    # Updates ----------------------------------------------------------------------------------------------------------

    def send_updates(self) -> None:
        """Send what has changed in the rooms, and schedule the next update that only time calls for."""
        spent: Counter[Client] = Counter()
        for update in self._presence.take_updates():
            try:
                self._send(update, spent)
            except Exception:
                room = update.data.get("value")
                self._logger.exception("cartows: sending the presence of %s failed; the hub continues", room)
        changes = self._presence.take_changes()
        if changes:
            self._announce(changes)
        due = self._presence.next_due()
        if due is not None and (self._wakeup_at is None or due < self._wakeup_at):
            self._wakeup_at = due
            self._timer.call_at(due + _DUE_MARGIN, self._wake)

    def _wake(self) -> None:
        # The timer's thread. The iteration that the control starts sends the updates.
        self._broadcast_queue.put_control(self._woken)

    def _woken(self) -> None:
        self._wakeup_at = None

    def _send(self, update: PresenceUpdate, spent: Counter[Client]) -> None:
        """Send an update, and only its count to clients for which it would be too much in this iteration.

        A client that enters many large rooms at once would be disconnected for what it is sent, each time it connects.
        """
        frame = Frame(new_message(update.type, update.data).encode())
        size, max_size = len(frame.plain), self._max_bytes
        exhausted = [client for client in update.members if spent[client] + size > max_size]
        if exhausted:
            count = {key: update.data[key] for key in ("key", "value", "count")}
            self._dispatcher.send(Batch((Frame(new_message(update.type, count).encode()),)), exhausted)
        recipients = [client for client in update.members if spent[client] + size <= max_size]
        spent.update(dict.fromkeys(recipients, size))
        self._dispatcher.send(Batch((frame,)), recipients)

    # Other processes --------------------------------------------------------------------------------------------------

    def apply(self, reports: Sequence[PresenceReport]) -> None:
        """Apply what other processes report of their presence entries."""
        self._presence.apply(reports)

    # Any thread -------------------------------------------------------------------------------------------------------

    def presence_entries(self) -> list[PresenceEntry]:
        """Return the entries of this process that are announced to other processes. Any thread."""
        return self._presence.presence_entries()

    def present(self, key: str, value: Any) -> dict[str, list[dict[str, Any]]]:
        """Return each identity in a room with its entries. Any thread."""
        return self._presence.present(key, value)
