"""Whether the broker counts as unreachable, so that only the event writer's thread waits for it.

**Locks**: none of its own; the event writer's is held throughout.

This is no library. pybreaker, the best maintained one, lets a caller's own call through to probe (1.4: ``CircuitOpenState``),
and holds its lock meanwhile: that request waits out the timeout, and all others wait for it. Here the event writer's thread
alone probes, and every publisher is answered at once.
"""

from __future__ import annotations

import time
from typing import NamedTuple

from .backoff import Backoff

__all__ = ["CircuitBreaker", "Outage"]

# The first and the last bound of the wait between two attempts, in seconds: see Backoff.
_RETRIES = (0.05, 2.0)


class Outage(NamedTuple):
    """What an outage came to: its length, and the events that were spooled and rejected meanwhile."""

    seconds: float
    spooled: int
    rejected: int


class CircuitBreaker:
    """The state of the way to the broker: open during an outage."""

    def __init__(self) -> None:
        self.is_open = False
        #: The reader cannot read, which by itself keeps the breaker open.
        self.reader_lost = False
        #: When the broker is to be tried next; the monotonic clock's.
        self.retry_at = 0.0
        #: How many times it has opened.
        self.outages = 0
        #: Events spooled and rejected since it opened.
        self.spooled = self.rejected = 0
        self._opened_at = 0.0
        self._backoff = Backoff(*_RETRIES)

    def open(self, spooled: int) -> None:
        """Begin an outage, with so many events spooled already."""
        self.is_open = True
        self.outages += 1
        self.spooled, self.rejected = spooled, 0
        self._opened_at = self.retry_at = time.monotonic()
        self._backoff.reset()

    def close(self) -> Outage:
        """End the outage."""
        self.is_open = False
        return Outage(time.monotonic() - self._opened_at, self.spooled, self.rejected)

    def attempt_failed(self) -> None:
        """Schedule the next attempt."""
        self.retry_at = time.monotonic() + self._backoff.wait()

    def attempt_succeeded(self) -> None:
        """Make the wait after the next failure a short one."""
        self._backoff.reset()
