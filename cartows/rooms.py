"""Who hears what: an index from filter values to clients, so that an event for one board costs its subscribers.

Threads: the hub thread alone.
Locks: none.
Blocks: never.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

__all__ = ["Audience", "Filters", "Room", "Rooms", "Subscriptions", "room_value", "with_rooms", "without_rooms"]

Member = TypeVar("Member")
Room = tuple[str, str]

# The filters of a client: each key with its values.
Filters = Mapping[str, tuple[str, ...]]


class Audience(NamedTuple):
    """Say which clients hear an event: those in ``rooms``, and with ``unfiltered`` those who hold no filter."""

    rooms: tuple[Room, ...] = ()
    unfiltered: bool = True
    #: Every client, whatever its filters.
    everyone: bool = False


EVERYONE = Audience(everyone=True)


class Subscriptions(NamedTuple):
    """Say what one client hears: the events of its ``rooms``, and with ``unfiltered`` all that an Audience lets it hear."""

    rooms: frozenset[Room] = frozenset()
    unfiltered: bool = True

    @classmethod
    def of(cls, filters: Mapping[str, Iterable[str]], selective: bool) -> Subscriptions:
        """Return what a client with these filters hears; one that is ``selective`` hears nothing for want of filters."""
        rooms = frozenset((key, value) for key, values in filters.items() for value in values)
        return cls(rooms, not rooms and not selective)

    def match(self, audience: Audience) -> bool:
        """Return whether an event is for this client; the same answer that ``Rooms.recipients`` gives."""
        return audience.everyone or (self.unfiltered and audience.unfiltered) or not self.rooms.isdisjoint(audience.rooms)


def room_value(value: Any) -> str:
    """Return a filter value as the text that stands in a URL: ``5``, a UUID or an enum match what a browser asks for."""
    return str(value.value if isinstance(value, enum.Enum) else value)


def with_rooms(filters: Filters, rooms: tuple[Room, ...]) -> Filters:
    """Return the filters with some more rooms, behind those held."""
    grown = {key: dict.fromkeys(values) for key, values in filters.items()}
    for key, value in rooms:
        grown.setdefault(key, {})[value] = None
    return {key: tuple(values) for key, values in grown.items()}


def without_rooms(filters: Filters, rooms: Collection[Room]) -> Filters:
    """Return the filters without these rooms."""
    left = {key: tuple(value for value in values if (key, value) not in rooms) for key, values in filters.items()}
    return {key: values for key, values in left.items() if values}


class Rooms(Generic[Member]):
    """Hold each member's rooms and each room's members. Dicts stand for ordered sets."""

    def __init__(self) -> None:
        self._held: dict[Member, frozenset[Room]] = {}
        self._members: dict[Room, dict[Member, None]] = {}
        self._unfiltered: dict[Member, None] = {}
        self._rooms_of_key: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._held)

    def join(self, member: Member, subscriptions: Subscriptions) -> None:
        """Put a member into the rooms that it hears, and into no others."""
        self.leave(member)
        self._held[member] = subscriptions.rooms
        for room in subscriptions.rooms:
            if room not in self._members:
                self._members[room] = {}
                self._rooms_of_key[room[0]] = self._rooms_of_key.get(room[0], 0) + 1
            self._members[room][member] = None
        if subscriptions.unfiltered:
            self._unfiltered[member] = None

    def leave(self, member: Member) -> None:
        """Take a member out of every room; nothing happens when it is in none."""
        for room in self._held.pop(member, ()):
            members = self._members[room]
            members.pop(member, None)
            if not members:
                del self._members[room]
                self._rooms_of_key[room[0]] -= 1
        self._unfiltered.pop(member, None)

    def holds(self, key: str) -> bool:
        """Return whether anybody holds a filter of that key. Any thread may ask; the answer may be a moment old."""
        return self._rooms_of_key.get(key, 0) > 0

    def recipients(self, audiences: Iterable[Audience]) -> dict[int, list[Member]]:
        """Group the members by what each hears of a run of events.

        Each key is a set of bits, bit *i* standing for the *i*-th audience; those who hear nothing are left out. Costs the
        members of the rooms named, not all members.
        """
        bits: dict[Audience, int] = {}
        for index, audience in enumerate(audiences):
            bits[audience] = bits.get(audience, 0) | 1 << index
        everyone = unfiltered = 0
        found: dict[Member, int] = {}
        for audience, heard in bits.items():
            if audience.everyone:
                everyone |= heard
                continue
            if audience.unfiltered:
                unfiltered |= heard
            for room in audience.rooms:
                for member in self._members.get(room, ()):
                    found[member] = found.get(member, 0) | heard
        groups: dict[int, list[Member]] = {}
        if everyone:
            for member in self._held:
                if member not in self._unfiltered:
                    groups.setdefault(everyone | found.get(member, 0), []).append(member)
        else:
            for member, heard in found.items():
                groups.setdefault(heard, []).append(member)
        if self._unfiltered and everyone | unfiltered:
            groups.setdefault(everyone | unfiltered, []).extend(self._unfiltered)
        return groups
