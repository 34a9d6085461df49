"""Which identities were disconnected or are to be authorized again lately, for checks that were under way at that moment.

**Threads**: any.
**Locks**: ``_lock`` guards all of it. It is a leaf: no other lock is taken while it is held.

Whether a client may connect or subscribe is the app's answer, and an answer takes time. One that was given before the app
changed its mind is void: the caller notes ``mark`` before it asks, and calls ``since`` once the client can be found.
"""

from __future__ import annotations

import threading
from collections import deque

__all__ = ["Revocations"]

# How many are remembered: more than there are while the app answers once. A check that is older counts as disconnected.
_MAX_REMEMBERED = 1024


class Revocations:
    """The number of revocations of one hub, and the last of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._number = 0
        # The identity key, and whether it was disconnected rather than to be authorized again.
        self._last: deque[tuple[str, bool]] = deque(maxlen=_MAX_REMEMBERED)

    def add(self, identity_key: str, *, disconnects: bool) -> None:
        """Note that an identity is disconnected, or authorized again; before its clients are looked up."""
        with self._lock:
            self._number += 1
            self._last.append((identity_key, disconnects))

    def mark(self) -> int:
        """Return the number of the last one."""
        with self._lock:
            return self._number

    def since(self, mark: int, identity_key: str | None) -> tuple[bool, bool]:
        """Return whether an identity was disconnected, and whether it is to be authorized again, after a mark."""
        if mark == self._number:
            return False, False
        with self._lock:
            missed = self._number - mark
            found = [disconnects for key, disconnects in list(self._last)[-missed:] if key == identity_key]
        return missed > _MAX_REMEMBERED or any(found), False in found
