"""The rosters of all rooms: which clients are shown where, and what each room's members are to be sent about it.

**Threads**: the hub thread; ``present`` and ``presence_entries`` on any.
**Locks**: ``_lock`` guards which rooms there are, which entries are in them, and which of those belong to this process. The
hub thread takes it to change these and reads them without it; other threads read them under it. It is a leaf.

Members are clients of this process. Entries of other processes stand beside theirs, and come and go by ``apply``. What is to be
announced to the other processes waits for ``take_changes``.
"""

from __future__ import annotations

import heapq
import itertools
import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Generic, NamedTuple

from ..rooms import Room, room_value
from .roster import NEVER, M, Meta, PresenceUpdate, Roster, RosterEntry, Shown, shown

__all__ = ["Presence", "PresenceEntry", "PresenceReport", "PresenceUpdate"]

# The least number of leaves that are held back in a room, for rooms with a small limit: when one cable is pulled, that many
# members go at once.
_MIN_HELD_BACK = 16


class PresenceEntry(NamedTuple):
    """One tab of an identity in one room, as processes announce it to each other. Its meta is not to be changed."""

    ref: str
    room: Room
    identity: str
    meta: Meta


class PresenceReport(NamedTuple):
    """What another process has announced: by ref, each entry that came or has another meta, and None for one that left."""

    process: str
    entries: Mapping[str, PresenceEntry | None]
    #: Whether the process has no other entries; with an empty ``entries`` it has gone.
    whole: bool = False


