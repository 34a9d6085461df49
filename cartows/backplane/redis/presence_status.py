"""Logs once that presence across processes is disturbed, and once that it works again.

**Locks**: ``_lock``, a leaf, guards which parts are disturbed and keeps the log in order.
"""

from __future__ import annotations

import logging
import threading

from .connect import BrokerError

__all__ = ["PresenceStatus"]


class PresenceStatus:
    """The state of the announcer and the listener of one process together."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._lock = threading.Lock()
        self._disturbed: set[str] = set()

    def failed(self, part: str, error: Exception) -> None:
        """Record that a part has failed and retries."""
        if not isinstance(error, BrokerError):
            self._logger.error("cartows: presence across processes failed unexpectedly and is retried", exc_info=error)
        with self._lock:
            first = not self._disturbed
            self._disturbed.add(part)
            if first:
                self._logger.warning(
                    "cartows: presence is not shared with other processes for now, in either direction. %s. It is retried; "
                    "logged once",
                    error,
                )

    def works(self, part: str) -> None:
        """Record that a part works."""
        with self._lock:
            if part in self._disturbed:
                self._disturbed.discard(part)
                if not self._disturbed:
                    self._logger.warning("cartows: presence is shared with other processes again")
