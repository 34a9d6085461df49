"""Clients with their pages, and what the tests of presence share."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

from cartows.presence.presence import Presence, PresenceUpdate
from cartows.rooms import Room

LEAVE_WAIT = 5.0

BOARD, OTHER = ("board_id", "b1"), ("project_id", "p1")

ids = itertools.count(1)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Received:
    """What a member has received about one room: its names by ref, None while it receives counts only."""

    count: int
    names: dict[str, tuple[str, Any]] | None


@dataclass(eq=False)
class Client:
    """A client and its page, which applies the messages and fails on those that are inconsistent."""

    identity: Any = None
    id: str = field(default_factory=lambda: f"client-{next(ids)}")
    rooms: dict[Room, Received] = field(default_factory=dict)

    @property
    def identity_key(self) -> str | None:
        return None if self.identity is None else str(self.identity)

    def receive(self, type: str, data: dict[str, Any]) -> None:
        room = data["key"], data["value"]
        if type == "presence.state":
            names = None
            if "present" in data:
                names = flat(data["present"])
                assert len(data["present"]) == data["count"]
            assert set(data) - {"present"} == {"key", "value", "count"}
            self.rooms[room] = Received(data["count"], names)
            return
        assert type == "presence.diff"
        known = self.rooms[room]
        known.count = data["count"]
        if set(data) == {"key", "value", "count"}:
            known.names = None
            return
        assert set(data) == {"key", "value", "count", "joins", "leaves"}
        assert known.names is not None, "a diff of names it does not have"
        joins, leaves = flat(data["joins"]), flat(data["leaves"])
        assert joins or leaves, "a diff of nothing"
        for ref, shown in joins.items():
            assert known.names.get(ref) != shown, "a join that changes nothing"
            known.names[ref] = shown
        for ref, shown in leaves.items():
            assert known.names.pop(ref) == shown
        assert len({identity for identity, _ in known.names.values()}) == known.count


def flat(shown: dict[str, list[dict[str, Any]]]) -> dict[str, tuple[str, Any]]:
    """Return the entries, which come by identity, by their ref."""
    found = {each["ref"]: (identity, each["meta"]) for identity, tabs in shown.items() for each in tabs}
    assert len(found) == sum(map(len, shown.values())), "a ref stands for two"
    assert all(shown.values()), "an identity without a tab"
    return found


def deliver(updates: list[PresenceUpdate]) -> dict[tuple[Client, Room], tuple[str, dict[str, Any]]]:
    """Deliver updates to their recipients; return what each received about each room, which is one message at most."""
    received: dict[tuple[Client, Room], tuple[str, dict[str, Any]]] = {}
    for members, type, data in updates:
        assert members, "an update without a recipient"
        for member in members:
            where = member, (data["key"], data["value"])
            assert where not in received, "two messages about one room"
            received[where] = type, data
            member.receive(type, data)
    return received


def remains(presence: Presence[Client]) -> dict[str, Any]:
    """Return what a presence still holds."""
    return {name: held for name, held in vars(presence).items() if isinstance(held, dict | list) and held}


def enter(presence: Presence[Client], *members: Client, room: Room = BOARD) -> None:
    """Put members into a room, and deliver the updates."""
    for member in members:
        presence.enter(member, room, {})
    deliver(presence.take_updates())


def crowd(presence: Presence[Client], number: int) -> list[Client]:
    members = [Client(f"user {index}") for index in range(number)]
    enter(presence, *members)
    return members
