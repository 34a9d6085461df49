"""Check at intervals whether the app still accepts the clients that are connected.

**Threads**: a timer of its own, started by the first client that is added; ``add`` and ``stop`` on any thread.
**Blocks**: the rechecker's thread for as long as the app's lookups take. They delay one another and nothing else.
"""

from __future__ import annotations

import logging
import weakref
from functools import partial

from ..client.client import Client
from .timer import Timer

__all__ = ["Rechecker"]


class Rechecker:
    """The periodic checks of the clients of one hub."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._timer = Timer("cartows-rechecker", logger)

    def add(self, client: Client, period: float) -> None:
        """Check a client every ``period`` seconds from now on. Raises RuntimeError when no thread can be started."""
        self._timer.start()
        # A client that has gone leaves an entry until its time comes, and is not kept alive by it.
        self._timer.call_every(period, partial(self._recheck, weakref.ref(client)))

    def stop(self, timeout: float) -> None:
        """End the thread and wait for it ``timeout`` seconds at most: a lookup may take longer."""
        self._timer.stop(timeout)

    def _recheck(self, reference: weakref.ref[Client]) -> bool:
        """Check a client, unless it is gone or closing; return whether it is to be checked again."""
        client = reference()
        if client is None or client.connection.closing:
            return False
        try:
            if not client.authorization.is_valid():
                client.authorization.expire("no longer accepted by the app")
        except Exception:
            # A database that is away is no reason to disconnect every client: the check is repeated.
            self._logger.exception("cartows: rechecking client %s failed; it stays connected", client.id)
        return True
