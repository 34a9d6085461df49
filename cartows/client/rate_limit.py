"""How much one client may say: a token bucket, and what becomes of what is too much.

Threads: the client's reader thread alone.
Locks: none.
Blocks: never.
"""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["ADMIT", "DROP", "END", "TELL", "RateLimit"]

# What is to be done with a message.
ADMIT = 0  # handle it
DROP = 1  # do not; the client has been told a moment ago
TELL = 2  # do not, and tell the client
END = 3  # the client goes on regardless: it is to be put out

# Who was told to slow down is told again after so many seconds, and is forgiven after as many without a drop.
_QUIET = 1.0

# For how many seconds of waiting a client is credited at the most, in all.
_MAX_CREDIT = 30.0


class RateLimit:
    """Let ``burst`` messages through at once and ``rate`` per second in the long run.

    A client that has ``burst`` more dropped, without a quiet second in between, is to be put out.
    """

    __slots__ = ("_burst", "_clock", "_dropped", "_dropped_at", "_extra", "_left", "_rate", "_seen_at", "_told_at")

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        #: Messages that may come besides, for the time in which others were handled; until the client has been quiet.
        self._extra = 0.0
        #: Messages that may come at once, as of ``_seen_at``; below zero what is owed.
        self._left = float(burst)
        self._seen_at = clock()
        self._dropped = 0
        self._dropped_at = self._told_at = float("-inf")

    def admit(self, *, tells: bool = True) -> int:
        """Return what is to be done with something that has come: ADMIT … END, without ``tells`` never TELL."""
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
        if tells and now - self._told_at >= _QUIET:
            self._told_at = now
            return TELL
        return DROP

    def charge(self, cost: int) -> None:
        """Take what a message that was let through costs beyond one; what is not left is owed, and others wait for it."""
        self._left -= cost

    def credit(self, seconds: float) -> None:
        """Count no time in which the client was kept waiting: what it has sent meanwhile comes all at once."""
        self._extra = min(self._extra + seconds * self._rate, _MAX_CREDIT * self._rate)
        self._seen_at = self._clock()

    def wait(self) -> float:
        """Return in how many seconds the next message will be let through."""
        return max(0.0, (1 - self._left) / self._rate)
