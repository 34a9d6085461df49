"""The backplane on Redis Streams: this process's events go to the stream, and what is in the stream goes to its hub.

**Threads**: ``prepare`` and ``follow`` run on the hub thread, ``publish`` on any.

**Blocks**: ``prepare`` for ``publish_timeout`` seconds at most; ``publish`` as long as the event writer does; ``stop`` within
its timeout.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

from ...options import Options
from ...presence.presence import PresenceEntry
from ..base import BackplaneResult, OutgoingEvent, Sink, Snapshot
from .connect import Broker
from .event_reader import EventReader
from .event_store import Names, Store
from .event_writer import EventWriter
from .presence_sync import PresenceSync

__all__ = ["RedisBackplane"]


class RedisBackplane:
    """The way of a hub's events by ``options.redis_url``. Raises OptionsError for a URL that cannot work."""

    def __init__(self, options: Options, sink: Sink, logger: logging.Logger) -> None:
        assert options.redis_url is not None
        self._logger = logger
        broker, names = Broker(options.redis_url), Names()
        self._address = broker.address
        self._writer = EventWriter(
            lambda: Store(broker.link(options.publish_timeout), names), options.spool_size, options.spool_bytes, logger, sink
        )
        self._reader = EventReader(broker, names, options, sink, self._writer, logger)
        self._presence = PresenceSync(broker.link, sink, logger)

    def prepare(self) -> Snapshot:
        """See Backplane.prepare. Where Redis is unreachable, the hub starts alone and receives another snapshot later."""
        return self._reader.prepare()

    def follow(self) -> None:
        """See Backplane.follow."""
        try:
            self._reader.start()
        except RuntimeError as error:
            self._writer.broker_lost(
                f"Reading events at {self._address} failed: the process has no thread left for it ({error})"
            )
            return
        try:
            self._presence.start()
        except RuntimeError as error:
            self._logger.error("cartows: presence is not shared: the process has no thread left for it (%s)", error)

    def publish(self, event: OutgoingEvent, timeout: float) -> BackplaneResult:
        """See Backplane.publish."""
        return self._writer.publish(event, timeout)

    def may_exist(self, number: int) -> bool:
        """See Backplane.may_exist. Unless it is made up, a number that another process has given out is on its way here."""
        return self._reader.has_snapshot

    def announce(self, changes: Mapping[str, PresenceEntry | None]) -> None:
        """See Backplane.announce."""
        self._presence.announce(changes)

    def disconnect(self, identity: str, code: int, reason: str) -> None:
        """See Backplane.disconnect."""
        self._presence.disconnect(identity, code, reason)

    def reauthorize(self, identity: str) -> None:
        """See Backplane.reauthorize."""
        self._presence.reauthorize(identity)

    def stats(self) -> dict[str, Any]:
        """Return the counters of the event writer."""
        return self._writer.stats()

    def stop(self, timeout: float) -> None:
        """See Backplane.stop. What this process stores is still read back, so that its own clients receive it."""
        deadline = time.monotonic() + timeout
        self._presence.stop(timeout / 2)
        self._writer.stop(max(0.0, deadline - time.monotonic()))
        self._reader.stop(deadline)
