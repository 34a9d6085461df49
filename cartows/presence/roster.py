"""The roster of one room: its presence entries, and the messages that its members are to be sent about changes.

**Threads**: the hub thread. Other threads read ``entries`` under the lock of ``Presence``, which the hub thread takes to
change it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from ..message import MessageType
from ..rooms import Room

__all__ = ["NEVER", "Member", "Meta", "PresenceUpdate", "Roster", "RosterEntry", "Shown", "shown"]

STATE, DIFF = MessageType.PRESENCE_STATE.value, MessageType.PRESENCE_DIFF.value

# How often the members of a room that is too large for names are sent its count, in seconds.
_COUNT_PERIOD = 1.0

NEVER = float("inf")

Meta = Mapping[str, Any]
Shown = dict[str, list[dict[str, Any]]]


class Member(Protocol):
    """What can be in a room: a client. Equality must agree with the hash."""

    @property
    def id(self) -> str: ...
    @property
    def identity_key(self) -> str | None: ...


M = TypeVar("M", bound=Member)


class PresenceUpdate(NamedTuple):
    """One message and its recipients. Its data may share parts with other updates: encode it, do not change it."""

    members: list[Any]
    type: str
    data: dict[str, Any]


@dataclass(eq=False)
class RosterEntry:
    """The presence entry of one tab in one room. Its meta is replaced, never changed: updates and other threads refer to it."""

    ref: str
    identity: str
    meta: Meta
    #: When it leaves, while its leave is held back.
    due: float = NEVER


class Roster(Generic[M]):
    """The presence entries of one room, and what has changed since its members were last sent an update."""

    def __init__(self, room: Room) -> None:
        self.room = room
        #: By ref, in the order in which they came: those of ``members``, those held back, and those of other processes.
        self.entries: dict[str, RosterEntry] = {}
        self.members: dict[M, RosterEntry] = {}
        #: The entries whose members have gone and whose leave is held back, oldest first, by ref.
        self.held_back: dict[str, RosterEntry] = {}
        self._held_back_of: dict[str, dict[str, RosterEntry]] = {}
        # How many entries each identity has.
        self._tabs: dict[str, int] = {}
        # Since the last update: the members that came, and each changed entry with its meta before, None for a new entry.
        self._newcomers: dict[M, None] = {}
        self._before: dict[str, tuple[RosterEntry, Meta | None]] = {}
        # Whether there are too many entries for names. While there are: whether some members have an outdated count, the count
        # at the last update, and the time before which no further count is sent.
        self._crowded = False
        self._outdated = False
        self._counted = 0
        self._quiet_until = -NEVER
        #: The ``next_due`` that the schedule of ``Presence`` has.
        self.wake_at = NEVER

    def add(self, entry: RosterEntry) -> None:
        """Add an entry. The caller holds the lock."""
        self._touch(entry, None)
        self._tabs[entry.identity] = self._tabs.get(entry.identity, 0) + 1
        self.entries[entry.ref] = entry

    def remove(self, entry: RosterEntry) -> None:
        """Remove an entry. The caller holds the lock."""
        self._release(entry)
        self._touch(entry, entry.meta)
        self._tabs[entry.identity] -= 1
        if not self._tabs[entry.identity]:
            del self._tabs[entry.identity]
        del self.entries[entry.ref]

    def set_meta(self, entry: RosterEntry, meta: Meta) -> None:
        """Replace the meta of an entry."""
        self._touch(entry, entry.meta)
        entry.meta = meta

    def join(self, member: M, entry: RosterEntry) -> None:
        """Make a member the owner of an entry, which is not held back any more."""
        self._release(entry)
        self.members[member] = entry
        self._newcomers[member] = None

    def part(self, member: M) -> RosterEntry:
        """Detach a member from its entry, which stays; return the entry."""
        self._newcomers.pop(member, None)
        return self.members.pop(member)

    def hold_back(self, entry: RosterEntry, due: float) -> None:
        """Keep an entry whose member has gone until a time, so that a member that returns takes it over."""
        entry.due = due
        self.held_back[entry.ref] = entry
        self._held_back_of.setdefault(entry.identity, {})[entry.ref] = entry

    def oldest_of(self, identity: str) -> RosterEntry | None:
        """Return the oldest entry of an identity that is held back."""
        return next(iter(self._held_back_of.get(identity, {}).values()), None)

    def expired(self, now: float) -> list[RosterEntry]:
        """Return the entries that are held back and due."""
        return list(itertools.takewhile(lambda entry: entry.due <= now, self.held_back.values()))

    def next_due(self) -> float:
        """Return when the next entry is due to leave or the next count to be sent."""
        oldest = next(iter(self.held_back.values()), None)
        return min(NEVER if oldest is None else oldest.due, self._quiet_until if self._outdated else NEVER)

    def updates(self, now: float, limit: int) -> list[PresenceUpdate]:
        """Return the messages about all changes since the last call; over ``limit`` entries they carry only the count."""
        newcomers, self._newcomers = self._newcomers, {}
        before, self._before = self._before, {}
        was_crowded, count = self._crowded, len(self._tabs)
        # Tabs count, not identities: all clients that are called "guest" are one identity, and each has an entry in the state.
        # Names return at three quarters, so that a room about the limit does not change with each visitor.
        size = len(self.entries)
        self._crowded = size > limit * 3 / 4 if was_crowded else size > limit
        self._outdated = self._crowded and (self._outdated or count != self._counted or not was_crowded)
        self._counted = count
        if not self.members:
            # Only entries of other processes, or entries that are held back: there are no recipients.
            self._outdated = False
            return []
        if was_crowded and not self._crowded:
            return [PresenceUpdate(list(self.members), STATE, self._state())]
        found = []
        if newcomers:
            found.append(PresenceUpdate(list(newcomers), STATE, self._head() if self._crowded else self._state()))
        change = None if self._crowded else self._diff(before)
        if self._outdated and now >= self._quiet_until:
            self._outdated, self._quiet_until = False, now + _COUNT_PERIOD
            change = self._head()
        if change is not None:
            found.append(PresenceUpdate([member for member in self.members if member not in newcomers], DIFF, change))
        return found

    def _touch(self, entry: RosterEntry, meta: Meta | None) -> None:
        """Keep the meta that an entry had before its first change since the last update."""
        self._before.setdefault(entry.ref, (entry, meta))

    def _release(self, entry: RosterEntry) -> None:
        if self.held_back.pop(entry.ref, None) is not None:
            of_identity = self._held_back_of[entry.identity]
            del of_identity[entry.ref]
            if not of_identity:
                del self._held_back_of[entry.identity]

    def _head(self) -> dict[str, Any]:
        return {"key": self.room[0], "value": self.room[1], "count": len(self._tabs)}

    def _state(self) -> dict[str, Any]:
        return {**self._head(), "present": shown((entry, entry.meta) for entry in self.entries.values())}

    def _diff(self, before: dict[str, tuple[RosterEntry, Meta | None]]) -> dict[str, Any] | None:
        """Return the changes, None when there are none: an entry that came and left, or left and came back, is not in them."""
        joins, leaves = [], []
        for entry, was in before.values():
            # An entry of another process may have left and come back within one iteration, as another object with its ref.
            now = self.entries.get(entry.ref)
            if now is None:
                if was is not None:
                    leaves.append((entry, was))
            elif now.meta != was:
                joins.append((now, now.meta))
        return {**self._head(), "joins": shown(joins), "leaves": shown(leaves)} if joins or leaves else None


def shown(entries: Iterable[tuple[RosterEntry, Meta]]) -> Shown:
    """Return entries as they are on the wire: each identity with a ``ref`` and a ``meta`` for each of its tabs."""
    found: Shown = {}
    for entry, meta in entries:
        found.setdefault(entry.identity, []).append({"ref": entry.ref, "meta": meta})
    return found
