"""Who was put out or is to be asked again lately, for those who were being asked at that very moment.

Threads: any.
Locks: ``_lock`` guards all of it. It is a leaf: nothing else is taken while it is held.
Blocks: never.

Whether somebody may come in or hear a room is the app's answer, and an answer takes time. One that was given before the app
changed its mind counts for nothing: whoever asks notes ``now`` before, and looks at ``since`` once the client can be found.
"""

from __future__ import annotations

import threading
from collections import deque

__all__ = ["Revocations"]

# Those that are remembered: more than there are while one question is answered. Who asked before that counts as put out.
_MOST = 1024


class Revocations:
    """Number the revocations of one hub, and remember the last of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._number = 0
        # The identity as text, and whether it was put out rather than asked again.
        self._last: deque[tuple[str, bool]] = deque(maxlen=_MOST)

    def add(self, identity: str, *, puts_out: bool) -> None:
        """Note that an identity, as text, is put out or asked again; before its clients are looked for."""
        with self._lock:
            self._number += 1
            self._last.append((identity, puts_out))

    def now(self) -> int:
        """Return the number of the last one."""
        with self._lock:
            return self._number

    def since(self, number: int, identity: str | None) -> tuple[bool, bool]:
        """Return whether an identity has been put out, and whether it is to be asked again, behind a number."""
        if number == self._number:
            return False, False
        with self._lock:
            missed = self._number - number
            puts_out = [puts_out for who, puts_out in list(self._last)[-missed:] if who == identity]
        return missed > _MOST or any(puts_out), False in puts_out
