"""What a client asks for in a ``subscribe`` or ``unsubscribe`` message, checked.

Threads: any; everything here is a value.
Locks: none.
Blocks: never.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from ..message import encoded_size
from ..rooms import Filters, Room, Subscriptions, room_value, without_rooms

__all__ = ["BadMessage", "Change", "Subscription", "TooManyRooms", "parse"]

# The most bytes, as JSON, that a client may show of itself in a room.
MAX_META = 1024

# The most characters that a room's name may have; Python refuses to write very large numbers.
MAX_NAME = 256
_MAX_BITS = 3 * MAX_NAME


class BadMessage(ValueError):
    """Say what is wrong with the message; ``details`` names the place."""

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message)
        self.details = details


class Subscription(NamedTuple):
    """Be one message of the two kinds."""

    rooms: tuple[Room, ...]
    #: The id behind which the rooms' past is asked for.
    since: str | None = None
    #: What the client shows of itself in these rooms; None when it shows nothing.
    meta: Mapping[str, Any] | None = None
    #: What the client calls the message by; stands in the answer.
    ref: str | None = None


class Change(NamedTuple):
    """Tell the hub thread what a client hears from now on."""

    subscriptions: Subscriptions
    filters: Filters
    #: What it heard until then.
    before: Subscriptions
    #: The type of the message that answers, None when nobody asked.
    answer: str | None = None
    subscription: Subscription = Subscription(())
    #: The rooms of the subscription have been taken from it: nothing more of them may reach it.
    revoked: bool = False

    def without(self, rooms: Collection[Room]) -> Change:
        """Return the change without these rooms in any part of it."""
        asked = tuple([room for room in self.subscription.rooms if room not in rooms])
        return self._replace(
            subscriptions=self.subscriptions._replace(rooms=self.subscriptions.rooms.difference(rooms)),
            filters=without_rooms(self.filters, rooms),
            before=self.before._replace(rooms=self.before.rooms.difference(rooms)),
            subscription=self.subscription._replace(rooms=asked),
        )


class TooManyRooms(Exception):
    """Say that a message names more rooms than a client may hold."""


def parse(data: Any, keys: Collection[str], *, joins: bool, most: int | None = None) -> Subscription:
    """Return what a message asks for; ``joins`` for ``subscribe``.

    Raises BadMessage, and TooManyRooms for more than ``most``, before each of them is looked at.
    """
    allowed = ", ".join(sorted(keys))
    if not isinstance(data, Mapping):
        raise BadMessage(f'Its "data" must be an object that names rooms, by {allowed}.')
    rooms: dict[Room, None] = {}
    since = meta = None
    named = [_count(value) for key, value in data.items() if key in keys]
    if most is not None and sum(named) > most:
        raise TooManyRooms
    for key, value in data.items():
        if key in keys:
            rooms.update(dict.fromkeys((key, each) for each in _values(key, value)))
        elif key == "since" and joins:
            # Whatever it is: an id that means nothing is answered with recovered: false.
            since = value if isinstance(value, str) else ""
        elif key == "presence" and joins:
            meta = _meta(value)
        else:
            raise BadMessage(f"Rooms go by {allowed}.", key[:100])
    if not rooms:
        raise BadMessage(f"It names no room; rooms go by {allowed}.")
    return Subscription(tuple(rooms), since, meta)


def _count(value: Any) -> int:
    """Return how many rooms are named; what can name none is found out later."""
    try:
        return len(set(value)) if isinstance(value, list) else 1
    except TypeError:
        return 1


def _values(key: str, value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(each, str) or (isinstance(each, int) and not isinstance(each, bool)) for each in values):
        raise BadMessage("A room is named by a text or a whole number, or by a list of them.", key)
    if not all(each.bit_length() <= _MAX_BITS if isinstance(each, int) else len(each) <= MAX_NAME for each in values):
        raise BadMessage(f"The name of a room may have {MAX_NAME} characters.", key)
    return [room_value(each) for each in values]


def _meta(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise BadMessage("What is shown of a client must be an object.", "presence")
    size = encoded_size(value)
    if size > MAX_META:
        raise BadMessage(f"What is shown of a client may have {MAX_META} bytes as JSON, not {size}.", "presence")
    return value
