"""What happens when too much waits for all clients together: the slowest are disconnected, until enough is free.

**Threads**: ``wanted`` on any; the rest on the timer's thread.
**Locks**: none of its own; it takes the send lock of one client at a time.
"""

from __future__ import annotations

import logging
import time

from ..client.queue_budget import QueueBudget
from ..websocket.close_codes import CloseCode
from .registry import Registry
from .timer import Timer

__all__ = ["QueueRelief"]

# How many seconds a client that is disconnected has to read why, before what is left of its queue is dropped.
_SHED_WAIT = 1.0

_REASON = "slow consumer: over CARTOWS_TOTAL_QUEUE_BYTES waited for all clients, and most of it for this one"

# How many seconds there are between two lines of the log.
_LOG_INTERVAL = 10.0


class QueueRelief:
    """The budget of one hub's queues, and what keeps them within it."""

    def __init__(self, limit: int, registry: Registry, timer: Timer, logger: logging.Logger) -> None:
        self.budget = QueueBudget(limit, self.wanted)
        self._registry = registry
        self._timer = timer
        self._logger = logger
        self._log_again_at = 0.0

    def wanted(self) -> None:
        """Have the slowest clients disconnected soon; a send lock is held."""
        self._timer.call_soon(self.relieve)

    def relieve(self) -> None:
        """Disconnect the clients for whom most waits, until a quarter of the limit is free."""
        # A frame in many queues is free only once all of them have dropped it: each client is charged its part of that.
        shares = [(client.connection.share(), client) for client in self._registry.present()]
        shares.sort(key=lambda each: each[0], reverse=True)
        waited, freed, shed = self.budget.bytes, 0.0, 0
        self.budget.begin_relief()
        for share, client in shares:
            if not share or self.budget.relieved(freed):
                break
            if client.connection.disconnect(CloseCode.SLOW_CONSUMER, _REASON, within=_SHED_WAIT):
                self._registry.count("slow_consumers")
                self._registry.count("over_total_queue_bytes")
                shed += 1
                # A frame that was cut is free only once it has been sent, or within that time.
                freed += client.connection.share()
            else:
                client.connection.abort(CloseCode.SLOW_CONSUMER, _REASON)
        if shed and time.monotonic() >= self._log_again_at:
            self._log_again_at = time.monotonic() + _LOG_INTERVAL
            self._logger.warning(
                "cartows: %d bytes waited for clients that do not keep up, over CARTOWS_TOTAL_QUEUE_BYTES=%s for all of them: "
                "the %d slowest are disconnected and may resume. Raise it, or lower CARTOWS_SEND_QUEUE_BYTES, if these are "
                "clients of yours",
                waited,
                self.budget.limit,
                shed,
            )
