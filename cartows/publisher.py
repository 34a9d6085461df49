"""Publish from a process that serves no clients: a Celery task, a cron job, a shell.

Threads: any may broadcast; the lane has one of its own, started by the first broadcast.
Locks: none of its own; the lane has one, and what is said of refusals another.
Blocks: a broadcast for ``publish_timeout`` seconds at most, whatever the broker does; ``close`` for its time.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
import weakref
from typing import Any

from .backplane.redis.connect import Broker
from .backplane.redis.event_store import Store
from .backplane.redis.event_writer import EventWriter
from .broadcaster import Broadcaster, PublishResult, RejectionLog, prepare_event
from .errors import HubClosed
from .message import EncodeHook, Message
from .options import Options
from .rooms import Audience

__all__ = ["Publisher"]

# How long the rest may take to be stored at interpreter exit, in seconds: for all publishers of the process together.
_EXIT_TIMEOUT = 1.5


class Publisher(Broadcaster):
    """Broadcast to the clients of every hub that reads from the same Redis.

    Each broadcast is "stored" once it returns, or "spooled": it waits in this process for Redis to come back, and is lost with
    it. ``options`` are those of the hubs: the filter keys, ``publish_timeout``, the bounds of the spool. ``enc_hook`` turns
    what JSON does not know into what it does; ``logger`` defaults to the logger "cartows". It connects when it is first used,
    and in the child of a fork anew. Raises OptionsError for a URL that cannot be used, and where redis-py is missing.
    """

    def __init__(
        self,
        redis_url: str,
        *,
        options: Options | None = None,
        enc_hook: EncodeHook | None = None,
        logger: logging.Logger | None = None,
    ) -> None:
        super().__init__()
        self.logger = logger or logging.getLogger("cartows")
        self.options = options or Options()
        self.enc_hook = enc_hook
        self._broker = Broker(redis_url)
        self._closed = False
        self._filter_keys = frozenset(self.options.filter_keys)
        self._start_afresh()
        _publishers.add(self)

    def __repr__(self) -> str:
        return f"<Publisher to {self._broker.place}>"

    def _start_afresh(self) -> None:
        """Make all state of a process anew: in ``__init__``, and in the child of a fork."""
        options = self.options
        self._unplaced_lock = threading.Lock()
        self._rejections = RejectionLog(self.logger)
        self._lane = EventWriter(self._connect, options.publish_timeout, options.spool_size, options.spool_bytes, self.logger)

    def _connect(self) -> Store:
        return Store(self._broker.link(self.options.publish_timeout))

    @property
    def filter_keys(self) -> frozenset[str]:
        """The keys that clients may filter by."""
        return self._filter_keys

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._closed

    def publish(self, message: Message, audience: Audience) -> PublishResult:
        """Encode a message and store it; what every ``broadcast*`` ends in.

        Runs on the caller's thread and waits for Redis for ``publish_timeout`` seconds at most. Raises MessageError for what
        cannot be serialised or is larger than any client could be sent, HubClosed after ``close``.
        """
        self._check_open()
        event = prepare_event(message, audience, self.enc_hook, self.options.send_queue_bytes)
        outcome = self._lane.publish(event, self.options.publish_timeout)
        if outcome.status is None:
            self._check_open()
        self._rejections.note(message.type, outcome.reason, self._refused)
        return PublishResult(outcome.status is not None, outcome.status, outcome.id, outcome.reason)

    def _refused(self) -> int:
        refused: int = self._lane.stats()["refused"]
        return refused

    def _check_open(self) -> None:
        if self._closed:
            raise HubClosed("The publisher was closed, so nobody hears what is broadcast; make a new one, or broadcast earlier")

    def _has_filter(self, key: str) -> bool:
        # Nobody here knows who listens.
        return key in self._filter_keys

    def close(self, timeout: float = 2.0) -> None:
        """Try to store what still waits, within so many seconds, and end; what is lost is counted in the log. Idempotent."""
        self._closed = True
        self._lane.stop(timeout)

    def __enter__(self) -> Publisher:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def stats(self) -> dict[str, Any]:
        """Return the counters: events waiting, stored and refused, second tries, outages, and whether there is one now."""
        return self._lane.stats()


_publishers: weakref.WeakSet[Publisher] = weakref.WeakSet()


def _close_all() -> None:
    deadline = time.monotonic() + _EXIT_TIMEOUT
    for publisher in list(_publishers):
        publisher.close(max(0.0, deadline - time.monotonic()))


def _start_afresh_in_child() -> None:
    for publisher in list(_publishers):
        publisher._start_afresh()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh_in_child)
