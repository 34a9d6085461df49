"""The roster of a room that is too large for names: when its members get the count, and when names again."""

from __future__ import annotations

from cartows.presence.presence import Presence, PresenceUpdate
from tests.presence.members import BOARD, Client, Clock, crowd, deliver, enter, flat


def test_members_of_a_room_over_the_limit_get_counts_only(small: Presence[Client]) -> None:
    members = crowd(small, 4)
    last = Client("last")
    small.enter(last, BOARD, {})
    head = {"key": "board_id", "value": "b1", "count": 5}
    assert small.take_updates() == [
        PresenceUpdate([last], "presence.state", head),
        PresenceUpdate(members, "presence.diff", head),
    ]
    assert len(small.present(*BOARD)) == 5


def test_tabs_count_for_the_limit_whatever_their_identities(small: Presence[Client]) -> None:
    tabs = [Client("guest") for _ in range(5)]
    enter(small, *tabs[:4])
    small.enter(tabs[4], BOARD, {})
    # Members that had names must get the count, which ends them, though it is the same.
    head = {"key": "board_id", "value": "b1", "count": 1}
    assert small.take_updates() == [
        PresenceUpdate(tabs[4:], "presence.state", head),
        PresenceUpdate(tabs[:4], "presence.diff", head),
    ]


def test_counts_are_sent_once_per_second_at_most_and_the_last_always(small: Presence[Client], clock: Clock) -> None:
    members = crowd(small, 4)
    enter(small, Client("5"))
    start = clock.now
    for name in range(6, 10):
        clock.now += 0.2
        small.enter(late := Client(str(name)), BOARD, {})
        (state,) = small.take_updates()
        assert (state.members, state.data["count"]) == ([late], name)
        assert small.next_due() == start + 1
    clock.now = start + 1
    ((recipients, type, data),) = small.take_updates()
    assert (recipients[:4], type, data["count"]) == (members, "presence.diff", 9)
    # Without a change nothing is scheduled, and a change after a quiet second is sent at once.
    assert small.next_due() is None
    clock.now += 1
    assert small.take_updates() == []
    small.leave(members[0], BOARD)
    assert [each.data["count"] for each in small.take_updates()] == [8]


def test_a_newcomer_whose_count_is_outdated_gets_the_next_one(small: Presence[Client], clock: Clock) -> None:
    members = crowd(small, 6)
    enter(small, newcomer := Client("newcomer"))
    clock.now += 0.1
    small.enter(late := Client("late"), BOARD, {})
    deliver(small.take_updates())
    small.leave(members[0], BOARD)
    deliver(small.take_updates())
    assert late.rooms[BOARD].count == 8
    clock.now += 1
    deliver(small.take_updates())
    assert {member.rooms[BOARD].count for member in [*members[1:], newcomer, late]} == {7}


def test_a_new_meta_or_another_tab_does_not_change_the_count(small: Presence[Client], clock: Clock) -> None:
    members = crowd(small, 6)
    clock.now += 1
    deliver(small.take_updates())
    clock.now += 1
    small.enter(members[0], BOARD, {"at": 1})
    assert small.take_updates() == []
    small.enter(Client(members[0].identity), BOARD, {})
    (state,) = small.take_updates()
    assert state.type == "presence.state"
    assert small.next_due() is None


def test_members_of_a_room_that_has_shrunk_to_three_quarters_get_names_again(small: Presence[Client], clock: Clock) -> None:
    members = crowd(small, 6)
    clock.now += 1
    deliver(small.take_updates())
    small.enter(members[5], BOARD, {"at": 1})
    for member in members[:2]:
        small.leave(member, BOARD)
    # Four of four: a room about the limit does not change with every visitor.
    ((_, type, data),) = small.take_updates()
    assert (type, set(data)) == ("presence.diff", {"key", "value", "count"})
    small.leave(members[2], BOARD)
    updates = small.take_updates()
    deliver(updates)
    ((recipients, type, data),) = updates
    assert (recipients, type, data["present"]) == (members[3:], "presence.state", small.present(*BOARD))
    assert data["present"]["user 5"][0]["meta"] == {"at": 1}
    assert small.next_due() is None
    enter(small, newcomer := Client("newcomer"))
    assert members[5].rooms[BOARD].names == newcomer.rooms[BOARD].names == flat(small.present(*BOARD))


def test_members_of_a_room_that_fills_up_again_get_the_count(small: Presence[Client], clock: Clock) -> None:
    members = crowd(small, 5)
    for member in members[:2]:
        small.leave(member, BOARD)
    deliver(small.take_updates())
    clock.now += 1
    enter(small, Client("a"), Client("b"))
    # Five identities, as there were before: the count is the same, but it must be sent because it ends the names.
    assert small.take_updates() == []
    assert {member.rooms[BOARD].names is None for member in members[2:]} == {True}