class Presence(Generic[M]):
    """The rosters of all rooms. Each call costs the rooms that it concerns, not all rooms.

    Args:
        leave_wait: How long the leave of a member that has disconnected is held back, in seconds.
        room_limit: The largest number of entries in a room whose members are sent names.
        clock: Returns the time in seconds.
        shared: Whether there are other processes to announce the members to; if not, nothing is kept for them.
    """

    def __init__(
        self, leave_wait: float, room_limit: int, clock: Callable[[], float] = time.monotonic, *, shared: bool = False
    ) -> None:
        self._leave_wait = leave_wait
        self._room_limit = room_limit
        self._clock = clock
        self._shared = shared
        self._lock = threading.Lock()
        self._rosters: dict[Room, Roster[M]] = {}
        self._rooms: dict[M, dict[Room, None]] = {}
        #: The rooms that the next ``take_updates`` goes through.
        self._changed: dict[Room, None] = {}
        # A heap of due times and their rooms. An item whose time is not the ``wake_at`` of its roster is out of date. Of a room
        # that no longer exists only the name is left here, until that time.
        self._schedule: list[tuple[float, Room]] = []
        # For the other processes, by ref: the entries of this one, and their changes since the last ``take_changes``.
        self._own: dict[str, PresenceEntry] = {}
        self._outbox: dict[str, PresenceEntry | None] = {}
        # The entries of each other process, by ref.
        self._others: dict[str, dict[str, tuple[Roster[M], RosterEntry]]] = {}
        # Unique among all processes, whose members may be in one room.
        self._refs = map(f"{secrets.token_urlsafe(6)}.{{}}".format, itertools.count(1))

    def enter(self, member: M, room: Room, meta: Meta) -> None:
        """Put a member into a room, or replace its meta if it is there; a member that returns takes over its old entry."""
        identity = member.id if member.identity_key is None else member.identity_key
        # JSON can write a lone surrogate, but no message can carry one.
        identity = identity.encode(errors="replace").decode()
        meta = dict(meta)
        roster = self._rosters.get(room)
        if roster is None:
            roster = Roster(room)
        entry = roster.members.get(member)
        if entry is not None and entry.identity != identity:
            self.leave(member, room)
            return self.enter(member, room, meta)
        if entry is None:
            entry = roster.oldest_of(identity)
            if entry is None:
                entry = RosterEntry(next(self._refs), identity, meta)
                self._add(roster, entry)
            roster.join(member, entry)
            self._rooms.setdefault(member, {})[room] = None
        roster.set_meta(entry, meta)
        self._changed[room] = None
        if self._shared:
            self._announce(PresenceEntry(entry.ref, room, identity, meta))

    def leave(self, member: M, room: Room) -> None:
        """Take a member out of a room at once; does nothing if it is not there."""
        if room in self._rooms.get(member, ()):
            self._remove(*self._part(member, room))

    def keep(self, member: M, rooms: Collection[Room]) -> None:
        """Take a member out of all rooms but these, at once. Costs the rooms that it is in."""
        for room in [room for room in self._rooms.get(member, ()) if room not in rooms]:
            self.leave(member, room)

    def gone(self, member: M, *, at_once: bool) -> None:
        """Take a member that has disconnected out of all its rooms: after ``leave_wait``, or ``at_once``."""
        due = self._clock() + self._leave_wait
        for room in list(self._rooms.get(member, ())):
            roster, entry = self._part(member, room)
            if at_once:
                self._remove(roster, entry)
                continue
            roster.hold_back(entry, due)
            if len(roster.held_back) > max(self._room_limit, _MIN_HELD_BACK):
                self._remove(roster, next(iter(roster.held_back.values())))
            self._wake(roster)

    def _part(self, member: M, room: Room) -> tuple[Roster[M], RosterEntry]:
        """Detach a member from its entry, which stays."""
        rooms = self._rooms[member]
        del rooms[room]
        if not rooms:
            del self._rooms[member]
        roster = self._rosters[room]
        return roster, roster.part(member)

    def _add(self, roster: Roster[M], entry: RosterEntry) -> None:
        with self._lock:
            roster.add(entry)
            self._rosters[roster.room] = roster
        self._changed[roster.room] = None

    def _remove(self, roster: Roster[M], entry: RosterEntry) -> None:
        with self._lock:
            roster.remove(entry)
            if not roster.entries:
                del self._rosters[roster.room]
            own = self._shared and self._own.pop(entry.ref, None) is not None
        self._changed[roster.room] = None
        if own:
            self._outbox[entry.ref] = None

    def _wake(self, roster: Roster[M]) -> None:
        """Put the next due time of a room into the schedule. After a change ``take_updates`` calls it."""
        due = roster.next_due()
        if due != roster.wake_at:
            roster.wake_at = due
            if due < NEVER:
                heapq.heappush(self._schedule, (due, roster.room))

    def next_due(self) -> float | None:
        """Return the time at which ``take_updates`` is to be called again, None when nothing is scheduled.

        To be called after ``take_updates``: changes since then may have moved that time. Hub thread.
        """
        while self._schedule:
            due, room = self._schedule[0]
            if room in self._rosters and self._rosters[room].wake_at == due:
                return due
            heapq.heappop(self._schedule)
        return None

    def take_updates(self) -> list[PresenceUpdate]:
        """Remove the entries that are due; return the messages to send: at most one diff per room, and a state to newcomers.

        A state has all changes before the call, so no member is sent one twice. Hub thread, at the end of each iteration and at
        ``next_due``.
        """
        now = self._clock()
        while (due := self.next_due()) is not None and due <= now:
            roster = self._rosters[heapq.heappop(self._schedule)[1]]
            self._changed[roster.room] = None
            for entry in roster.expired(now):
                self._remove(roster, entry)
        updates: list[PresenceUpdate] = []
        changed, self._changed = self._changed, {}
        for room in changed:
            if room in self._rosters:
                roster = self._rosters[room]
                updates += roster.updates(now, self._room_limit)
                self._wake(roster)
        return [each for each in updates if each.members]

    # Other processes ----------------------------------------------------------------------------------------------

    def apply(self, reports: Iterable[PresenceReport]) -> None:
        """Apply what other processes have announced, in order; ``take_updates`` returns the messages about it."""
        for process, entries, whole in reports:
            of_process = self._others.setdefault(process, {})
            for ref in list(of_process if whole else entries):
                if ref in of_process and entries.get(ref) is None:
                    self._remove(*of_process.pop(ref))
            for entry in entries.values():
                if entry is not None:
                    self._put(of_process, entry)
            if not of_process:
                del self._others[process]

    def _put(self, of_process: dict[str, tuple[Roster[M], RosterEntry]], announced: PresenceEntry) -> None:
        """Add an entry of another process, or replace its meta."""
        ref, room, identity, meta = announced
        if ref in of_process:
            roster, entry = of_process[ref]
            roster.set_meta(entry, meta)
            self._changed[roster.room] = None
            return
        roster = self._rosters.get(room) or Roster(room)
        if ref in roster.entries:
            # Refs are random, so a ref that another process has as well is an error: nothing is shown twice because of it.
            return
        self._add(roster, entry := RosterEntry(ref, identity, meta))
        of_process[ref] = roster, entry
        # A page that reloads may connect to another process: the entry that is held back for it here is not needed any more.
        back = roster.oldest_of(identity)
        if back is not None:
            self._remove(roster, back)

    def _announce(self, entry: PresenceEntry) -> None:
        if self._own.get(entry.ref) != entry:
            with self._lock:
                self._own[entry.ref] = entry
            self._outbox[entry.ref] = entry

    def take_changes(self) -> dict[str, PresenceEntry | None]:
        """Return what to announce to the other processes, by ref: entries that came or have another meta, None for those left.

        Always empty unless ``shared``. Hub thread, after ``take_updates``, which removes the entries that are due.
        """
        changes, self._outbox = self._outbox, {}
        return changes

    def presence_entries(self) -> list[PresenceEntry]:
        """Return the entries of this process. Always empty unless ``shared``. Any thread."""
        with self._lock:
            return list(self._own.values())

    # Any thread ---------------------------------------------------------------------------------------------------

    def present(self, key: str, value: Any) -> Shown:
        """Return who is in a room: each identity with a ``ref`` and a ``meta`` for each of its tabs. Any thread.

        The caller may change what is returned, but not the values inside a meta, which belong to the room.
        """
        with self._lock:
            roster = self._rosters.get((key, room_value(value)))
            entries = [] if roster is None else list(roster.entries.values())
        return shown((entry, dict(entry.meta)) for entry in entries)
