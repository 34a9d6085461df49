"""Rooms: their recipients against a naive model, and that an event costs its recipients only."""

from __future__ import annotations

import enum
import uuid

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cartows import rooms as module_under_test
from cartows.rooms import EVERYONE, Audience, Rooms, Subscriptions, room_value
from tests.support.costs import Lines

KEYS = ["project_id", "board_id"]
VALUES = ["a", "b", "c"]
MEMBERS = st.integers(0, 7)
FILTERS = st.dictionaries(st.sampled_from(KEYS), st.lists(st.sampled_from(VALUES), unique=True, max_size=3).map(tuple))
# "d" is in no filter: an event for a room that does not exist.
AUDIENCES = st.builds(
    Audience,
    st.lists(st.tuples(st.sampled_from(KEYS), st.sampled_from([*VALUES, "d"])), max_size=3).map(tuple),
    st.booleans(),
    st.sampled_from([False, False, False, True]),
)


def subscribed(selective: bool = False, **filters: list[str]) -> Subscriptions:
    return Subscriptions.of(filters, selective)


def receives(filters: dict[str, tuple[str, ...]], selective: bool, audience: Audience) -> bool:
    """Return whether a client with these filters receives an event, in the simplest way."""
    held = {(key, value) for key, values in filters.items() for value in values}
    if audience.everyone:
        return True
    if not held:
        return audience.unfiltered and not selective
    return any(room in held for room in audience.rooms)


class RoomsModel(RuleBasedStateMachine):
    """The same calls on Rooms and on a plain dict; what each member receives must agree."""

    def __init__(self) -> None:
        super().__init__()
        self.rooms: Rooms[int] = Rooms()
        self.model: dict[int, tuple[dict[str, tuple[str, ...]], bool]] = {}

    @rule(member=MEMBERS, filters=FILTERS, selective=st.booleans())
    def join(self, member: int, filters: dict[str, tuple[str, ...]], selective: bool) -> None:
        self.rooms.join(member, Subscriptions.of(filters, selective))
        self.model[member] = filters, selective

    @rule(member=MEMBERS)
    def leave(self, member: int) -> None:
        self.rooms.leave(member)
        self.model.pop(member, None)

    @rule(audiences=st.lists(AUDIENCES, max_size=6))
    def send(self, audiences: list[Audience]) -> None:
        groups = self.rooms.recipients(audiences)
        grouped = [member for members in groups.values() for member in members]
        assert len(grouped) == len(set(grouped)), "a member is in two groups, or in one twice"
        found = {member: mask for mask, members in groups.items() for member in members}
        expected = {
            member: sum(1 << index for index, audience in enumerate(audiences) if receives(filters, selective, audience))
            for member, (filters, selective) in self.model.items()
        }
        alone = {
            member: sum(1 << index for index, each in enumerate(audiences) if Subscriptions.of(filters, selective).match(each))
            for member, (filters, selective) in self.model.items()
        }
        assert alone == expected, "one by one the answer differs from that of the index"
        assert found == {member: mask for member, mask in expected.items() if mask}

    @invariant()
    def counts_its_members(self) -> None:
        assert len(self.rooms) == len(self.model)

    @invariant()
    def agrees_which_keys_are_held(self) -> None:
        for key in KEYS:
            assert self.rooms.holds(key) == any(filters.get(key) for filters, _ in self.model.values())


RoomsModel.TestCase.settings = settings(
    deadline=None,
    report_multiple_bugs=False,
    max_examples=60,
    stateful_step_count=25,
    suppress_health_check=[HealthCheck.too_slow],
)
TestRoomsAgainstANaiveModel = RoomsModel.TestCase


def test_members_that_receive_the_same_are_one_group_in_the_order_in_which_they_joined() -> None:
    rooms: Rooms[str] = Rooms()
    rooms.join("first", subscribed(board_id=["a"]))
    rooms.join("second", subscribed(board_id=["a"]))
    rooms.join("both", subscribed(board_id=["a", "b"]))
    rooms.join("none", subscribed(board_id=["z"]))
    rooms.join("all", subscribed())
    events = [Audience((("board_id", "a"),)), Audience((("board_id", "b"),), unfiltered=False)]
    assert rooms.recipients(events) == {0b01: ["first", "second", "all"], 0b11: ["both"]}


def test_an_empty_room_is_dropped() -> None:
    rooms: Rooms[int] = Rooms()
    for value in range(1000):
        rooms.join(1, subscribed(board_id=[str(value)]))
    rooms.leave(1)
    assert not rooms.holds("board_id")
    assert len(rooms) == 0
    # More than a counter per key, left by members that have gone, would grow for as long as the server runs.
    assert sum(len(held) for held in vars(rooms).values()) <= 1


@pytest.mark.parametrize(
    "audience",
    [Audience((("board_id", "b1"),)), Audience((("board_id", "b1"), ("project_id", "p1")), unfiltered=False)],
)
def test_an_event_for_a_room_costs_its_members_and_not_the_others(audience: Audience) -> None:
    costs = []
    for others in (10, 3000):
        rooms: Rooms[int] = Rooms()
        for member in range(10):
            rooms.join(member, subscribed(board_id=["b1"]))
        for member in range(10, 10 + others):
            rooms.join(member, subscribed(board_id=[f"other {member % 100}"], project_id=["p2"]))
        with Lines(module_under_test) as lines:
            groups = rooms.recipients([audience] * 5)
        assert groups == {0b11111: list(range(10))}
        costs.append(lines.count)
    assert 0 < costs[0] == costs[1]


def test_an_event_for_everyone_costs_everyone() -> None:
    # Shows that the count above would be different.
    costs = []
    for others in (10, 1000):
        rooms: Rooms[int] = Rooms()
        for member in range(others):
            rooms.join(member, subscribed(board_id=["b1"]))
        with Lines(module_under_test) as lines:
            rooms.recipients([EVERYONE])
        costs.append(lines.count)
    assert costs[1] > 10 * costs[0]


class Kind(enum.Enum):
    A = "a"


def test_a_filter_value_is_the_string_that_a_url_contains() -> None:
    texts = {"b1": "b1", 5: "5", Kind.A: "a", uuid.UUID(int=1): "00000000-0000-0000-0000-000000000001"}
    for value, text in texts.items():
        assert room_value(value) == text, value
