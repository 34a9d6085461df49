"""How many messages one client may send: a token bucket, and the verdict on what exceeds it.

**Threads**: the client's reader thread alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["ADMIT", "DROP", "END", "NOTIFY", "RateLimit"]

# What is to be done with a message.
ADMIT = 0  # handle it
DROP = 1  # do not; the client was notified a moment ago
NOTIFY = 2  # do not, and notify the client
END = 3  # the client goes on regardless: disconnect it

# A client is notified once in so many seconds, and its drops are forgotten after as many seconds without one.
_QUIET = 1.0

# How many seconds of waiting a client is credited with in all.
_MAX_CREDIT = 30.0


class RateLimit:
    """A bound of ``burst`` messages at once and ``rate`` per second in the long run.

    A client that has ``burst`` more dropped, without a quiet second in between, is to be disconnected.
    """

    __slots__ = ("_burst", "_clock", "_dropped", "_dropped_at", "_extra", "_left", "_notified_at", "_rate", "_seen_at")

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        #: Messages admitted in addition, for the time in which others were handled; until the client has been quiet.
        self._extra = 0.0
        #: Messages that may come at once, as of ``_seen_at``; negative for a debt.
        self._left = float(burst)
        self._seen_at = clock()
        self._dropped = 0
        self._dropped_at = self._notified_at = float("-inf")

    def admit(self, *, notify: bool = True) -> int:
        """Return what is to be done with a message: ADMIT to END, without ``notify`` never NOTIFY."""
        now = self._clock()
        self._left += (now - self._seen_at) * self._rate
        self._seen_at = now
        if self._left >= self._burst:
            self._left, self._extra = float(self._burst), 0.0
        if self._left >= 1:
            self._left -= 1
            return ADMIT
        if self._extra >= 1:
            self._extra -= 1
            return ADMIT
        if now - self._dropped_at >= _QUIET:
            self._dropped = 0
        self._dropped += 1
        self._dropped_at = now
        if self._dropped > self._burst:
            return END
        if notify and now - self._notified_at >= _QUIET:
            self._notified_at = now
            return NOTIFY
        return DROP

    def charge(self, cost: int) -> None:
        """Charge what an admitted message costs beyond one; the next ones wait until the debt is paid."""
        self._left -= cost

    def credit(self, seconds: float) -> None:
        """Credit the time that the client was kept waiting: what it sent meanwhile comes all at once."""
        self._extra = min(self._extra + seconds * self._rate, _MAX_CREDIT * self._rate)
        self._seen_at = self._clock()

    def wait(self) -> float:
        """Return in how many seconds the next message will be admitted."""
        return max(0.0, (1 - self._left) / self._rate)
