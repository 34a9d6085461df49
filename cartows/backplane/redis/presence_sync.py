"""Presence across processes: announces this process's entries to the others, and applies theirs here.

**Threads**: any. ``start`` starts two, an announcer and a listener, since a thread that waits at Redis for other processes can
send nothing meanwhile.

**Blocks**: ``stop``, within its timeout. The other methods only hand over.

What is guaranteed. An entry that is shown although its client has left is gone within 60 s, however its process ended. That
also holds where this process has lost Redis: it then removes the others' entries when their leases would have expired. An entry
is never shown twice. Once every process has its lease and has been read, all of them show the same entries, and count them
correctly; until then an entry may be missing, or still be there. While Redis is away the clients of this process go on seeing
each other, and afterwards the changes are announced like any other join or leave. A command reaches every process that reads
the stream then or soon after, possibly twice. One that waits here is lost with its process, and one that a listener could not
read in time is logged as a warning.
"""

from __future__ import annotations

import json
import logging
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any

from ...presence.presence import PresenceEntry
from ..base import PresenceSink
from .connect import Link
from .event_store import Names
from .presence_announcer import MAX_COMMANDS, PresenceAnnouncer
from .presence_leases import Periods, PresenceLeases
from .presence_listener import PresenceListener
from .presence_status import PresenceStatus

__all__ = ["PresenceSync"]


class PresenceSync:
    """The announcer and the listener of one process.

    ``connect`` makes a connection to Redis with a timeout in seconds (``Broker.link``). The constructor calls it once for each
    thread, and opens nothing yet.
    """

    def __init__(
        self,
        connect: Callable[[float], Link],
        sink: PresenceSink,
        logger: logging.Logger,
        *,
        periods: Periods | None = None,
        names: Names | None = None,
    ) -> None:
        periods = periods or Periods()
        #: This process's name at the broker, for as long as it lives.
        self.process = secrets.token_hex(8)
        self._logger = logger
        status = PresenceStatus(logger)
        announcing, listening = (PresenceLeases(connect(periods.timeout), self.process, periods.lease, names) for _ in range(2))
        self._announcer = PresenceAnnouncer(announcing, sink.presence_entries, periods, status)
        self._listener = PresenceListener(listening, sink, periods, status, self.process, logger)

    def start(self) -> None:
        """Start to announce and to listen, once. Raises RuntimeError when the process can have no more threads."""
        self._announcer.thread.start()
        self._listener.thread.start()

    def announce(self, changes: Mapping[str, PresenceEntry | None]) -> None:
        """Announce what ``Presence.take_changes`` returned. Never blocks."""
        self._announcer.announce(changes)

    def disconnect(self, identity: str, code: int, reason: str) -> None:
        """Make the other processes close their clients of an identity. Never blocks."""
        self._command("disconnect", [identity, code, reason])

    def reauthorize(self, identity: str) -> None:
        """Make the other processes authorize an identity's subscriptions again. Never blocks."""
        self._command("reauthorize", [identity])

    def _command(self, name: str, arguments: list[Any]) -> None:
        if not self._announcer.command(name, json.dumps(arguments)):
            self._logger.warning(
                "cartows: more than %d commands for other processes wait for Redis; the oldest are dropped", MAX_COMMANDS
            )

    def stop(self, timeout: float) -> None:
        """Announce that all entries of this process have left, and end both threads within ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        self._announcer.stop()
        self._listener.stop()
        for part in (self._announcer, self._listener):
            if part.thread.ident is None:
                continue
            # The announcer's last entry wakes the listener. Where there is no answer, closing the connection ends the wait.
            part.thread.join(max(0.0, (deadline - time.monotonic()) / 2))
            if part.thread.is_alive():
                part.leases.close()
                part.thread.join(max(0.0, (deadline - time.monotonic()) / 2))
