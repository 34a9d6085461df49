"""How much one client may send: token buckets for messages and for their bytes, and the verdict on what exceeds them.

**Threads**: the client's reader thread alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from ..options import Options

__all__ = ["ADMIT", "DROP", "END", "NOTIFY", "Bucket", "RateLimit", "limit_of"]

# What is to be done with a message.
ADMIT = 0  # handle it
DROP = 1  # do not; the client was notified a moment ago
NOTIFY = 2  # do not, and notify the client
END = 3  # the client goes on regardless: disconnect it

# A client is notified once in so many seconds, and its drops are forgotten after as many seconds without one.
_QUIET = 1.0

# How many seconds of waiting a client is credited with in all.
_MAX_CREDIT = 30.0

# How many seconds' worth of bytes may come at once, at least.
_BURST_SECONDS = 2


class Bucket:
    """A bound of ``burst`` tokens at once and ``rate`` per second in the long run."""

    __slots__ = ("_burst", "_extra", "_left", "_rate")

    def __init__(self, rate: float, burst: float) -> None:
        self._rate, self._burst = rate, float(burst)
        #: Tokens in addition, for the time in which others were handled; until the bucket is full.
        self._extra = 0.0
        #: Tokens left; negative for a debt.
        self._left = self._burst

    def refill(self, seconds: float) -> None:
        """Add the tokens of so many seconds."""
        self._left += seconds * self._rate
        if self._left >= self._burst:
            self._left, self._extra = self._burst, 0.0

    def has(self, cost: float) -> bool:
        """Return whether there are so many tokens; never more than ``burst`` are asked for, and none is always there."""
        cost = min(cost, self._burst)
        return self._left >= cost or self._extra >= cost or not cost

    def take(self, cost: float) -> None:
        """Take tokens that there are."""
        cost = min(cost, self._burst)
        if self._left >= cost:
            self._left -= cost
        elif cost:
            self._extra -= cost

    def charge(self, cost: float) -> None:
        """Take tokens that there may not be; others have to wait until the debt is paid."""
        self._left -= cost

    def credit(self, seconds: float) -> None:
        """Add the tokens of so many seconds of waiting, beyond ``burst``."""
        self._extra = min(self._extra + seconds * self._rate, _MAX_CREDIT * self._rate)

    def wait(self, cost: float) -> float:
        """Return in how many seconds there will be so many tokens."""
        return max(0.0, (min(cost, self._burst) - self._left) / self._rate)


class RateLimit:
    """A bound of ``burst`` messages at once and ``rate`` per second in the long run, and one of bytes like it.

    A client that has ``burst`` more messages dropped, without a quiet second in between, is to be disconnected. A rate of None
    is no bound.
    """

    __slots__ = ("_burst", "_bytes", "_clock", "_dropped", "_dropped_at", "_messages", "_notified_at", "_seen_at", "_wanted")

    def __init__(
        self,
        rate: float | None,
        burst: int,
        clock: Callable[[], float] = time.monotonic,
        *,
        byte_rate: float | None = None,
        byte_burst: float = 0,
    ) -> None:
        self._burst, self._clock = burst, clock
        self._messages = None if rate is None else Bucket(rate, burst)
        self._bytes = None if byte_rate is None else Bucket(byte_rate, byte_burst)
        self._seen_at = clock()
        self._dropped = 0
        self._dropped_at = self._notified_at = float("-inf")
        #: The bytes of the message that was dropped last.
        self._wanted = 0

    def admit(self, size: int = 0, *, notify: bool = True) -> int:
        """Return what is to be done with a message of so many bytes: ADMIT to END, without ``notify`` never NOTIFY."""
        now = self._clock()
        messages, in_bytes, seconds = self._messages, self._bytes, now - self._seen_at
        self._seen_at = now
        if messages is not None:
            messages.refill(seconds)
        if in_bytes is not None:
            in_bytes.refill(seconds)
        if (messages is None or messages.has(1)) and (in_bytes is None or in_bytes.has(size)):
            if messages is not None:
                messages.take(1)
            if in_bytes is not None:
                in_bytes.take(size)
            return ADMIT
        self._wanted = size
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

    def charge(self, messages: int = 0, size: int = 0) -> None:
        """Charge what an admitted message costs beyond one, and beyond its bytes; the next ones wait until that is paid."""
        if self._messages is not None:
            self._messages.charge(messages)
        if self._bytes is not None:
            self._bytes.charge(size)

    def credit(self, seconds: float) -> None:
        """Credit the time that the client was kept waiting: what it sent meanwhile comes all at once."""
        for bucket in (self._messages, self._bytes):
            if bucket is not None:
                bucket.credit(seconds)
        self._seen_at = self._clock()

    def wait(self) -> float:
        """Return in how many seconds the message that was dropped last would be admitted."""
        messages = 0.0 if self._messages is None else self._messages.wait(1)
        return max(messages, 0.0 if self._bytes is None else self._bytes.wait(self._wanted))


def limit_of(options: Options, clock: Callable[[], float] = time.monotonic) -> RateLimit | None:
    """Return the limit for one client by an app's options; None where there is none."""
    if options.rate_limit is None and options.rate_limit_bytes is None:
        return None
    # A message of the largest size can always be sent.
    byte_burst = max(_BURST_SECONDS * (options.rate_limit_bytes or 0), options.max_message_size)
    rate, byte_rate = options.rate_limit, options.rate_limit_bytes
    return RateLimit(rate, options.rate_burst, clock, byte_rate=byte_rate, byte_burst=byte_burst)
