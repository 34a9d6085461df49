"""What presence costs: the work for a change, and the memory that is left of what has gone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cartows.presence import presence as presence_module
from cartows.presence import roster as roster_module
from cartows.presence.presence import Presence, PresenceEntry, PresenceReport
from tests.presence.members import BOARD, LEAVE_WAIT, Client, Clock, crowd, enter, remains
from tests.support.costs import Lines

MODULES = (presence_module, roster_module)


def report(*identities: str, **meta: int) -> PresenceReport:
    """Return a report of entries of another process."""
    return PresenceReport(
        "p", {f"p.{identity}": PresenceEntry(f"p.{identity}", BOARD, identity, meta) for identity in identities}
    )


@pytest.fixture
def costs() -> Iterator[list[int]]:
    """The cost of the same work among few and among many, which must be equal."""
    found: list[int] = []
    yield found
    assert 0 < found[0] == found[1], found


def test_a_change_costs_its_room_and_not_the_others(clock: Clock, costs: list[int]) -> None:
    for others in (10, 2000):
        presence: Presence[Client] = Presence(LEAVE_WAIT, 200, clock)
        for index in range(others):
            presence.enter(other := Client(f"other {index}"), ("board_id", f"other {index}"), {})
            presence.enter(Client("other"), ("board_id", f"other {index}"), {})
            presence.take_updates()
            if index % 2:
                clock.now += 0.0001
                presence.gone(other, at_once=False)
        members = crowd(presence, 5)
        with Lines(*MODULES) as lines:
            presence.enter(Client("ann"), BOARD, {})
            presence.take_updates()
            presence.leave(members[0], BOARD)
            presence.gone(members[1], at_once=True)
            presence.take_updates()
            presence.next_due()
        costs.append(lines.count)


def test_a_join_over_the_limit_does_not_cost_the_room(small: Presence[Client], clock: Clock, costs: list[int]) -> None:
    for size in (10, 2000):
        room = ("board_id", str(size))
        enter(small, *(Client(f"user {index}") for index in range(size)), room=room)
        enter(small, Client("the first to be counted"), room=room)
        with Lines(*MODULES) as lines:
            small.enter(Client("ann"), room, {})
            small.take_updates()
        costs.append(lines.count)
        # Shows that the count above would be different.
        clock.now += 1
        with Lines(*MODULES) as lines:
            small.take_updates()
        assert lines.count > size


def test_a_report_of_another_process_does_not_cost_its_other_entries(clock: Clock, costs: list[int]) -> None:
    for size in (10, 2000):
        presence: Presence[Client] = Presence(LEAVE_WAIT, 5000, clock)
        presence.apply([report(*map(str, range(size)))])
        enter(presence, Client("ann"))
        with Lines(*MODULES) as lines:
            presence.apply([report("ben"), report("1", at=2), PresenceReport("p", {"p.2": None})])
            presence.take_updates()
        costs.append(lines.count)


def test_a_member_that_returns_does_not_cost_the_entries_that_are_held_back(clock: Clock, costs: list[int]) -> None:
    for size in (10, 2000):
        presence: Presence[Client] = Presence(LEAVE_WAIT, 5000, clock)
        members = crowd(presence, size)
        for member in members:
            presence.gone(member, at_once=False)
        with Lines(*MODULES) as lines:
            presence.enter(Client(members[-2].identity), BOARD, {})
            presence.enter(Client("new"), BOARD, {})
        costs.append(lines.count)


def test_a_room_with_members_keeps_nothing_of_its_visitors(presence: Presence[Client], clock: Clock) -> None:
    enter(presence, Client("ann"))
    for index in range(300):
        presence.enter(visitor := Client(f"visitor {index}"), BOARD, {})
        presence.gone(visitor, at_once=False)
        for _ in range(3):
            presence.enter(passer := Client("passer"), BOARD, {})
            presence.take_updates()
            presence.leave(passer, BOARD)
        assert len(presence._schedule) <= 2
        clock.now += LEAVE_WAIT
        presence.take_updates()
    (roster,) = presence._rosters.values()
    assert sum(len(held) for held in vars(roster).values() if isinstance(held, dict)) == 3, vars(roster)


def test_what_is_left_of_empty_rooms_goes_with_time(presence: Presence[Client], clock: Clock) -> None:
    for index in range(1000):
        presence.enter(first := Client("ann"), ("board_id", str(index)), {})
        presence.gone(first, at_once=False)
        presence.enter(second := Client("ann"), ("board_id", str(index)), {})
        presence.leave(second, ("board_id", str(index)))
    presence.take_updates()
    assert presence.next_due() is None
    assert remains(presence) == {}
