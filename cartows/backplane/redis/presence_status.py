"""Logs once that presence across processes is disturbed, and once that it works again.

**Locks**: ``_lock``, a leaf, guards which parts are disturbed and keeps the log in order.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from .connect import BrokerError

__all__ = ["PresenceStatus"]

# The shortest time between two disturbances that are logged, in seconds: a connection may come and go.
_PERIOD = 60.0


class PresenceStatus:
    """The state of the announcer and the listener of one process together."""

    def __init__(self, logger: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._logger, self._clock = logger, clock
        self._lock = threading.Lock()
        #: The parts whose last attempt succeeded, and those that are disturbed.
        self._working: set[str] = set()
        self._disturbed: set[str] = set()
        #: When a disturbance was logged, and whether its end is still to be.
        self._logged_at = float("-inf")
        self._is_logged = False

    def failed(self, part: str, error: Exception) -> None:
        """Record that a part has failed and retries."""
        if not isinstance(error, BrokerError):
            self._logger.error("cartows: presence across processes failed unexpectedly and is retried", exc_info=error)
        with self._lock:
            worked = part in self._working
            self._working.discard(part)
            # Where only a connection was closed, as by CLIENT KILL or a proxy, the next one will most likely do.
            if worked and isinstance(error, BrokerError) and error.broken:
                return
            self._disturbed.add(part)
            now = self._clock()
            if not self._is_logged and now - self._logged_at >= _PERIOD:
                self._is_logged, self._logged_at = True, now
                self._logger.warning(
                    "cartows: presence is not shared with other processes for now, in either direction. %s. It is retried; "
                    "logged once",
                    error,
                )

    def works(self, part: str) -> None:
        """Record that a part works."""
        with self._lock:
            self._working.add(part)
            self._disturbed.discard(part)
            if self._is_logged and not self._disturbed:
                self._is_logged = False
                self._logger.warning("cartows: presence is shared with other processes again")
