"""Who is in a room: each room's roster, and what its members are to be told of the changes to it.

Threads: the hub thread alone; ``present`` and ``people`` on any.
Locks: ``_lock`` guards which rooms there are, which entries are in them, and which of those are this process's own: the hub
    thread changes that under it and reads it without, others read it under it. It is a leaf: nothing else is taken while it is
    held.
Blocks: never.

Members are of this process. People of other processes have entries beside theirs, which come and go by ``apply``; what is to be
told to the other processes waits for ``take_changes``.
"""

from __future__ import annotations

import heapq
import itertools
import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from ..message import MessageType
from ..rooms import Room, room_value

__all__ = ["Presence", "PresenceEntry", "PresenceReport", "PresenceUpdate"]

STATE, DIFF = MessageType.PRESENCE_STATE.value, MessageType.PRESENCE_DIFF.value

# A room that is too large for names is told its count this often, in seconds.
_COUNT_PERIOD = 1.0

# However small the largest room with names is: when one cable is pulled, more people than that go at once.
_LEAST_HELD_BACK = 16

_NEVER = float("inf")

Meta = Mapping[str, Any]
Shown = dict[str, list[dict[str, Any]]]


class Member(Protocol):
    """Be somebody who can be in a room: a client. Compared as it is hashed."""

    @property
    def id(self) -> str: ...
    @property
    def identity_key(self) -> str | None: ...


M = TypeVar("M", bound=Member)


class PresenceUpdate(NamedTuple):
    """Be one message and those whom it is for. The data may share parts with other news: encode it, do not change it."""

    # A generic NamedTuple needs Python 3.11.
    members: list[Any]
    type: str
    data: dict[str, Any]


class PresenceEntry(NamedTuple):
    """Be one tab of an identity in one room, as other processes know it. The meta is not to be changed."""

    ref: str
    room: Room
    identity: str
    meta: Meta


class PresenceReport(NamedTuple):
    """Say what another process has told of its people: by ref, who came or has another meta, and None for who left.

    With ``whole`` it has no others: a process that has gone is one that has nobody.
    """

    process: str
    people: Mapping[str, PresenceEntry | None]
    whole: bool = False


@dataclass(eq=False)
class _Entry:
    """Be one tab of an identity in one room. Its meta is replaced, never changed: news and other threads hold on to it."""

    ref: str
    identity: str
    meta: Meta
    #: When it leaves, for as long as it is held back.
    due: float = _NEVER


class _Roster(Generic[M]):
    """Hold who is in one room, and what has changed since its members were told."""

    def __init__(self, room: Room) -> None:
        self.room = room
        #: By ref, in the order they came; those of ``members``, and those held back.
        self.entries: dict[str, _Entry] = {}
        self.members: dict[M, _Entry] = {}
        #: How many entries each identity has.
        self.tabs: dict[str, int] = {}
        # The entries whose members have gone, oldest first: by ref, and once more below each identity.
        self.held_back: dict[str, _Entry] = {}
        self.held_back_of: dict[str, dict[str, _Entry]] = {}
        # Since the last news: who came, and each entry that was touched with the meta it had, None when it was not there.
        self.newcomers: dict[M, None] = {}
        self.before: dict[str, tuple[_Entry, Meta | None]] = {}
        #: Whether there are too many for names; then ``outdated``: not everybody has been told the count as it is.
        self.crowded = False
        self.outdated = False
        self.counted = 0
        self.quiet_until = -_NEVER
        #: The ``next_due`` that the schedule knows of.
        self.wake_at = _NEVER

    def touch(self, entry: _Entry, meta: Meta | None) -> None:
        """Note what an entry was like before its first change since the last news."""
        self.before.setdefault(entry.ref, (entry, meta))

    def hold_back(self, entry: _Entry, due: float) -> None:
        entry.due = due
        self.held_back[entry.ref] = entry
        self.held_back_of.setdefault(entry.identity, {})[entry.ref] = entry

    def release(self, entry: _Entry) -> None:
        """Hold an entry back no longer; nothing happens when it was not."""
        if self.held_back.pop(entry.ref, None) is not None:
            mine = self.held_back_of[entry.identity]
            del mine[entry.ref]
            if not mine:
                del self.held_back_of[entry.identity]

    def next_due(self) -> float:
        oldest = next(iter(self.held_back.values()), None)
        return min(_NEVER if oldest is None else oldest.due, self.quiet_until if self.outdated else _NEVER)

    def head(self) -> dict[str, Any]:
        return {"key": self.room[0], "value": self.room[1], "count": len(self.tabs)}

    def state(self) -> dict[str, Any]:
        return {**self.head(), "present": _shown((entry, entry.meta) for entry in self.entries.values())}

    def diff(self, before: dict[str, tuple[_Entry, Meta | None]]) -> dict[str, Any] | None:
        """Return what has changed, None when it comes to nothing: who came and went, or went and came back, is not in it."""
        joins, leaves = [], []
        for entry, was in before.values():
            # Another process's people may have gone and come back in one turn, as other entries of the same refs.
            now = self.entries.get(entry.ref)
            if now is None:
                if was is not None:
                    leaves.append((entry, was))
            elif now.meta != was:
                joins.append((now, now.meta))
        return {**self.head(), "joins": _shown(joins), "leaves": _shown(leaves)} if joins or leaves else None


