"""Publishing from a process that serves no clients: a Celery task, a cron job, a shell.

**Threads**: any thread may broadcast. The event writer has one of its own, which the first broadcast starts.

**Blocks**: a broadcast for ``publish_timeout`` seconds at most, whatever the broker does; ``close`` within its timeout.
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
from .errors import PublisherClosed
from .message import EncodeHook, Message
from .options import Options
from .rooms import Audience

__all__ = ["Publisher"]

# How long storing the rest may take at interpreter exit, in seconds, for all publishers of the process together.
_EXIT_TIMEOUT = 1.5


class Publisher(Broadcaster):
    """A broadcaster to the clients of every hub that reads from the same Redis.

    A broadcast has been "stored" when it returns, or it is "spooled": it waits in this process until Redis is back, and is lost
    with the process. A publisher connects when it is first used, and again in the child of a fork. It may be used on any
    thread, and as a context manager that closes it.

    Args:
        redis_url: The Redis of the hubs, as in their ``redis_url``.
        options: The options of the hubs: ``filter_keys``, ``publish_timeout``, ``send_queue_bytes``, and the bounds of the
            spool, ``spool_size`` and ``spool_bytes``. Default: ``Options()``.
        enc_hook: A function that turns a value that JSON does not support into one that it does. Default: none.
        logger: The logger of outages and rejected events. Default: the logger ``"cartows"``.

    Raises:
        OptionsError: The URL cannot be used, or redis-py is not installed.
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
        return f"<Publisher to {self._broker.address}>"

    def _start_afresh(self) -> None:
        """Create the state of one process: in ``__init__``, and in the child of a fork."""
        options = self.options
        self._unplaced_lock = threading.Lock()
        self._rejections = RejectionLog(self.logger)
        self._writer = EventWriter(self._connect, options.spool_size, options.spool_bytes, self.logger)

    def _connect(self) -> Store:
        return Store(self._broker.link(self.options.publish_timeout))

    @property
    def filter_keys(self) -> frozenset[str]:
        """The keys that clients may filter by; those of the options."""
        return self._filter_keys

    @property
    def closed(self) -> bool:
        """Whether the publisher was closed."""
        return self._closed

    def publish(self, message: Message, audience: Audience) -> PublishResult:
        """Encode a message and store it; every ``broadcast*`` ends here.

        Runs on the caller's thread, and waits for Redis for ``publish_timeout`` seconds at most.

        Args:
            message: The message. Its own ``id`` and ``ref`` are left out.
            audience: Its recipients.

        Returns:
            The result: stored with an id, spooled, or rejected with a reason.

        Raises:
            MessageError: The message cannot be serialised, or is larger than any client could be sent.
            PublisherClosed: The publisher was closed.
        """
        self._check_open()
        event = prepare_event(message, audience, self.enc_hook, self.options.send_queue_bytes)
        result = self._writer.publish(event, self.options.publish_timeout)
        if result.status is None:
            self._check_open()
        self._rejections.note(message.type, result.reason, self._rejected)
        return PublishResult(result.status is not None, result.status, result.id, result.reason)

    def _rejected(self) -> int:
        rejected: int = self._writer.stats()["refused"]
        return rejected

    def _check_open(self) -> None:
        if self._closed:
            raise PublisherClosed(
                "The publisher was closed, so nothing that is broadcast can be stored; create a new one, or broadcast earlier"
            )

    def _has_filter(self, key: str) -> bool:
        # The clients are in other processes.
        return key in self._filter_keys

    def close(self, timeout: float = 2.0) -> None:
        """Try to store the events that still wait, and close the publisher; idempotent.

        How many events are lost is logged. Runs at interpreter exit as well.

        Args:
            timeout: How long to try, in seconds. Default: 2.
        """
        self._closed = True
        self._writer.stop(timeout)

    def __enter__(self) -> Publisher:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def stats(self) -> dict[str, Any]:
        """Return the publisher's counters.

        Returns:
            ``published``, ``spooled`` (waiting now), ``stored``, ``refused``, ``retried``, ``outages``, and ``away``: whether
            the broker is unreachable now.
        """
        return self._writer.stats()


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
