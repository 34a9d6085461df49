"""Rooms and subscriptions: which clients receive an event.

A room is a filter key with a value, such as ``("board_id", "b1")``. ``Rooms`` is an index from rooms to clients, so that the
cost of an event for one board depends on the subscribers of that board alone.

**Threads**: ``Rooms`` belongs to the hub thread; everything else is a value.
"""

from __future__ import annotations

import enum
import numbers
import uuid
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

__all__ = [
    "MAX_ROOM_BYTES",
    "Audience",
    "Filters",
    "Room",
    "Rooms",
    "Subscriptions",
    "is_room_name",
    "room_value",
    "room_values",
    "with_rooms",
    "without_rooms",
]

#: How long a name of a room that a client asks for may be, in bytes as UTF-8.
MAX_ROOM_BYTES = 256

Member = TypeVar("Member")
Room = tuple[str, str]

# The filters of a client: each key with its values, in the order in which they were added.
Filters = Mapping[str, tuple[str, ...]]


class Audience(NamedTuple):
    """The recipients of an event."""

    #: The rooms whose subscribers receive it.
    rooms: tuple[Room, ...] = ()
    #: Whether clients without a filter receive it.
    unfiltered: bool = True
    #: Whether every client receives it, whatever its filters.
    everyone: bool = False


EVERYONE = Audience(everyone=True)


class Subscriptions(NamedTuple):
    """The subscriptions of one client."""

    #: The rooms whose events it receives.
    rooms: frozenset[Room] = frozenset()
    #: Whether it has no filter, and receives every event whose audience includes such clients.
    unfiltered: bool = True

    @classmethod
    def of(cls, filters: Mapping[str, Iterable[str]], selective: bool) -> Subscriptions:
        """Return the subscriptions of a client with these filters.

        A ``selective`` client has asked for rooms at some time: without filters it has no subscriptions left, while any other
        client without filters receives everything.
        """
        rooms = frozenset((key, value) for key, values in filters.items() for value in values)
        return cls(rooms, not rooms and not selective)

    def match(self, audience: Audience) -> bool:
        """Return whether the client receives an event; ``Rooms.recipients`` gives the same answer for many clients."""
        return audience.everyone or (self.unfiltered and audience.unfiltered) or not self.rooms.isdisjoint(audience.rooms)


def room_value(value: Any) -> str:
    """Return a filter value as the string that a URL contains, so that ``5``, a UUID or an enum equals what a browser sends."""
    return str(value.value if isinstance(value, enum.Enum) else value)


def is_room_name(value: str) -> bool:
    """Return whether a client may ask for a room of that name: whether it is short enough."""
    # Bytes, not characters, of which one may take four.
    if len(value) > MAX_ROOM_BYTES or value.isascii():
        return len(value) <= MAX_ROOM_BYTES
    return len(value.encode(errors="surrogatepass")) <= MAX_ROOM_BYTES


def room_values(key: str, value: Any) -> list[str]:
    """Return the strings of a filter value, or of each in an iterable of several.

    Raises ValueError for what stands for no room, so that no client would receive the event: None, no value, bytes, or an
    object that is no id.
    """
    if type(value) in _IDS:
        return [str(value)]
    several = isinstance(value, Iterable) and not isinstance(value, (str, enum.Enum, *_BYTES))
    values = [_checked(key, each) for each in (value if several else (value,))]
    if not values:
        raise ValueError(f"The filter {key!r} has no value, so no client would receive the event: give at least one")
    return values


# The usual ids, which need no check.
_IDS = frozenset({str, int, uuid.UUID})
_BYTES = (bytes, bytearray, memoryview)


def _checked(key: str, value: Any) -> str:
    plain = value.value if isinstance(value, enum.Enum) else value
    if plain is None:
        raise ValueError(f"The filter {key!r} has the value None, which no client can hold: give an id, or leave {key!r} out")
    if isinstance(plain, _BYTES):
        raise ValueError(f"The filter {key!r} has the value {plain!r}, but filters are strings: decode it, or give its UUID")
    # What has no string of its own but that of ``repr``, such as a row of an ORM; a number's is the number.
    unnamed = getattr(type(plain), "__str__", None) is object.__str__ and not isinstance(plain, numbers.Number)
    if unnamed or (isinstance(plain, Iterable) and not isinstance(plain, str)):
        raise ValueError(f"The filter {key!r} has the value {plain!r}, which is no id: give its id, as clients subscribe to it")
    return str(plain)


def with_rooms(filters: Filters, rooms: tuple[Room, ...]) -> Filters:
    """Return the filters with more rooms, after those that are there."""
    grown = {key: dict.fromkeys(values) for key, values in filters.items()}
    for key, value in rooms:
        grown.setdefault(key, {})[value] = None
    return {key: tuple(values) for key, values in grown.items()}


def without_rooms(filters: Filters, rooms: Collection[Room]) -> Filters:
    """Return the filters without some rooms."""
    left = {key: tuple(value for value in values if (key, value) not in rooms) for key, values in filters.items()}
    return {key: values for key, values in left.items() if values}


class Rooms(Generic[Member]):
    """The rooms of each member, and the members of each room. Dicts are used as ordered sets."""

    def __init__(self) -> None:
        self._held: dict[Member, frozenset[Room]] = {}
        self._members: dict[Room, dict[Member, None]] = {}
        self._unfiltered: dict[Member, None] = {}
        self._rooms_of_key: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._held)

    def join(self, member: Member, subscriptions: Subscriptions) -> None:
        """Put a member into the rooms of its subscriptions, and take it out of all others."""
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
        """Take a member out of all rooms; does nothing if it is in none."""
        for room in self._held.pop(member, ()):
            members = self._members[room]
            members.pop(member, None)
            if not members:
                del self._members[room]
                self._rooms_of_key[room[0]] -= 1
        self._unfiltered.pop(member, None)

    def holds(self, key: str) -> bool:
        """Return whether any member has a filter with that key. Any thread; the answer may be out of date."""
        return self._rooms_of_key.get(key, 0) > 0

    def recipients(self, audiences: Iterable[Audience]) -> dict[int, list[Member]]:
        """Return the recipients of a batch of events, grouped by the events that they receive.

        Each key is a recipient mask: bit *i* is set if the members receive the event with the *i*-th audience. Members that
        receive none are left out. Costs the members of the rooms that are named, not all members.
        """
        masks: dict[Audience, int] = {}
        for index, audience in enumerate(audiences):
            masks[audience] = masks.get(audience, 0) | 1 << index
        everyone = unfiltered = 0
        found: dict[Member, int] = {}
        for audience, mask in masks.items():
            if audience.everyone:
                everyone |= mask
                continue
            if audience.unfiltered:
                unfiltered |= mask
            for room in audience.rooms:
                for member in self._members.get(room, ()):
                    found[member] = found.get(member, 0) | mask
        groups: dict[int, list[Member]] = {}
        if everyone:
            for member in self._held:
                if member not in self._unfiltered:
                    groups.setdefault(everyone | found.get(member, 0), []).append(member)
        else:
            for member, mask in found.items():
                groups.setdefault(mask, []).append(member)
        if self._unfiltered and everyone | unfiltered:
            groups.setdefault(everyone | unfiltered, []).extend(self._unfiltered)
        return groups