def _shown(entries: Iterable[tuple[_Entry, Meta]]) -> Shown:
    found: Shown = {}
    for entry, meta in entries:
        found.setdefault(entry.identity, []).append({"ref": entry.ref, "meta": meta})
    return found


class Presence(Generic[M]):
    """Keep the rosters of all rooms. What is done costs the rooms it is done to, not all rooms.

    ``leave_wait`` is how many seconds the leave of a member who has gone is held back; ``room_limit`` is how many entries
    a room may have for its members to be told names. ``clock`` gives the time in seconds. ``shared`` says that there are other
    processes to be told of the members: without, nothing is kept for them.
    """

    def __init__(
        self, leave_wait: float, room_limit: int, clock: Callable[[], float] = time.monotonic, *, shared: bool = False
    ) -> None:
        self._leave_wait = leave_wait
        self._room_limit = room_limit
        self._clock = clock
        self._shared = shared
        self._lock = threading.Lock()
        self._rosters: dict[Room, _Roster[M]] = {}
        self._rooms: dict[M, dict[Room, None]] = {}
        #: The rooms that the next ``take_updates`` looks at.
        self._changed: dict[Room, None] = {}
        # When time brings something, and to which room. What does not bear its roster's ``wake_at`` is out of date: of a room
        # that has gone no more than its name is left, until the time comes.
        self._schedule: list[tuple[float, Room]] = []
        # For the other processes, by ref: the entries of this one, and what became of them since the last ``take_changes``.
        self._own: dict[str, PresenceEntry] = {}
        self._outbox: dict[str, PresenceEntry | None] = {}
        # The entries of each other process, by ref.
        self._others: dict[str, dict[str, tuple[_Roster[M], _Entry]]] = {}
        # Members of different processes may meet in one room.
        self._refs = map(f"{secrets.token_urlsafe(6)}.{{}}".format, itertools.count(1))

    def enter(self, member: M, room: Room, meta: Meta) -> None:
        """Put a member into a room, or replace its meta when it is there; one that comes back takes over its old entry."""
        identity = member.id if member.identity_key is None else member.identity_key
        # A lone surrogate, which JSON can name, can be in no message.
        identity = identity.encode(errors="replace").decode()
        meta = dict(meta)
        roster = self._rosters.get(room)
        if roster is None:
            roster = _Roster(room)
        entry = roster.members.get(member)
        if entry is not None and entry.identity != identity:
            self.leave(member, room)
            return self.enter(member, room, meta)
        if entry is None:
            entry = next(iter(roster.held_back_of.get(identity, {}).values()), None)
            if entry is None:
                entry = _Entry(next(self._refs), identity, meta)
                self._add(roster, entry)
            roster.release(entry)
            roster.members[member] = entry
            roster.newcomers[member] = None
            self._rooms.setdefault(member, {})[room] = None
        roster.touch(entry, entry.meta)
        entry.meta = meta
        self._changed[room] = None
        if self._shared:
            self._announce(PresenceEntry(entry.ref, room, identity, meta))

    def leave(self, member: M, room: Room) -> None:
        """Take a member out of a room at once; nothing happens when it is not there."""
        if room in self._rooms.get(member, ()):
            self._remove(*self._part(member, room))

    def keep(self, member: M, rooms: Collection[Room]) -> None:
        """Take a member out of every room but these, at once. Costs the rooms that it is in."""
        for room in [room for room in self._rooms.get(member, ()) if room not in rooms]:
            self.leave(member, room)

    def gone(self, member: M, *, at_once: bool) -> None:
        """Take a member out of all its rooms; the others are told when ``leave_wait`` is over, or ``at_once``."""
        due = self._clock() + self._leave_wait
        for room in list(self._rooms.get(member, ())):
            roster, entry = self._part(member, room)
            if at_once:
                self._remove(roster, entry)
                continue
            roster.hold_back(entry, due)
            if len(roster.held_back) > max(self._room_limit, _LEAST_HELD_BACK):
                self._remove(roster, next(iter(roster.held_back.values())))
            self._wake(roster)

    def _part(self, member: M, room: Room) -> tuple[_Roster[M], _Entry]:
        """Take a member from its entry, which stays."""
        rooms = self._rooms[member]
        del rooms[room]
        if not rooms:
            del self._rooms[member]
        roster = self._rosters[room]
        roster.newcomers.pop(member, None)
        return roster, roster.members.pop(member)

    def _add(self, roster: _Roster[M], entry: _Entry) -> None:
        roster.touch(entry, None)
        roster.tabs[entry.identity] = roster.tabs.get(entry.identity, 0) + 1
        with self._lock:
            roster.entries[entry.ref] = entry
            self._rosters[roster.room] = roster
        self._changed[roster.room] = None

    def _remove(self, roster: _Roster[M], entry: _Entry) -> None:
        roster.release(entry)
        roster.touch(entry, entry.meta)
        roster.tabs[entry.identity] -= 1
        if not roster.tabs[entry.identity]:
            del roster.tabs[entry.identity]
        with self._lock:
            del roster.entries[entry.ref]
            if not roster.entries:
                del self._rosters[roster.room]
            own = self._shared and self._own.pop(entry.ref, None) is not None
        self._changed[roster.room] = None
        if own:
            self._outbox[entry.ref] = None

    def _wake(self, roster: _Roster[M]) -> None:
        """Put a room into the schedule for its next time. A change calls it by way of ``take_updates``."""
        due = roster.next_due()
        if due != roster.wake_at:
            roster.wake_at = due
            if due < _NEVER:
                heapq.heappush(self._schedule, (due, roster.room))

    def next_due(self) -> float | None:
        """Return the time at which ``take_updates`` wants to be called again, None when nothing waits for a time.

        The hub thread, after ``take_updates``: what has changed since then may have put that time off.
        """
        while self._schedule:
            due, room = self._schedule[0]
            if room in self._rosters and self._rosters[room].wake_at == due:
                return due
            heapq.heappop(self._schedule)
        return None

    def take_updates(self) -> list[PresenceUpdate]:
        """Let go who is due, and return what is to be sent now: of each room one diff at most, and a state to who came.

        The hub thread, at the end of each of its turns and at ``next_due``. The state has all that happened before the call,
        so nobody is told a thing twice.
        """
        now = self._clock()
        while (due := self.next_due()) is not None and due <= now:
            roster = self._rosters[heapq.heappop(self._schedule)[1]]
            self._changed[roster.room] = None
            for entry in list(itertools.takewhile(lambda entry: entry.due <= now, roster.held_back.values())):
                self._remove(roster, entry)
        news: list[PresenceUpdate] = []
        changed, self._changed = self._changed, {}
        for room in changed:
            if room in self._rosters:
                roster = self._rosters[room]
                news += self._news_of(roster, now)
                self._wake(roster)
        return [each for each in news if each.members]

    def _news_of(self, roster: _Roster[M], now: float) -> list[PresenceUpdate]:
        newcomers, roster.newcomers = roster.newcomers, {}
        before, roster.before = roster.before, {}
        was_crowded, count = roster.crowded, len(roster.tabs)
        # Tabs count, not people: all that are called "guest" are one person, and each has a line in the state.
        size = len(roster.entries)
        roster.crowded = size > self._room_limit * 3 / 4 if was_crowded else size > self._room_limit
        roster.outdated = roster.crowded and (roster.outdated or count != roster.counted or not was_crowded)
        roster.counted = count
        if not roster.members:
            # A room of other processes' people, or of those who are held back.
            roster.outdated = False
            return []
        if was_crowded and not roster.crowded:
            return [PresenceUpdate(list(roster.members), STATE, roster.state())]
        news = []
        if newcomers:
            news.append(PresenceUpdate(list(newcomers), STATE, roster.head() if roster.crowded else roster.state()))
        change = None if roster.crowded else roster.diff(before)
        if roster.outdated and now >= roster.quiet_until:
            roster.outdated, roster.quiet_until = False, now + _COUNT_PERIOD
            change = roster.head()
        if change is not None:
            news.append(PresenceUpdate([member for member in roster.members if member not in newcomers], DIFF, change))
        return news

    # Other processes ----------------------------------------------------------------------------------------------

    def apply(self, reports: Iterable[PresenceReport]) -> None:
        """Take what other processes have told of their people, in order; members hear of it by ``take_updates``."""
        for process, people, whole in reports:
            theirs = self._others.setdefault(process, {})
            for ref in list(theirs if whole else people):
                if ref in theirs and people.get(ref) is None:
                    self._remove(*theirs.pop(ref))
            for person in people.values():
                if person is not None:
                    self._put(theirs, person)
            if not theirs:
                del self._others[process]

    def _put(self, theirs: dict[str, tuple[_Roster[M], _Entry]], person: PresenceEntry) -> None:
        """Show somebody of another process, or the meta that it has now."""
        ref, room, identity, meta = person
        if ref in theirs:
            roster, entry = theirs[ref]
            roster.touch(entry, entry.meta)
            entry.meta = meta
            self._changed[roster.room] = None
            return
        roster = self._rosters.get(room) or _Roster(room)
        if ref in roster.entries:
            # Refs are random: what claims one that somebody else has is a mistake, and nobody is shown twice for it.
            return
        self._add(roster, entry := _Entry(ref, identity, meta))
        theirs[ref] = roster, entry
        # A page that is loaded again may come back by another process: what is held back here for it has no more use.
        back = next(iter(roster.held_back_of.get(identity, {}).values()), None)
        if back is not None:
            self._remove(roster, back)

    def _announce(self, person: PresenceEntry) -> None:
        if self._own.get(person.ref) != person:
            with self._lock:
                self._own[person.ref] = person
            self._outbox[person.ref] = person

    def take_changes(self) -> dict[str, PresenceEntry | None]:
        """Return what the other processes are to be told, by ref: who came or has another meta, and None for who has left.

        The hub thread, after ``take_updates``, which lets go who is due. Always empty unless ``shared``.
        """
        changes, self._outbox = self._outbox, {}
        return changes

    def presence_entries(self) -> list[PresenceEntry]:
        """Return everybody whom this process shows the others. Any thread. Always empty unless ``shared``."""
        with self._lock:
            return list(self._own.values())

    # Any thread ---------------------------------------------------------------------------------------------------

    def present(self, key: str, value: Any) -> Shown:
        """Return who is in a room: each identity with a ``ref`` and the ``meta`` for each of its tabs. Any thread.

        What lies deeper in a meta belongs to the room and is not to be changed.
        """
        with self._lock:
            roster = self._rosters.get((key, room_value(value)))
            entries = [] if roster is None else list(roster.entries.values())
        return _shown((entry, dict(entry.meta)) for entry in entries)
