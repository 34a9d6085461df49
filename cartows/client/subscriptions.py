"""What one client is subscribed to: the filters it holds, and each change of them for the hub thread.

**Threads**: any.
**Locks**: ``_change_lock``, one for all clients, is held from the change of a client's filters until the hub has queued it, so
that the hub receives the changes in their order. The locks of the hub's revocations and of its broadcast queue are taken
within it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

from ..message import MessageType
from ..rooms import Filters, Room, Subscriptions, room_value, with_rooms, without_rooms

__all__ = ["ClientFilters", "SubscriptionChange", "SubscriptionRequest", "TooManyRooms"]

_change_lock = threading.Lock()


class SubscriptionRequest(NamedTuple):
    """One ``subscribe`` or ``unsubscribe`` message."""

    rooms: tuple[Room, ...]
    #: The id of the event after which the rooms are to be replayed.
    since: str | None = None
    #: The client's presence entry in these rooms; None for no entry.
    meta: Mapping[str, Any] | None = None
    #: The client's own name for the message; the answer repeats it.
    ref: str | None = None


_NO_REQUEST = SubscriptionRequest(())


class SubscriptionChange(NamedTuple):
    """One change of a client's subscriptions, for the hub thread to apply."""

    subscriptions: Subscriptions
    filters: Filters
    #: The subscriptions until then.
    before: Subscriptions
    #: The type of the message that answers; None when the client did not ask for the change.
    answer: str | None = None
    request: SubscriptionRequest = _NO_REQUEST
    #: The app no longer allows the rooms of the request: none of their events may reach the client after this.
    revoked: bool = False

    def without(self, rooms: Collection[Room]) -> SubscriptionChange:
        """Return the change without these rooms in any part of it."""
        requested = tuple([room for room in self.request.rooms if room not in rooms])
        return self._replace(
            subscriptions=self.subscriptions._replace(rooms=self.subscriptions.rooms.difference(rooms)),
            filters=without_rooms(self.filters, rooms),
            before=self.before._replace(rooms=self.before.rooms.difference(rooms)),
            request=self.request._replace(rooms=requested),
        )


class TooManyRooms(Exception):
    """A request names more rooms than a client may hold."""


class ClientFilters:
    """The filters that one client holds, and the subscriptions that follow from them.

    ``on_change`` hands each change to the hub.
    """

    __slots__ = ("_on_change", "_selective", "held")

    def __init__(self, on_change: Callable[[SubscriptionChange], None]) -> None:
        self._on_change = on_change
        #: The filters. Each change sets a new mapping, so that readers need no lock.
        self.held: Filters = {}
        #: A filter was set or removed once: without filters this client does not receive every event.
        self._selective = False

    @property
    def subscriptions(self) -> Subscriptions:
        """The subscriptions at this moment."""
        return Subscriptions.of(self.held, self._selective)

    def snapshot(self) -> Subscriptions:
        """Return the subscriptions once the change that is being made, if any, is complete."""
        with _change_lock:
            return self.subscriptions

    def set(self, key: str, value: Any) -> None:
        """Hold this value, or these values, for the key, in place of those held before."""
        several = isinstance(value, Iterable) and not isinstance(value, (str, bytes))
        values = tuple(dict.fromkeys(room_value(each) for each in (value if several else [value])))
        with _change_lock:
            filters = {**self.held, key: values}
            self._change_locked({each: held for each, held in filters.items() if held})

    def join(self, request: SubscriptionRequest, max_filters: int, is_revoked: Callable[[], bool]) -> bool:
        """Hold more rooms; the hub thread answers the client.

        Returns False, and changes nothing, when ``is_revoked`` returns True. Raises TooManyRooms.
        """
        with _change_lock:
            if is_revoked():
                return False
            filters = with_rooms(self.held, request.rooms)
            if sum([len(values) for values in filters.values()]) > max_filters:
                raise TooManyRooms
            self._change_locked(filters, MessageType.SUBSCRIBED.value, request)
            return True

    def leave(self, request: SubscriptionRequest, *, revoked: bool = False) -> None:
        """Hold fewer rooms; the hub thread answers the client. With ``revoked`` the app no longer allows them."""
        rooms = frozenset(request.rooms)
        with _change_lock:
            self._change_locked(without_rooms(self.held, rooms), MessageType.UNSUBSCRIBED.value, request, revoked)

    def _change_locked(
        self,
        filters: Filters,
        answer: str | None = None,
        request: SubscriptionRequest = _NO_REQUEST,
        revoked: bool = False,
    ) -> None:
        before = self.subscriptions
        self.held = filters
        # From the first change on: the client may be one that was allowed no room at all.
        self._selective = True
        self._on_change(SubscriptionChange(self.subscriptions, filters, before, answer, request, revoked))


def _unlock_in_child() -> None:
    # A thread that the child of a fork does not have may have held the lock.
    global _change_lock
    _change_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock_in_child)
