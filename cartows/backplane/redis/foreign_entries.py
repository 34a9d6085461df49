"""Entries of the stream that cartows did not write: they are told from events, logged, and skipped.

**Threads**: ``ForeignEntryLog`` belongs to the reader's thread.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from .event_store import Record, record_of

__all__ = ["ForeignEntry", "ForeignEntryLog", "parse_entry"]

# The shortest time between two lines, in seconds.
_PERIOD = 60.0


class ForeignEntry(NamedTuple):
    """An entry that is no event: why, and its number, or 0 where its id is not that of an event."""

    number: int
    reason: str


def parse_entry(id: bytes, fields: Mapping[bytes, bytes]) -> Record | ForeignEntry:
    """Return an entry of the stream as a record where it is one."""
    try:
        return record_of(id, fields)
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        number, _, rest = id.partition(b"-")
        return ForeignEntry(int(number) if rest == b"0" else 0, f"the entry {id!r}: {error!r:.200}")


class ForeignEntryLog:
    """Logs the first entry, and then not more than one line a minute."""

    def __init__(self, logger: logging.Logger, address: str, stream: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._logger, self._clock = logger, clock
        self._address, self._stream = address, stream
        self._logged_at = float("-inf")
        #: Entries that were skipped and not logged.
        self._skipped = 0

    def log(self, reason: str) -> None:
        """Record that an entry was skipped."""
        now = self._clock()
        if now - self._logged_at < _PERIOD:
            self._skipped += 1
            return
        self._logger.error(
            "cartows: the stream %s at %s has an entry that is no event: %s%s. It is skipped. Give cartows a database of its "
            "own, and a user that no other application has; logged at most once in %d s",
            self._stream,
            self._address,
            reason,
            f", and {self._skipped} others since the last line" if self._skipped else "",
            _PERIOD,
        )
        self._logged_at, self._skipped = now, 0
