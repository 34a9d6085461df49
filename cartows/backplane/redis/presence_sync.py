"""Presence across processes: what this process tells the others of its people, and what it hears of theirs.

Threads: any. ``start`` makes two, an announcer and a listener: who waits at Redis for others can send nothing meanwhile.
Locks: none of its own.
Blocks: ``stop``, within its time. What is announced waits for nothing.

What is promised. Whoever is shown and is not there is gone within 60 s, however its process ended; also where this process
has lost touch with Redis: then it forgets the others when their leases would have run out. An entry is never shown twice. Once
every process has its lease and has been heard, each shows the same people, and counts them right; until then somebody may be
missing, or still there. While Redis is away the people of this process go on seeing each other, and once it is back what has
changed meanwhile is told like any other coming and going. A command reaches every process that hears the stream then or soon
after, perhaps twice; one that waits here is lost with its process, and one that a listener could not read in time is warned of.
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
from .presence_announcer import MAX_COMMANDS, Announcer, Periods, Status
from .presence_leases import Leases
from .presence_listener import Listener

__all__ = ["People", "Periods", "PresenceSink"]


class People:
    """Show the people of this process to the others, and theirs here.

    ``connect`` makes a way to Redis whose answers take so many seconds at most (``Broker.link``); it is called by the
    constructor, once for each thread, and connects to nothing yet.
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
        #: This process, for as long as it lives.
        self.process = secrets.token_hex(8)
        self._logger = logger
        status = Status(logger)
        announcing, listening = (Leases(connect(periods.answer), self.process, periods.lease, names) for _ in range(2))
        self._announcer = Announcer(announcing, sink.presence_entries, periods, status)
        self._listener = Listener(listening, sink, periods, status, self.process, logger)

    def start(self) -> None:
        """Begin to announce and to listen. Once; raises RuntimeError when there is no thread to be had."""
        self._announcer.thread.start()
        self._listener.thread.start()

    def announce(self, changes: Mapping[str, PresenceEntry | None]) -> None:
        """Tell the others of what ``Presence.take_changes`` returned. Never waits."""
        self._announcer.announce(changes)

    def disconnect(self, identity: str, code: int, reason: str) -> None:
        """Have the other processes close their clients of an identity. Never waits."""
        self._command("disconnect", [identity, code, reason])

    def reauthorize(self, identity: str) -> None:
        """Have the other processes ask again what an identity may hear. Never waits."""
        self._command("reauthorize", [identity])

    def _command(self, name: str, arguments: list[Any]) -> None:
        if not self._announcer.command(name, json.dumps(arguments)):
            self._logger.warning(
                "cartows: more than %d commands for other processes wait for Redis; the oldest are given up", MAX_COMMANDS
            )

    def stop(self, timeout: float) -> None:
        """Tell the others that everybody here has left, and end both threads within ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        self._announcer.stop()
        self._listener.stop()
        for part in (self._announcer, self._listener):
            if part.thread.ident is None:
                continue
            # The closing_frames of the one wakes the other. Where there is no answer the connection is taken from below them.
            part.thread.join(max(0.0, (deadline - time.monotonic()) / 2))
            if part.thread.is_alive():
                part.leases.close()
                part.thread.join(max(0.0, (deadline - time.monotonic()) / 2))
