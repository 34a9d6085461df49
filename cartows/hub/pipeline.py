"""The parts of a hub that events pass: the backplane, the broadcast queue, and what the hub thread owns behind it.

**Threads**: ``run`` and ``_prepare`` on the hub thread, everything else on any.
**Blocks**: ``run`` until the queue is closed and empty.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from ..backplane.base import Backplane, Sink
from ..backplane.local import LocalBackplane
from ..backplane.redis.backplane import RedisBackplane
from ..client.client import Client
from ..client.subscriptions import SubscriptionChange
from ..limits import memory_limit
from ..options import Options
from ..servers.detection import configured_workers
from .backplane_sink import BackplaneSink
from .broadcast_queue import BroadcastQueue
from .dispatcher import Dispatcher, Item
from .heartbeat import Heartbeat
from .presence_notifier import PresenceNotifier
from .queue_relief import QueueRelief
from .registry import Registry
from .sessions import Sessions
from .timer import Timer

__all__ = ["Pipeline"]

# The part of the memory that may wait in the queues of all clients, where the options name no number.
_QUEUES_PART = 8


class Pipeline:
    """Everything in one hub that depends on its options, connected."""

    def __init__(
        self,
        options: Options,
        logger: logging.Logger,
        make_backplane: Callable[[Sink], Backplane] | None,
        registry: Registry,
        heartbeat: Heartbeat,
        timer: Timer,
    ) -> None:
        # Of the memory for all worker processes, an eighth.
        self.relief = QueueRelief(
            options.total_queue_bytes or memory_limit() // _QUEUES_PART // configured_workers(), registry, timer, logger
        )
        self.queue: BroadcastQueue[Item] = BroadcastQueue(options.broadcast_queue_size)
        self._sink = BackplaneSink(self.queue, registry, options, logger)
        self.backplane = make_backplane(self._sink) if make_backplane else _backplane(options, logger, self._sink)
        self.dispatcher = Dispatcher(self.queue, options, logger)
        self.presence = PresenceNotifier(self.dispatcher, timer, self.queue, options, logger, self.backplane.announce)
        self.sessions = Sessions(
            self.dispatcher, self.presence, registry, heartbeat, timer, self.queue, self.backplane.may_exist
        )
        self._sink.connect(self.dispatcher, self.sessions, self.presence)

    def run(self) -> None:
        """Send what is queued until the queue is closed and empty."""
        self.dispatcher.run(self._prepare, self.presence.send_updates)

    def _prepare(self) -> None:
        self._sink.begin(self.backplane.prepare())
        self.backplane.follow()

    def register(self, client: Client) -> bool:
        """Register a client on the hub thread; False when the queue is closed."""
        return self.queue.put_registration(partial(self.sessions.register, client))

    def unregister(self, client: Client) -> None:
        """Unregister a client on the hub thread."""
        self.queue.put_control(partial(self.sessions.unregister, client))

    def change(self, client: Client, change: SubscriptionChange) -> None:
        """Change a client's subscriptions on the hub thread, before any event that is queued later."""
        self.queue.put_control(partial(self.sessions.change, client, change))

    def stats(self) -> dict[str, Any]:
        """Return the numbers of events published and waiting, what waits for clients, and the counters of the backplane."""
        budget = self.relief.budget
        queues = {"queue_bytes": budget.bytes, "max_queue_bytes": budget.max_bytes, "total_queue_bytes": budget.limit}
        return {"published": self.queue.number, "waiting": self.queue.qsize(), **queues, **self.backplane.stats()}


def _backplane(options: Options, logger: logging.Logger, sink: Sink) -> Backplane:
    """Return the backplane that the options ask for."""
    if options.redis_url is None:
        return LocalBackplane(sink)
    return RedisBackplane(options, sink, logger)
