"""What is said of events that are not taken: once when that begins, and once when it is over.

Threads: any.
Locks: its own guards whether events are refused now. It is a leaf: nobody logs while holding it.
Blocks: never.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

__all__ = ["Refusals"]


class Refusals:
    """Log the first event that is refused, and the first that is taken after that."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._lock = threading.Lock()
        self._refusing = False

    def note(self, type: str, reason: str | None, count: Callable[[], int]) -> None:
        """Say what has changed, if anything has.

        ``reason`` is None for an event that was taken; ``count`` tells how many were not so far.
        """
        refused = reason is not None
        if self._refusing == refused:
            return
        with self._lock:
            fresh, self._refusing = self._refusing != refused, refused
        if fresh and refused:
            self._logger.warning("cartows: %r was not sent: %s. Said once until events are taken again", type, reason)
        elif fresh:
            self._logger.warning("cartows: events are taken again; %d were refused so far", count())
